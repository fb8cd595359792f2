"""Weights from one look at the untrained model or at the texts: static, or where `dynamic` starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.distances import Aggregate, Distance, dissimilarity
from trainers.mixing.dynamic import Dynamic
from trainers.mixing.simplex import even, require_finite, require_share, reweigh
from trainers.mixing.static import PAPER


@dataclass(frozen=True)
class GateLoadStatic(Dynamic):
    """One `dynamic` update with the untrained model's gate load (by probe), then nothing changes any more."""

    name = "gate_load_static"
    signals = frozenset()
    at_start = frozenset({"gate_load"})
    source = f"{PAPER}, table 2 (GateLoadStatic)"
    updates = False


@dataclass(frozen=True)
class SentenceEmbedding(MixingStrategy):
    """One `dynamic` update with mean sentence embeddings in the place of gate loads, then nothing changes any more.

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
        require_finite(self.eta, f"{self.name}.eta")
        require_share(self.c, f"{self.name}.c")

    def init(self, sources: Sources) -> MixtureState:
        return MixtureState(even(len(sources.names)))

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        delta_K = _embedding_delta(seen.need("embedding"), self.distance, self.aggregate)
        return MixtureState(reweigh(state.weights, self.eta * delta_K, self.c))


@dataclass(frozen=True)
class DynamicFromSentenceEmbedding(Dynamic):
    """`dynamic`, started from the weights of `sentence_embedding`."""

    name = "dynamic_from_sentence_embedding"
    at_start = frozenset({"embedding"})
    source = f"{PAPER}, table 2 (Dynamic from SentEmb)"

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        delta_K = _embedding_delta(seen.need("embedding"), self.distance, self.aggregate)
        return MixtureState(reweigh(state.weights, self.eta * delta_K, self.c))


def _embedding_delta(embedding_KD: NDArray[np.float32], distance: Distance, aggregate: Aggregate) -> Floats:
    """Δ f64[K] of mean embeddings; the mean of the others where one is all zero, which is how unknown is told."""
    known_K = embedding_KD.any(axis=1)
    delta_K = np.zeros(len(embedding_KD))
    if known_K.any():
        known = dissimilarity(embedding_KD[known_K].astype(np.float64)[None], distance, aggregate)
        delta_K[known_K], delta_K[~known_K] = known, known.mean()
    return delta_K
