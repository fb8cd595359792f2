"""DoReMi: sources whose loss lies above a reference model's count for more in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import even, filled, require_finite, require_share, reweigh


@dataclass(frozen=True)
class DoReMi(MixingStrategy):
    """Sources far above a reference model count for more in the loss; draws stay even.

    The proxy training of DoReMi: with λ_i the mean over target tokens of max(loss − the reference model's, 0),

        α ← (1 − ε) norm(α e^{ηλ}) + ε / K.

    The weights scale the loss: a token of source i counts α_i K times in the mean over the batch's targets, which is
    normalised by the sum of these factors, as in the authors' trainer. Variant: λ is measured on held-out examples
    before each update instead of on every minibatch, and the reference model is the finished `uniform` run. The mean
    of α over all updates, which the paper hands to the final training, is reported as the run's average weights.

    Attributes:
        eta: step size η.
        epsilon: share of the weights that is spread evenly, ε.
    """

    name = "doremi"
    signals = frozenset({"excess_loss"})
    source = "Xie et al. 2023, DoReMi (arXiv:2305.10429), Algorithm 1; excess loss on held-out examples"
    scales = "loss"
    needs = "uniform"

    eta: float = 1.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        require_finite(self.eta, "doremi.eta")
        require_share(self.epsilon, "doremi.epsilon")

    def init(self, sources: Sources) -> MixtureState:
        sources.need_reference(self.name)
        weights_K = even(len(sources.names))
        return MixtureState(weights_K, {"mean": weights_K.copy(), "updates": np.array(0)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        excess_K = filled(seen.need("excess_loss"))
        return averaged(reweigh(state.weights, self.eta * excess_K, self.epsilon), state)

    def average(self, state: MixtureState) -> Floats | None:
        return state.memory["mean"]


def averaged(weights_K: Floats, before: MixtureState) -> MixtureState:
    """New weights, with their mean over all updates so far in the memory."""
    updates = int(before.memory["updates"]) + 1
    mean_K = before.memory["mean"] + (weights_K - before.memory["mean"]) / updates if updates > 1 else weights_K
    return MixtureState(weights_K, {**before.memory, "mean": mean_K.copy(), "updates": np.array(updates)})
