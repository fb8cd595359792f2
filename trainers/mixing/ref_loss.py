"""Sources whose loss lies furthest above what a finished uniform run came to get more weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import even, filled, last_known, require_finite, require_share, reweigh
from trainers.mixing.static import PAPER


@dataclass(frozen=True)
class RefLoss(MixingStrategy):
    """Weight moves to sources whose training loss is far above that of a finished `uniform` run.

    Algorithm 1 with Δ_i = loss_i − reference_i: training loss since the last update (the last known one where a
    source was not seen) less the uniform run's last loss of that source. A source whose loss or reference is unknown
    takes the mean Δ of the others.

    Attributes:
        eta: step size η on the difference of losses.
        c: share of the weights that is spread evenly.
    """

    name = "ref_loss"
    signals = frozenset({"train_loss"})
    source = f"{PAPER}, table 1 (RefLoss); after Xia et al. 2023 (arXiv:2310.06694)"
    needs = "uniform"

    eta: float = 1.0
    c: float = 1e-4

    def __post_init__(self) -> None:
        require_finite(self.eta, "ref_loss.eta")
        require_share(self.c, "ref_loss.c")

    def init(self, sources: Sources) -> MixtureState:
        reference_K = sources.need_reference(self.name).losses.astype(np.float64)
        return MixtureState(even(len(sources.names)), {"reference": reference_K})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        loss_K = last_known(seen.need("train_loss"), state.memory.get("loss"))
        gain_K = filled(loss_K - state.memory["reference"])
        return MixtureState(reweigh(state.weights, self.eta * gain_K, self.c), {**state.memory, "loss": loss_K})
