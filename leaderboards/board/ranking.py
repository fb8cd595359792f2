"""Ranks of many submissions: which differ significantly, paired by question, corrected for every pair of a column.

A score is ``Σ_t a_t · mean_q x_tq`` (:mod:`leaderboards.statistics`). With the questions of each task centred, scaled
by ``a_t · sqrt(G_t / (G_t - 1)) / n_t`` and summed over clusters of equal questions, a submission becomes a vector z
with ``|z|`` the standard error of its score and ``|z_i - z_j|`` that of a paired difference, so all pairs are one
product of matrices. The t quantiles take the smallest task's degrees of freedom; Satterthwaite's are never below.

The rank of a submission is 1 + how many are significantly better; its worst rank how many are not significantly worse.
Pairs are tested as one family per column by Holm's method, so all ranks of a column hold together with 95 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from harness.statistics.estimates import ALPHA

BLOCK = 512
NEGLIGIBLE = 1e-12
_BINS, _HIGHEST = 20_000, 40.0  # of |t|; beyond it every pair is significant


@dataclass(frozen=True)
class Part:
    """A task's share in a column's scores.

    Attributes:
        weight: ``a_t``.
        scores: f64[N, n], a row per submission.
        clusters: i64[n]; equal numbers are the same question.
    """

    weight: float
    scores: NDArray[np.float64]
    clusters: NDArray[np.int64]


@dataclass(frozen=True)
class Ranked:
    """Scores of N submissions in one column.

    Attributes:
        se: nan where a task has a single question.
        half: half the width of the 95 % interval.
        best, worst: the ranks that each may have.
    """

    values: NDArray[np.float64]
    se: NDArray[np.float64]
    half: NDArray[np.float64]
    best: NDArray[np.int64]
    worst: NDArray[np.int64]


def rank(parts: Sequence[Part], *, higher_is_better: bool = True) -> Ranked:
    """Scores, intervals and ranks of every submission."""
    values = sum(part.weight * part.scores.mean(axis=1) for part in parts)
    assert isinstance(values, np.ndarray)
    groups = np.array([part.clusters.max() + 1 for part in parts])
    count = len(values)
    if groups.min() < 2:
        unknown = np.full(count, np.nan)
        return Ranked(values, unknown, unknown, np.ones(count, np.int64), np.full(count, count, np.int64))
    dof = float(groups.min() - 1)
    z = np.concatenate([_deviations(part) for part in parts], axis=1)
    se = np.sqrt((z**2).sum(axis=1))
    # where every question differs by the same amount there is no variance: the sign test over the questions, as a t
    alike = float(stdtrit(dof, 1 - 2.0 ** -min(int(groups.sum()), 60)))
    best, worst = _ranks(values if higher_is_better else -values, z, dof, alike)
    return Ranked(values, se, float(stdtrit(dof, 1 - ALPHA / 2)) * se, best, worst)


def _deviations(part: Part) -> NDArray[np.float64]:
    """f64[N, G]: weighted deviations from the mean, summed by cluster."""
    centred = part.scores - part.scores.mean(axis=1, keepdims=True)
    groups = int(part.clusters.max()) + 1
    if groups < part.scores.shape[1]:
        order = np.argsort(part.clusters, kind="stable")
        starts = np.searchsorted(part.clusters[order], np.arange(groups))
        centred = np.add.reduceat(centred[:, order], starts, axis=1)
    return part.weight * np.sqrt(groups / (groups - 1)) / part.scores.shape[1] * centred


def _ranks(
    values: NDArray[np.float64], z: NDArray[np.float64], dof: float, alike: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best and worst rank of each, the highest value first."""
    count = len(values)
    order = np.argsort(-values, kind="stable")
    ordered, rows = values[order], np.ascontiguousarray(z[order], dtype=np.float32)
    squares = np.einsum("ij,ij->i", rows, rows)
    histogram = np.zeros(_BINS + 1, dtype=np.int64)
    for _, t in _blocks(ordered, rows, squares, alike):
        histogram += np.bincount((t[t > 0] * (_BINS / _HIGHEST)).astype(np.int64), minlength=_BINS + 1)
    threshold = _holm_threshold(histogram, count * (count - 1) // 2, dof)
    better, worse = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for start, t in _blocks(ordered, rows, squares, alike):
        significant = t >= threshold
        worse[start : start + len(t)] += significant.sum(axis=1)
        better[start:] += significant.sum(axis=0)
    best, worst = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    best[order], worst[order] = 1 + better, count - worse
    return best, worst


def _blocks(
    values: NDArray[np.float64], rows: NDArray[np.float32], squares: NDArray[np.float32], alike: float
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """|t| of each pair once, in blocks of rows against all rows from the block's first on; 0 where there is no pair."""
    for start in range(0, len(values), BLOCK):
        stop = min(start + BLOCK, len(values))
        here = rows[start:stop]
        variance = squares[start:stop, None] + squares[None, start:] - 2 * (here @ rows[start:].T)
        gap = (values[start:stop, None] - values[None, start:]).astype(np.float32)
        # what is left of a variance after cancellation in 32 bits is rounding: such pairs answered alike
        floor = 4e-6 * (squares[start:stop, None] + squares[None, start:]) + NEGLIGIBLE**2
        t = gap / np.sqrt(np.maximum(variance, floor))
        np.minimum(t, alike, out=t, where=variance <= floor)
        t[np.tril_indices(stop - start)] = 0
        np.minimum(t, _HIGHEST, out=t)
        yield start, t


def _holm_threshold(histogram: NDArray[np.int64], pairs: int, dof: float) -> float:
    """The |t| from which on pairs are significant by Holm's method over ``pairs``.

    Holm rejects the k smallest p-values as long as each is at most ``α / (pairs - how many are smaller)``. From below:
    with R rejected the threshold is that of ``α / (pairs - R)``, which may reject more, until none is added.
    """
    if not pairs:
        return np.inf
    reaching = np.cumsum(histogram[::-1])[::-1]  # pairs with |t| in this bin or a higher one
    rejected = 0
    while True:
        threshold = float(stdtrit(dof, 1 - ALPHA / (2 * max(1, pairs - rejected))))
        position = int(np.ceil(threshold * _BINS / _HIGHEST))
        found = int(reaching[position]) if position <= _BINS else 0
        if found <= rejected:
            return threshold
        rejected = found
