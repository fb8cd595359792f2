"""Rank many rows with one seed each: scores with intervals, every pair tested in every column, and rank intervals.

The questions of each task are centred, scaled by ``sqrt(G_t / (G_t - 1)) / n_t`` and summed over their G_t clusters. A
row becomes a vector D_t per task: ``|D_t|`` is the standard error of its task mean, and ``|D_t[i] - D_t[j]|`` that of
the paired difference of two rows. Everything else is :func:`harness.statistics.estimates.estimate` in matrices: the
results are those of estimating each pair alone and correcting all of them as one family.

A board of 10,000 rows has 50 million pairs in every column. They are first scanned in 32 bits, as normal deviates with
Satterthwaite's degrees of freedom (Wallace 1959's approximation). Only pairs too close to the family's level for the
error of that scan are then computed exactly.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from harness.statistics.estimates import (
    ALPHA,
    CONFIDENCE,
    FRACTION,
    FRACTION_DIFFERENCE,
    NEGLIGIBLE,
    UNBOUNDED,
    Floats,
    Ints,
    bounds_of,
    by_cluster,
    intervals,
    p_values,
    quantile,
)
from harness.statistics.families import Verdict, adjust, level_of_family

EXACT_ROWS = 500  # up to so many rows, every pair is computed exactly
BLOCK = 64  # rows of a tile of pairs
CHUNK = 20_000_000  # numbers in memory at once while pairs are computed exactly
_UNITS, _HIGHEST = 1000, 32.0  # normal deviates are stored as int16 in thousandths
_UNSURE = 32_767  # marks a pair that 32 bits cannot decide
_CANCELLED = 1e-3  # a variance below this share of its terms has lost too many digits
_ROUNDING = 4e-3  # error of a deviate from 32 bits, if its variance is above that share

K = TypeVar("K", bound=Hashable)
Beats = NDArray[np.bool_]  # [N, N]: whether row i is significantly above row j
Deviates = NDArray[np.int16]
Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class TaskMatrix:
    """The scores of all rows in one task.

    Attributes:
        scores: f64[N, n], one row per compared row, one column per question.
        clusters: i64[n], from 0 to G - 1, as in :class:`harness.statistics.estimates.Part`.
    """

    scores: Floats
    clusters: Ints


@dataclass(frozen=True)
class Scores:
    """The scores of N rows in a task or a column, each f64[N].

    Attributes:
        se: standard errors; nan if a task has one cluster only.
        lower: lower ends of the 95 % intervals, cut at 0 and 1 if all scores are fractions.
        fraction: whether every question's score is in [0, 1].
    """

    values: Floats
    se: Floats
    dof: Floats
    lower: Floats
    upper: Floats
    fraction: bool

    @cached_property
    def half(self) -> Floats:
        """Half the width of the intervals before they are cut: what stands after a ±."""
        found: Floats = quantile((1 + CONFIDENCE) / 2, self.dof) * self.se
        return found


@dataclass(frozen=True)
class RankedColumn(Scores):
    """A column with ranks.

    Attributes:
        best: i64[N], 1 plus the number of significantly better rows.
        worst: i64[N], the number of rows minus that of significantly worse ones.
        beats: u8[N, ceil(N / 8)], packed bits: whether row i is significantly better than row j.
    """

    best: Ints
    worst: Ints
    beats: NDArray[np.uint8]


class Tests(NamedTuple):
    """Differences and their two-sided p-values, each f64[P]."""

    value: Floats
    se: Floats
    dof: Floats
    p: Floats


@dataclass(frozen=True)
class Differences:
    """One row minus others, paired by question, each an array in the order of the others.

    Attributes:
        lower: lower ends of the 95 % intervals of each difference alone.
        p: two-sided p-values of each difference alone.
        p_adjusted: corrected for the family; nan in a large ranking, which has verdicts only.
        verdicts: of the row against each other one.
    """

    values: Floats
    se: Floats
    dof: Floats
    lower: Floats
    upper: Floats
    p: Floats
    p_adjusted: Floats
    verdicts: list[Verdict]


@dataclass
class Ranking(Generic[K]):
    """N rows in the columns of one table: one family of tests.

    Attributes:
        tasks: task → scores; tasks have intervals and no verdicts.
        columns: column → scores and ranks.
        comparisons: size of the family.
    """

    tasks: dict[K, Scores]
    columns: dict[str, RankedColumn]
    comparisons: int
    _exact: dict[str, _Column[K]] = field(repr=False)
    _adjusted: dict[str, Floats] = field(repr=False)

    def against(self, column: str, row: int, others: Ints | None = None) -> Differences:
        """Return the differences of a row to ``others``, or to all rows (itself included)."""
        ranked = self.columns[column]
        others = np.arange(len(ranked.values)) if others is None else others
        tests = self._exact[column].differences(np.full(len(others), row), others)
        bounds = FRACTION_DIFFERENCE if ranked.fraction else UNBOUNDED
        lower, upper = intervals(tests.value, tests.se, tests.dof, bounds)
        unknown = np.full(len(others), np.nan)
        adjusted = self._adjusted[column][row, others] if column in self._adjusted else unknown
        ahead = np.unpackbits(ranked.beats[row], count=len(ranked.values))[others]
        behind = ranked.beats[others, row // 8] >> (7 - row % 8) & 1
        verdicts: list[Verdict] = np.select([ahead == 1, behind == 1], ["better", "worse"], "undecided").tolist()
        return Differences(tests.value, tests.se, tests.dof, lower, upper, tests.p, adjusted, verdicts)


class _Column(Generic[K]):
    """The vectors D of the tasks of a column, and its weights."""

    def __init__(self, shares: Mapping[K, float], tasks: Mapping[K, TaskMatrix], vectors: Mapping[K, Floats]) -> None:
        self.keys, self.weights = list(shares), np.array(list(shares.values()))
        self.vectors = [vectors[key] for key in shares]
        self.means = np.stack([tasks[key].scores.mean(axis=1) for key in shares], axis=1)  # [N, T]
        self.values = self.means @ self.weights
        self.largest = np.max([np.abs(tasks[key].scores).max(axis=1) for key in shares], axis=0)  # [N]
        self.groups = np.array([vectors[key].shape[1] for key in shares])
        self.known = bool(self.groups.min() > 1)

    def scores(self, *, fraction: bool) -> Scores:
        """Return the scores of all rows."""
        squares = np.stack([np.einsum("ij,ij->i", d, d) for d in self.vectors], axis=1)
        se, dof = self._combine(squares, self.largest)
        lower, upper = intervals(self.values, se, dof, FRACTION if fraction else UNBOUNDED)
        return Scores(self.values, se, dof, lower, upper, fraction)

    def differences(self, rows: Ints, others: Ints) -> Tests:
        """Test ``rows[i]`` minus ``others[i]`` for every i."""
        return self.test(np.stack([_squares(d, rows, others) for d in self.vectors], axis=1), rows, others)

    def test(self, squares: Floats, rows: Ints, others: Ints) -> Tests:
        """Test differences from ``squares`` f64[P, T], the variances of the differences of their task means."""
        se, dof = self._combine(squares, np.abs(self.means[rows] - self.means[others]).max(axis=1))
        value = self.values[rows] - self.values[others]
        return Tests(value, se, dof, p_values(value, se, dof, int(self.groups.sum())))

    def _combine(self, squares: Floats, largest: Floats) -> tuple[Floats, Floats]:
        """Return standard errors and degrees of freedom from task variances f64[P, T], as ``estimate`` does."""
        if not self.known:
            return np.full(len(squares), np.nan), np.full(len(squares), np.nan)
        terms = self.weights**2 * squares
        variance, spread = terms.sum(axis=1), (terms**2 / (self.groups - 1)).sum(axis=1)
        negligible = np.sqrt(variance) <= NEGLIGIBLE * largest
        with np.errstate(divide="ignore", invalid="ignore"):
            dof = np.where(negligible, float((self.groups - 1).sum()), variance**2 / spread)
        return np.where(negligible, 0.0, np.sqrt(variance)), dof


def rank(
    tasks: Mapping[K, TaskMatrix], columns: Mapping[str, Mapping[K, float]], *, higher_is_better: bool = True
) -> Ranking[K]:
    """Rank the rows of a table in every column, a weighted mean of tasks; by default rank 1 is the highest score."""
    vectors = {key: by_cluster(task.scores, task.clusters) for key, task in tasks.items()}
    fractions = {key: bounds_of(task.scores) == FRACTION for key, task in tasks.items()}
    exact = {name: _Column(shares, tasks, vectors) for name, shares in columns.items()}
    count = len(next(iter(tasks.values())).scores)
    known = {name: column for name, column in exact.items() if column.known}
    family = len(known) * count * (count - 1) // 2
    adjusted: dict[str, Floats] = {}
    if count <= EXACT_ROWS:
        beats, adjusted = _test_all(known, vectors, count)
    else:
        beats = _scan_all(known, vectors, family)
    ranked = {}
    for name, column in exact.items():
        fraction = all(fractions[key] for key in columns[name])
        ahead = beats.get(name, np.zeros((count, count), dtype=bool))
        ahead = ahead if higher_is_better else ahead.T
        best, worst = 1 + ahead.sum(axis=0), count - ahead.sum(axis=1)
        ranked[name] = RankedColumn(
            **vars(column.scores(fraction=fraction)), best=best, worst=worst, beats=np.packbits(ahead, axis=1)
        )
    alone = {key: _Column({key: 1.0}, tasks, vectors).scores(fraction=fractions[key]) for key in tasks}
    return Ranking(alone, ranked, family, exact, adjusted)


def _squares(vectors: Floats, rows: Ints, others: Ints) -> Floats:
    """Return ``|D[rows[i]] - D[others[i]]|²`` for every i."""
    found = np.empty(len(rows))
    step = max(1, CHUNK // vectors.shape[1])
    for start in range(0, len(rows), step):
        gap = vectors[rows[start : start + step]] - vectors[others[start : start + step]]
        found[start : start + step] = np.einsum("ij,ij->i", gap, gap)
    return found


def _all_squares(vectors: Floats, low: Ints, high: Ints) -> Floats:
    """Return :func:`_squares` of all pairs as one product of matrices, and alone where that loses digits."""
    lengths = np.einsum("ij,ij->i", vectors, vectors)
    sums = lengths[low] + lengths[high]
    found: Floats = sums - 2 * (vectors @ vectors.T)[low, high]
    cancelled = found <= 1e-6 * sums
    found[cancelled] = _squares(vectors, low[cancelled], high[cancelled])
    return found


def _test_all(
    columns: Mapping[str, _Column[K]], vectors: Mapping[K, Floats], count: int
) -> tuple[dict[str, Beats], dict[str, Floats]]:
    """Return, per column, which row has the significantly higher score, and the adjusted p-values f64[N, N]."""
    low, high = (indices.astype(np.int64) for indices in np.triu_indices(count, 1))
    squares = {key: _all_squares(d, low, high) for key, d in vectors.items()}
    tests = {
        name: column.test(np.stack([squares[key] for key in column.keys], axis=1), low, high)
        for name, column in columns.items()
    }
    corrected = iter(np.split(np.array(adjust([p for test in tests.values() for p in test.p])), max(len(tests), 1)))
    beats, adjusted = {}, {}
    for name, test in tests.items():
        adjusted[name] = np.full((count, count), np.nan)
        adjusted[name][low, high] = adjusted[name][high, low] = p = next(corrected)
        beats[name] = np.zeros((count, count), dtype=bool)
        beats[name][low, high] = (p < ALPHA) & (test.value > 0)
        beats[name][high, low] = (p < ALPHA) & (test.value < 0)
    return beats, adjusted


# --- many rows --------------------------------------------------------------------------------------


def _scan_all(columns: Mapping[str, _Column[K]], vectors: Mapping[K, Floats], family: int) -> dict[str, Beats]:
    """Return, per column, which row has the significantly higher score: by a scan, and exactly where it is unsure."""
    deviates: dict[str, list[Deviates]] = {name: [] for name in columns}
    for tile in _tiles(columns, vectors):
        for name, stored in tile.items():
            deviates[name].append(stored)
    error = _ROUNDING + _approximation_error(min(int(column.groups.min()) - 1 for column in columns.values()), family)
    counts = np.zeros(_UNSURE + 1, dtype=np.int64)
    for stored in (tile for tiles in deviates.values() for tile in tiles):
        counts += np.bincount(np.abs(stored).ravel(), minlength=_UNSURE + 1)
    reaching = np.cumsum(counts[::-1])[::-1]  # pairs with this deviate or a higher one, unsure ones included

    def first_unit(level: float, margin: float) -> int:
        deviate = -float(ndtri(level / 2)) + margin
        return min(max(int(np.ceil(deviate * _UNITS)), 1), _UNSURE)

    strict = level_of_family(family, lambda level: int(reaching[first_unit(level, error)] - reaching[_UNSURE]))
    lenient = level_of_family(family, lambda level: int(reaching[first_unit(level, -error)]))
    sure, possible = first_unit(strict, error), first_unit(lenient, -error)
    exact = {name: _unsure_pairs(tiles, sure, possible) for name, tiles in deviates.items()}
    tests = {name: columns[name].differences(*pairs) for name, pairs in exact.items()}
    p = np.sort(np.concatenate([test.p for test in tests.values()]))
    certain = int(reaching[sure] - reaching[_UNSURE])
    level = level_of_family(family, lambda level: certain + int(np.searchsorted(p, level)))
    return {name: _beats(deviates.pop(name), sure, exact[name], tests[name], level) for name in list(columns)}


def _tiles(columns: Mapping[str, _Column[K]], vectors: Mapping[K, Floats]) -> Iterator[dict[str, Deviates]]:
    """Yield, per block of rows, the signed deviates of each row against all from the block's first on, per column."""
    rows = {key: np.ascontiguousarray(d, dtype=np.float32) for key, d in vectors.items()}
    squares = {key: np.einsum("ij,ij->i", d, d) for key, d in rows.items()}
    count = len(next(iter(rows.values())))
    used = dict.fromkeys(key for column in columns.values() for key in column.keys)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        variances, sums = {}, {}
        for key in used:
            sums[key] = squares[key][start:stop, None] + squares[key][None, start:]
            variances[key] = sums[key] - 2 * (rows[key][start:stop] @ rows[key][start:].T)
        yield {name: _deviates(column, start, variances, sums) for name, column in columns.items()}


