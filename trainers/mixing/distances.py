"""How far each source's gate load or embedding lies from those of the other sources.

Shapes: K sources, L layers, E experts (or embedding dimensions), B sources of one block. No array of K × K × E numbers
is ever created, and one of K × K only by :func:`pairwise`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError, unknown
from trainers.mixing.base import Floats, Ints

Distance = Literal["l2", "cos"]
Aggregate = Literal["mean", "min", "max"]
Layers = Literal["last", "all"] | tuple[int, ...]
"""The MoE layers to compare: the last, all, or a list of indices (negative from the end)."""

_AGGREGATES: dict[Aggregate, Callable[..., Floats]] = {"mean": np.mean, "min": np.min, "max": np.max}

# With at most so many sources differences are computed one by one, exact to rounding; with more, from inner products.
# Those lose up to 1e-8 of a distance between almost equal loads, which moves a weight by less than one part in 1e7.
_EXACT_SOURCES = 256
_BLOCK = 512


def check_layers(layers: Layers, *, where: str) -> Layers:
    """Return the option ``layers`` in its stored form, with a tuple for a list.

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


def select_layers(load: Ints, layers: Layers, *, where: str) -> Ints:
    """Return the gate load of the chosen layers, i64[K, chosen, E], of i64[K, L, E].

    Raises:
        MoemixError: the model has no such layer.
    """
    count = load.shape[1]
    named = {"last": (-1,), "all": tuple(range(count))}
    indices = layers if isinstance(layers, tuple) else named[layers]
    for index in indices:
        if not -count <= index < count:
            raise MoemixError(f"there is no MoE layer {index}", where=where, hint=f"the model has {count}")
    return load[:, list(indices)]


def known_shares(load: Ints) -> tuple[NDArray[np.bool_], Floats]:
    """Return which sources have a gate load in every layer, bool[K], and the shares of those, f64[L, known, E]."""
    total = load.sum(axis=2)
    known = total.all(axis=1)
    shares = load[known] / total[known][:, :, None]
    return known, shares.transpose(1, 0, 2)


def gate_load_distance(load: Ints, distance: Distance, aggregate: Aggregate) -> Floats:
    """Return Δ, f64[K], of gate loads i64[K, L, E].

    A source without a known load gets the mean Δ of the others; all are zero where no load is known.
    """
    known, shares = known_shares(load)
    return _filled(known, shares, distance, aggregate)


def embedding_distance(embedding: NDArray[np.float32], distance: Distance, aggregate: Aggregate) -> Floats:
    """Return Δ, f64[K], of mean embeddings f32[K, D]; an embedding of zeros is unknown and gets the mean Δ."""
    known: NDArray[np.bool_] = np.any(embedding, axis=1)
    return _filled(known, embedding[known].astype(np.float64)[None], distance, aggregate)


def _filled(known: NDArray[np.bool_], shares: Floats, distance: Distance, aggregate: Aggregate) -> Floats:
    delta = np.zeros(len(known))
    if known.any():
        computed = dissimilarity(shares, distance, aggregate)
        delta[known], delta[~known] = computed, computed.mean()
    return delta


def dissimilarity(shares: Floats, distance: Distance, aggregate: Aggregate) -> Floats:
    """Return Δ, f64[K]: how unlike the others each source's gate load is.

    Distances are averaged over layers before they are aggregated over sources. ``l2``: Δ_i = aggregate_j ‖s_i − s_j‖₂.
    ``cos``: Δ_i = 1 − aggregate_j cos(s_i, s_j). As in the paper's released code, j runs over all K sources, including
    i itself. Under ``min`` (``l2``) and ``max`` (``cos``) that entry always wins, and Δ is zero.

    ``shares``, f64[L, K, E], is each source's share of tokens by expert, one distribution per layer.
    """
    blocks = _cosine_blocks(shares) if distance == "cos" else _l2_blocks(shares)
    aggregated = np.concatenate([_AGGREGATES[aggregate](rows, axis=1) for rows in blocks])
    return 1.0 - aggregated if distance == "cos" else aggregated


def pairwise(shares: Floats, distance: Distance) -> Floats:
    """Return the distance of every pair, f64[K, K], averaged over layers, of shares f64[L, K, E]."""
    if distance == "cos":
        return 1.0 - np.concatenate(list(_cosine_blocks(shares)))
    return np.concatenate(list(_l2_blocks(shares)))


def _l2_blocks(shares: Floats) -> Iterator[Floats]:
    """Yield the rows of the mean distance matrix over layers, f64[B, K] at a time."""
    layers, count, _ = shares.shape
    if count <= _EXACT_SOURCES:
        for i in range(count):
            yield np.linalg.norm(shares - shares[:, i : i + 1], axis=2).mean(axis=0, keepdims=True)
        return
    # A shift does not change distances, and inner products of centred loads are small and lose fewer digits.
    centred = shares - shares.mean(axis=1, keepdims=True)
    squares = np.einsum("lke,lke->lk", centred, centred)
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        total = np.zeros((block.stop - start, count))
        for loads, square in zip(centred, squares, strict=True):
            squared = loads[block] @ loads.T
            squared *= -2.0
            squared += square
            squared += square[block, None]
            np.maximum(squared, 0.0, out=squared)
            total += np.sqrt(squared, out=squared)
        total[np.arange(block.stop - start), np.arange(start, block.stop)] = 0.0
        yield total / layers


def _cosine_blocks(shares: Floats) -> Iterator[Floats]:
    """Yield the rows of the mean cosine matrix over layers, f64[B, K] at a time."""
    unit = shares / np.linalg.norm(shares, axis=2, keepdims=True)
    for start in range(0, shares.shape[1], _BLOCK):
        cosines = (loads[start : start + _BLOCK] @ loads.T for loads in unit)
        yield np.minimum(sum(cosines) / len(unit), 1.0)
