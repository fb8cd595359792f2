"""Static weights under which every source lies equally far from the mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.distances import Distance, pairwise
from trainers.mixing.gate_loads import Layers, checked_layers, known_shares, of_layers
from trainers.mixing.simplex import even, require_finite, softmax
from trainers.mixing.static import PAPER


@dataclass(frozen=True)
class Balanced(MixingStrategy):
    """Static weights that make every source's summed gate-load distance to the mixture the same.

    With δ_ij the distance between the untrained model's gate loads (by probe) of sources i and j, the objective is

        V(w) = variance over i of  Σ_j w_j δ_ij,

    minimised over the simplex by gradient descent on the logits of w, from even weights; the best point on the way
    counts. This is how the paper's "variance of the summed distances" is read here: a source that is unlike the
    others gets more weight then, and the paper's own balanced weights (table 8) stand in the order of its gate-load
    ones. A source without a known load keeps 1 / K. Memory grows with K².

    Attributes:
        steps: steps of gradient descent.
        rate: its step size, on distances divided by their mean.
        distance, layers: as in `dynamic`.
    """

    name = "balanced"
    at_start = frozenset({"gate_load"})
    source = f"{PAPER}, equation 4 and table 8 (Balanced)"
    updates = False

    steps: int = 1000
    rate: float = 1.0
    distance: Distance = "l2"
    layers: Layers = "last"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise MoemixError(f"steps is {self.steps}; at least one is needed", where="balanced.steps")
        require_finite(self.rate, "balanced.rate", positive=True)
        object.__setattr__(self, "layers", checked_layers(self.layers, where="balanced.layers"))

    def init(self, sources: Sources) -> MixtureState:
        return MixtureState(even(len(sources.names)))

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        load_KLE = of_layers(seen.need("gate_load"), self.layers, where="balanced.layers")
        known_K, shares_LkE = known_shares(load_KLE)
        weights_K = state.weights.copy()
        if known_K.any():
            found = self._balance(pairwise(shares_LkE, self.distance))
            weights_K[known_K] = found * state.weights[known_K].sum()
        return MixtureState(weights_K / weights_K.sum())

    def _balance(self, distance_KK: Floats) -> Floats:
        count, scale = len(distance_KK), distance_KK.mean()
        best_K, best = even(count), imbalance(distance_KK, even(count))
        if not scale > 0:
            return best_K
        logits_K = np.zeros(count)
        for _ in range(self.steps):
            weights_K = softmax(logits_K)
            if (reached := imbalance(distance_KK, weights_K)) < best:
                best_K, best = weights_K, reached
            far_K = distance_KK @ weights_K / scale
            pull_K = distance_KK @ (far_K - far_K.mean()) / scale  # the gradient by w, up to a factor of 2 / K
            logits_K -= self.rate * weights_K * (pull_K - weights_K @ pull_K)
        return best_K


def imbalance(distance_KK: Floats, weights_K: Floats) -> float:
    """V(w): how unequally far the K sources lie from the mixture."""
    return float(np.var(distance_KK @ weights_K))