def _deviates(column: _Column[K], start: int, variances: Mapping[K, Floats32], sums: Mapping[K, Floats32]) -> Deviates:
    """Return the differences as normal deviates of the same p-value (Wallace 1959), signed, in thousandths."""
    rows, _ = variances[column.keys[0]].shape
    gap = (column.values[start : start + rows, None] - column.values[None, start:]).astype(np.float32)
    variance, spread, terms = np.zeros_like(gap), np.zeros_like(gap), np.zeros_like(gap)
    for key, weight, groups in zip(column.keys, column.weights.astype(np.float32), column.groups, strict=True):
        term = weight**2 * variances[key]
        variance += term
        spread += term**2 / np.float32(groups - 1)
        terms += weight**2 * sums[key]
    cancelled = variance <= _CANCELLED * terms
    variance[cancelled] = 1
    with np.errstate(divide="ignore", invalid="ignore"):
        dof = variance**2 / spread
        dof[cancelled] = 1
        deviate = np.sqrt(dof * np.log1p(gap**2 / (variance * dof))) * ((8 * dof + 1) / (8 * dof + 3))
    stored: Deviates = (np.copysign(np.minimum(deviate, _HIGHEST), gap) * _UNITS).astype(np.int16)
    stored[cancelled] = _UNSURE
    stored[gap == 0] = 0
    stored[np.tril_indices(rows)] = 0
    return stored


