"""The paper's dynamic mixing, its variants and its controls: weights from distances between the sources."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import unknown
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.distances import (
    Aggregate,
    Distance,
    Layers,
    check_layers,
    embedding_distance,
    gate_load_distance,
    known_shares,
    pairwise,
    select_layers,
)
from trainers.mixing.regime import Regime
from trainers.mixing.simplex import Initial, check_options, even, initial_weights, normalised, reweigh, softmax
from trainers.mixing.static import PAPER

_TIE = 1e-12  # relative difference below which two distances are the same up to rounding


@dataclass(frozen=True)
class Dynamic(MixingStrategy):
    """Weight moves to sources whose gate load is unlike the others' (Algorithm 1).

    With the gate load of source i normalised over experts, and Δ_i its mean distance to all sources (itself included),

        α = softmax(log w + η Δ),   w' = (1 − c) α + c / K.

    A source without a single token in the observation keeps its last known load. If there is none either, it takes
    the mean Δ of the others.

    Attributes:
        eta: step size η on the distances.
        c: share of the weights that is spread evenly; every source keeps at least c / K.
        distance: ``l2``, or ``cos`` (one minus the cosine).
        aggregate: how a source's distances to all sources become one number.
        layers: the MoE layers to compare: ``last``, ``all``, or a list of indices (negative from the end). Distances
            are averaged over layers, so η means the same for any number of layers.
        initial: weights to start from, by source name or in the order of the names; None for even weights.
    """

    name = "dynamic"
    signals = frozenset({"gate_load"})
    source = f"{PAPER}, Algorithm 1"

    eta: float = 10.0
    c: float = 0.05
    distance: Distance = "l2"
    aggregate: Aggregate = "mean"
    layers: Layers = "last"
    initial: Initial = None

    def __post_init__(self) -> None:
        check_options(self, eta="not negative", c="share")
        for option, choices in (("distance", ("l2", "cos")), ("aggregate", ("mean", "min", "max"))):
            if getattr(self, option) not in choices:
                raise unknown(option, getattr(self, option), choices, where=f"{self.name}.{option}")
        object.__setattr__(self, "layers", check_layers(self.layers, where=f"{self.name}.layers"))

    def init(self, sources: Sources) -> MixtureState:
        """Return the initial weights."""
        return MixtureState(initial_weights(sources.names, self.initial, where=f"{self.name}.initial"))

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources whose gate load is unlike the others'."""
        load = select_layers(seen.need("gate_load"), self.layers, where=f"{self.name}.layers")
        present = load.sum(axis=2).all(axis=1)
        if "gate_load" in state.memory:
            load = np.where(present[:, None, None], load, state.memory["gate_load"])
        gain = self._gain(gate_load_distance(load, self.distance, self.aggregate))
        return MixtureState(reweigh(state.weights, self.eta * gain, self.c), {"gate_load": load})

    def regime(self, before: MixtureState, after: MixtureState) -> Regime | None:
        """Return how hard an update pulled, and where that leads; None if it did not look at gate loads."""
        if "gate_load" not in after.memory:
            return None
        delta = gate_load_distance(after.memory["gate_load"], self.distance, self.aggregate)
        return Regime(before.weights, self.eta * self._gain(delta), self.c)

    def advice(self, sources: Sources) -> str | None:
        """Say that distances cannot tell fewer than three sources apart."""
        if len(sources.names) >= 3:
            return None
        return (
            f"`{self.name}` compares sources with each other, and of two each is as far from the other: "
            f"with {len(sources.names)} the weights cannot leave an even split; give at least three sources"
        )

    def _gain(self, delta: Floats) -> Floats:
        """Return what moves the weights, f64[K], given the distances Δ."""
        return delta


@dataclass(frozen=True)
class Inverse(Dynamic):
    """`dynamic` with the ranking of the distances reversed: weight moves to the most redundant sources.

    The k-th smallest Δ goes to the source that has the k-th largest. Sources with equal Δ share what falls to them
    evenly, so their order has no effect.
    """

    name = "inverse"
    source = f"{PAPER}, table 5 (Inverse)"

    def _gain(self, delta: Floats) -> Floats:
        order = np.argsort(delta, kind="stable")
        ascending = delta[order]
        starts = np.r_[True, np.diff(ascending) > _TIE * np.abs(ascending[-1])]
        group = np.cumsum(starts) - 1
        shared = np.bincount(group, ascending[::-1]) / np.bincount(group)
        reverse = np.empty_like(delta)
        reverse[order] = shared[group]
        return reverse


@dataclass(frozen=True)
class GateLoadStatic(Dynamic):
    """One `dynamic` update with the untrained model's gate load (by probe); then weights stay fixed."""

    name = "gate_load_static"
    signals = frozenset()
    at_start = frozenset({"gate_load"})
    source = f"{PAPER}, table 2 (GateLoadStatic)"
    updates = False


def _move_by_embedding(rule: Dynamic | SentenceEmbedding, state: MixtureState, seen: Observation) -> MixtureState:
    """Move weight to the sources whose mean sentence embedding is far from the others'."""
    delta = embedding_distance(seen.need("embedding"), rule.distance, rule.aggregate)
    return MixtureState(reweigh(state.weights, rule.eta * delta, rule.c))


@dataclass(frozen=True)
class DynamicFromSentenceEmbedding(Dynamic):
    """`dynamic`, started from the weights of `sentence_embedding`."""

    name = "dynamic_from_sentence_embedding"
    at_start = frozenset({"embedding"})
    source = f"{PAPER}, table 2 (Dynamic from SentEmb)"

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources whose embedding is unlike the others'."""
        return _move_by_embedding(self, state, seen)


@dataclass(frozen=True)
class SentenceEmbedding(MixingStrategy):
    """One `dynamic` update with mean sentence embeddings instead of gate loads; then weights stay fixed.

    Δ_i is the mean distance of source i's mean embedding (all-MiniLM-L6-v2, each sentence of unit length) to those of
    all sources. A source without an embedding takes the mean Δ of the others.

    Attributes:
        eta, c, distance, aggregate: as in `dynamic`.
    """

    name = "sentence_embedding"
    at_start = frozenset({"embedding"})
    source = f"{PAPER}, table 2 (SentEmb)"
    updates = False

    eta: float = 10.0
    c: float = 0.05
    distance: Distance = "l2"
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        check_options(self, eta="not negative", c="share")

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources whose embedding is unlike the others'."""
        return _move_by_embedding(self, state, seen)


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
