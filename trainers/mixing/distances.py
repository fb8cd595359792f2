"""How far each source's gate load lies from all others, without ever holding K×K×E numbers, or K×K."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from trainers.mixing.base import Floats

Distance = Literal["l2", "cos"]
Aggregate = Literal["mean", "min", "max"]

_AGGREGATES: dict[Aggregate, Callable[..., Floats]] = {"mean": np.mean, "min": np.min, "max": np.max}

# Up to here differences are taken one by one, exact to rounding; beyond, from inner products. Those lose up to
# 1e-8 of a distance between loads that are almost the same, which moves a weight by less than one part in 1e7.
_EXACT_SOURCES = 256
_BLOCK = 512


def dissimilarity(shares_LKE: Floats, distance: Distance, aggregate: Aggregate) -> Floats:
    """Δ f64[K]: how unlike the others each source's gate load is, averaged over layers before it is aggregated.

    ``l2``: Δ_i = aggregate_j ‖s_i − s_j‖₂. ``cos``: Δ_i = 1 − aggregate_j cos(s_i, s_j).
    j runs over all K sources, i itself included, as in the paper's released code: under ``min`` (``l2``) and ``max``
    (``cos``) the own entry always wins and Δ is zero.

    Args:
        shares_LKE: f64[L, K, E], each source's share of tokens by expert, one distribution per layer.
    """
    blocks = _cosine_blocks(shares_LKE) if distance == "cos" else _l2_blocks(shares_LKE)
    aggregated_K = np.concatenate([_AGGREGATES[aggregate](rows_BK, axis=1) for rows_BK in blocks])
    return 1.0 - aggregated_K if distance == "cos" else aggregated_K


def pairwise(shares_LKE: Floats, distance: Distance) -> Floats:
    """δ f64[K, K], averaged over layers: for the few strategies that cannot do without every pair."""
    if distance == "cos":
        return 1.0 - np.concatenate(list(_cosine_blocks(shares_LKE)))
    return np.concatenate(list(_l2_blocks(shares_LKE)))


def _l2_blocks(shares_LKE: Floats) -> Iterator[Floats]:
    """Rows of the mean distance matrix over layers, some [B, K] at a time."""
    layers, count, _ = shares_LKE.shape
    if count <= _EXACT_SOURCES:
        for i in range(count):
            yield np.linalg.norm(shares_LKE - shares_LKE[:, i : i + 1], axis=2).mean(axis=0, keepdims=True)
        return
    # Distances do not feel a shift, and inner products of centred loads are small and lose fewer digits.
    centred_LKE = shares_LKE - shares_LKE.mean(axis=1, keepdims=True)
    squares_LK = np.einsum("lke,lke->lk", centred_LKE, centred_LKE)
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        total_BK = np.zeros((block.stop - start, count))
        for centred_KE, squares_K in zip(centred_LKE, squares_LK, strict=True):
            squared_BK = centred_KE[block] @ centred_KE.T
            squared_BK *= -2.0
            squared_BK += squares_K
            squared_BK += squares_K[block, None]
            np.maximum(squared_BK, 0.0, out=squared_BK)
            total_BK += np.sqrt(squared_BK, out=squared_BK)
        total_BK[np.arange(block.stop - start), np.arange(start, block.stop)] = 0.0
        yield total_BK / layers


def _cosine_blocks(shares_LKE: Floats) -> Iterator[Floats]:
    """Rows of the mean cosine matrix over layers, some [B, K] at a time."""
    unit_LKE = shares_LKE / np.linalg.norm(shares_LKE, axis=2, keepdims=True)
    for start in range(0, shares_LKE.shape[1], _BLOCK):
        cosine_LBK = (unit_KE[start : start + _BLOCK] @ unit_KE.T for unit_KE in unit_LKE)
        yield np.minimum(sum(cosine_LBK) / len(unit_LKE), 1.0)
