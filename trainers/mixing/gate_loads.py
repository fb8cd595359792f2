"""What strategies that look at gate load share: which layers they look at, and how unlike the sources are there."""

from __future__ import annotations

from typing import Literal

import numpy as np

from harness.errors import MoemixError, unknown
from trainers.mixing.base import Floats, Ints
from trainers.mixing.distances import Aggregate, Distance, dissimilarity

Layers = Literal["last", "all"] | tuple[int, ...]
"""MoE layers to look at: the last, all, or a list of indices (negative from the end)."""


def checked_layers(layers: Layers, *, where: str) -> Layers:
    """The layers as an option holds them.

    Raises:
        MoemixError: an unknown word, or an empty list.
    """
    if isinstance(layers, str):
        if layers not in ("last", "all"):
            raise unknown("layers", layers, ("last", "all"), where=where)
        return layers
    if not layers:
        raise MoemixError("the list of layers is empty", where=where)
    return tuple(layers)


def of_layers(load_KLE: Ints, layers: Layers, *, where: str) -> Ints:
    """The gate load of the chosen layers.

    Raises:
        MoemixError: the model has no such layer.
    """
    count = load_KLE.shape[1]
    named = {"last": (-1,), "all": tuple(range(count))}
    indices = layers if isinstance(layers, tuple) else named[layers]
    for index in indices:
        if not -count <= index < count:
            raise MoemixError(f"there is no MoE layer {index}", where=where, hint=f"the model has {count}")
    return load_KLE[:, list(indices)]


def known_shares(load_KLE: Ints) -> tuple[np.ndarray, Floats]:
    """Which sources' load is known in every layer, bool[K], and of those each one's distributions, f64[L, k, E]."""
    total_KL = load_KLE.sum(axis=2)
    known_K = total_KL.all(axis=1)
    shares_KLE = load_KLE[known_K] / total_KL[known_K][:, :, None]
    return known_K, shares_KLE.transpose(1, 0, 2)


def delta(load_KLE: Ints, distance: Distance, aggregate: Aggregate) -> Floats:
    """Δ f64[K] of gate loads; the mean of the others where a source's load is unknown, all zero where none is known."""
    known_K, shares_LkE = known_shares(load_KLE)
    delta_K = np.zeros(len(load_KLE))
    if known_K.any():
        known = dissimilarity(shares_LkE, distance, aggregate)
        delta_K[known_K], delta_K[~known_K] = known, known.mean()
    return delta_K
