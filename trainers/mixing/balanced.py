"""Static weights under which every source lies equally far from the mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation
from trainers.mixing.distances import Distance, Layers, check_layers, known_shares, pairwise, select_layers
from trainers.mixing.simplex import check_options, even, normalised, softmax
from trainers.mixing.static import PAPER


@dataclass(frozen=True)
class Balanced(MixingStrategy):
    """Static weights that make every source's summed gate-load distance to the mixture the same.

    With δ_ij the distance between the untrained model's gate loads (by probe) of sources i and j, the objective is

        V(w) = variance over i of  Σ_j w_j δ_ij,

    minimised over the simplex by gradient descent on the logits of w, from even weights; the best point on the way
    is returned. This is our reading of the paper's "variance of the summed distances": a source that is unlike the
    others then gets more weight, and the paper's own balanced weights (table 8) have the same order as its gate-load
    ones. A source without a known load keeps 1 / K. Memory grows with K².

    Attributes:
        steps: steps of gradient descent.
        rate: its step size, for distances divided by their mean.
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
        check_options(self, steps="at least 1", rate="positive")
        object.__setattr__(self, "layers", check_layers(self.layers, where="balanced.layers"))

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Return the balanced weights of the untrained model's gate loads."""
        load = select_layers(seen.need("gate_load"), self.layers, where="balanced.layers")
        known, shares = known_shares(load)
        weights = state.weights.copy()
        if known.any():
            weights[known] = self._balance(pairwise(shares, self.distance)) * state.weights[known].sum()
        return MixtureState(normalised(weights))

    def _balance(self, distance: Floats) -> Floats:
        count, scale = len(distance), distance.mean()
        best, lowest = even(count), imbalance(distance, even(count))
        if not scale > 0:
            return best
        logits = np.zeros(count)
        for _ in range(self.steps):
            weights = softmax(logits)
            if (value := imbalance(distance, weights)) < lowest:
                best, lowest = weights, value
            summed = distance @ weights / scale
            gradient = distance @ (summed - summed.mean()) / scale  # with respect to w, up to a factor of 2 / K
            logits -= self.rate * weights * (gradient - weights @ gradient)
        return best


def imbalance(distance: Floats, weights: Floats) -> float:
    """Return V(w), how unequally far the K sources lie from the mixture, of distances f64[K, K]."""
    return float(np.var(distance @ weights))