def _approximation_error(least_dof: int, family: int) -> float:
    """Return the largest error of Wallace's approximation for p-values between α / ``family`` and α."""
    half = np.geomspace(ALPHA / family, ALPHA, 60)[None, :] / 2
    dof = np.geomspace(least_dof, 1e5, 60)[:, None]
    t = stdtrit(dof, half)
    deviate = np.sqrt(dof * np.log1p(t**2 / dof)) * (8 * dof + 1) / (8 * dof + 3)
    return float(np.abs(deviate + ndtri(half)).max())


def _unsure_pairs(tiles: list[Deviates], sure: int, possible: int) -> tuple[Ints, Ints]:
    """Return the rows of the pairs whose deviate is between ``possible`` and ``sure``, or unknown."""
    low, high = [], []
    for number, tile in enumerate(tiles):
        size = np.abs(tile)
        rows, others = np.nonzero(((size >= possible) & (size < sure)) | (size == _UNSURE))
        low.append(rows + number * BLOCK)
        high.append(others + number * BLOCK)
    return np.concatenate(low), np.concatenate(high)


def _beats(tiles: list[Deviates], sure: int, exact: tuple[Ints, Ints], tests: Tests, level: float) -> Beats:
    """Return bool[N, N]: whether a row's score is significantly higher than another's."""
    count = tiles[0].shape[1]
    beats = np.zeros((count, count), dtype=bool)
    for number, tile in enumerate(tiles):
        start, stop = number * BLOCK, number * BLOCK + len(tile)
        known = np.abs(tile) != _UNSURE
        beats[start:stop, start:] |= (tile >= sure) & known
        beats[start:, start:stop] |= ((tile <= -sure) & known).T
    low, high = exact
    beats[low, high] = (tests.p < level) & (tests.value > 0)
    beats[high, low] = (tests.p < level) & (tests.value < 0)
    return beats
