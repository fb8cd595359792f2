"""Weight moves to sources whose held-out loss lies above what a finished uniform run came to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import even, filled, last_known, require_finite, require_share, reweigh


@dataclass(frozen=True)
class Sheared(MixingStrategy):
    """Weight moves to sources whose held-out loss is above its target, the loss of a finished `uniform` run.

    Dynamic batch loading, w ← (1 − c) softmax(log w + η (ℓ − target)) + c / K, with held-out losses ℓ. Variant: the
    difference is not clipped at zero, so that weight also leaves a source that is below its target; targets are the
    finished `uniform` model's losses on held-out examples instead of a scaling law's predictions.

    Attributes:
        eta: step size η.
        c: share of the weights that is spread evenly.
    """

    name = "sheared"
    signals = frozenset({"probe_loss"})
    at_start = frozenset({"reference_loss"})
    source = "Xia et al. 2023, Sheared LLaMA (arXiv:2310.06694), Algorithm 1, without its clipping at zero"
    needs = "uniform"

    eta: float = 1.0
    c: float = 1e-4

    def __post_init__(self) -> None:
        require_finite(self.eta, f"{self.name}.eta")
        require_share(self.c, f"{self.name}.c")

    def init(self, sources: Sources) -> MixtureState:
        sources.need_reference(self.name)
        unknown_K = np.full(len(sources.names), np.nan)
        return MixtureState(even(len(sources.names)), {"target": unknown_K, "loss": unknown_K.copy()})

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        target_K = seen.need("reference_loss").astype(np.float64)
        return MixtureState(state.weights, {**state.memory, "target": target_K.copy()})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        loss_K = last_known(seen.need("probe_loss"), state.memory["loss"])
        gain_K = filled(loss_K - state.memory["target"])
        return MixtureState(reweigh(state.weights, self.eta * gain_K, self.c), {**state.memory, "loss": loss_K})


@dataclass(frozen=True)
class VersaTune(Sheared):
    """Weights grow by e to the held-out loss less that of a finished `uniform` run: w ∝ w e^{σ (ℓ − ℓ_ref)}.

    The learnable potential of VersaTune's domain-robust training as a multiplicative rule; the reference is the
    finished `uniform` model on the same held-out examples.

    Attributes:
        eta: σ, the strength of an update.
        c: share of the weights that is spread evenly (none in the paper).
    """

    name = "versatune"
    source = "Lu et al. 2024, VersaTune (arXiv:2411.11266): w ∝ w exp(loss − reference loss), held-out losses"

    c: float = 0.0
