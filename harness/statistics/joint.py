"""Correct differences over a few training seeds for many comparisons, by their joint distribution.

Three seeds say little about the seed variance of one pair of rows. All the pairs of a column together say more, and
their mean has (rows - 1)(seeds - 1) degrees of freedom. A pair is tested with the larger of its own seed variance and
that mean, so a row whose seeds vary more than the others' is not called better by their steadiness:

    t = difference / sqrt(A + max(max(own, pooled) / seeds - C, 0))            (A and C: harness.statistics.estimates)

One row whose seeds vary wildly would blind the whole table, so it stays out of the mean (:func:`_set_apart`). Its own
pairs have the degrees of freedom of their own seeds only: their ``t`` counts as the value that has the same p-value
with those of the mean.

A family of such tests is corrected by step-down max-T (Westfall & Young 1993, Algorithm 2.8): the largest ``|t|`` is
compared with the maximum over all tests of the family, the next with the maximum over those that remain, and so on.
The maximum comes from ``DRAWS`` draws of all tests together when no row differs from another, in which

- pairs that share a row have the correlation that follows from sharing it (1/2 where rows vary alike, Dunnett 1955),
- columns correlate as their residuals over seeds do, shrunk to zero by what so few residuals leave uncertain
  (Schäfer & Strimmer 2005), and over questions as the scores of the same questions do,
- every draw computes ``own`` and ``pooled`` anew from as many seeds, so the few degrees of freedom count fully,
- the ratio of seed to question variance varies as far as it is uncertain (Behrens-Fisher), because a ratio that is
  underestimated by luck would make the test too sure.

The draws have a fixed seed: the same data give the same p-values. docs/statistics.md says what simulations show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from harness.statistics.estimates import ALPHA, POWER, Estimate, Floats, combine, quantile

DRAWS = 10_000
FEWEST_SEEDS = 3  # of both rows of a pair, before anything is called better, worse or equal
_FEWEST_ROWS = 4  # before one of them can be told apart from the others
_CHUNK = 4_000_000  # numbers in memory at once


@dataclass(frozen=True)
class Block:
    """Rows that are compared with each other: those of one model.

    Attributes:
        scores: f64[R, C, S], the score of each training seed; nan where there is none.
        trained: bool[R]; a row that was never trained has the same score under every seed.
        questions: f64[R, C, K], how far each of K clusters moves a score (:func:`.estimates.by_cluster`);
            ``|q_i - q_j|²`` is the question variance of a difference.
    """

    scores: Floats
    trained: NDArray[np.bool_]
    questions: Floats


def numbers_over_seeds(numbers: Sequence[float]) -> tuple[Block, Estimate]:
    """Return one number per seed as a row of its own, compared with a row of zeros; no questions vary."""
    count, value = len(numbers), float(np.mean(numbers))
    variance = float(np.var(numbers, ddof=1)) / count
    block = Block(np.stack([[numbers], np.zeros((1, count))]), np.array([True, False]), np.zeros((2, 1, 0)))
    return block, Estimate(value, math.sqrt(variance), count - 1, count, count, 0.0, 0.0, variance, 0.0)


class Contrast(NamedTuple):
    """The difference between two rows of a block in one of its columns; ``estimate`` is by this pair alone."""

    block: int
    column: int
    row: int
    other: int
    estimate: Estimate


@dataclass(frozen=True)
class Corrected:
    """The tests of one family, each array in the order of its contrasts.

    Attributes:
        estimates: the differences with the errors that the tests use.
        p: two-sided p-values of each difference alone.
        adjusted: corrected for the family.
        equal: corrected p-values of the hypothesis that a difference lies outside its margin.
        critical: the value that ``|t|`` of some test of the family exceeds in 5 % of cases if no row differs.
        dof: the degrees of freedom for which ``critical`` holds; those of the estimate are fewer for a row set apart.
    """

    estimates: list[Estimate]
    p: Floats
    adjusted: Floats
    equal: Floats
    critical: float
    dof: Floats

    def detectable(self, at: int) -> float:
        """Return the true difference that test ``at`` finds with 80 % power after correction; nan without an error."""
        found = self.estimates[at]
        if math.isnan(found.se) or found.se == 0:
            return math.nan
        critical = float(_with_dof(np.array(self.critical), self.dof[at], found.dof))
        return float((critical + quantile(POWER, found.dof)) * found.se)


def correct(
    blocks: Sequence[Block], contrasts: Sequence[Contrast], margins: Sequence[float], draws: int = DRAWS
) -> Corrected:
    """Test a family of differences; contrasts with an unknown error keep it, and have p-values of nan.

    Blocks are independent of each other, except that questions may be the same. Below its margin a contrast counts as
    equal.
    """
    designs = [_Design(block) for block in blocks]
    estimates = [designs[contrast.block].with_pooled_seeds(contrast) for contrast in contrasts]
    value, se = np.array([e.value for e in estimates]), np.array([e.se for e in estimates])
    own, dof = np.array([e.dof for e in estimates]), np.array([designs[c.block].dof(c) for c in contrasts])
    p, adjusted, equal = (np.full(len(contrasts), np.nan) for _ in range(3))
    # A difference that is the same on every question and seed has no variance. It is judged by its questions alone.
    for at in np.flatnonzero(se == 0):
        p[at] = 1.0 if value[at] == 0 else 2.0 ** (1 - estimates[at].clusters)
        adjusted[at] = min(1.0, p[at] * len(contrasts))
        inside = abs(value[at]) < margins[at]
        equal[at] = min(1.0, len(contrasts) * 2.0 ** (1 - estimates[at].clusters)) if inside else 1.0
    tested = np.flatnonzero(se > 0)
    if not len(tested):
        return Corrected(estimates, p, adjusted, equal, math.nan, dof)
    statistic = _with_dof(np.abs(value[tested]) / se[tested], own[tested], dof[tested])
    room = (np.array(margins)[tested] - np.abs(value[tested])) / se[tested]
    room = _with_dof(room, own[tested], dof[tested])
    side = np.where(value[tested] < 0, -1.0, 1.0)
    alone, above, within, highest = np.zeros((3, len(tested))), _StepDown(statistic), _StepDown(room), []
    for drawn in _draw(designs, [contrasts[at] for at in tested], draws):
        size = np.abs(drawn)
        alone[0] += (size >= statistic).sum(axis=0)
        above.count(size)
        within.count(drawn * side)
        highest.append(size.max(axis=1))
    p[tested] = (1 + alone[0]) / (1 + draws)
    adjusted[tested], equal[tested] = above.p_values(draws), within.p_values(draws)
    return Corrected(estimates, p, adjusted, equal, float(np.quantile(np.concatenate(highest), 1 - ALPHA)), dof)


def _with_dof(t: Floats, dof: Floats | float, new: Floats | float) -> Floats:
    """Return the values of Student's t with ``new`` degrees of freedom that have the same p-values as ``t``."""
    return np.where(np.equal(dof, new), t, -quantile(stdtr(np.minimum(dof, 1e6), -t), new))


def rows_apart(scores: Floats) -> NDArray[np.bool_]:
    """Return bool[R], the trained rows of f64[R, C, S] whose seeds vary too much to be pooled with the others'."""
    rows, columns, _ = scores.shape
    return _Design(Block(scores, np.ones(rows, dtype=bool), np.zeros((rows, columns, 0)))).apart


class _StepDown:
    """Counts in how many draws the maximum over a test and all less significant ones reaches its statistic."""

    def __init__(self, statistic: Floats) -> None:
        self.order = np.argsort(statistic, kind="stable")  # the least significant first
        self.statistic = statistic[self.order]
        self.reached = np.zeros(len(statistic))

    def count(self, drawn: Floats) -> None:
        """Count draws f64[N, tests]."""
        self.reached += (np.maximum.accumulate(drawn[:, self.order], axis=1) >= self.statistic).sum(axis=0)

    def p_values(self, draws: int) -> Floats:
        """Return the corrected p-values in the tests' own order; a more significant test never has a higher one."""
        p = np.empty(len(self.order))
        p[self.order] = np.maximum.accumulate(((1 + self.reached) / (1 + draws))[::-1])[::-1]
        return p


class _Design:
    """What a block says about how its differences vary."""

    def __init__(self, block: Block) -> None:
        self.trained = block.trained
        scores = block.scores.transpose(1, 0, 2)  # [C, R, S]
        self.there = (~np.isnan(scores)).astype(np.float64)
        known = np.nan_to_num(scores)
        means = known.sum(axis=2, keepdims=True) / np.maximum(self.there.sum(axis=2, keepdims=True), 1)
        centred = (known - means) * self.there
        self.shared = self.there @ self.there.transpose(0, 2, 1)  # [C, R, R] seeds that both rows have
        both, one = np.outer(block.trained, block.trained), np.not_equal.outer(block.trained, block.trained)
        upper = np.triu(np.ones_like(both), 1) & (self.shared > 1)
        _, self.own = self._moments(centred)
        seeds = np.array([np.median(n[n > 1]) if (n > 1).any() else 2 for n in self.shared])
        self.apart = _set_apart(self.own, self.shared, block.trained, seeds)
        upper = upper & ~(self.apart[:, None] | self.apart[None])
        self.kinds = [upper & both, upper & one]  # pairs of two trained rows; of a trained row and another
        self.pooled = self._pool(self.own)
        pooled = int((block.trained & ~self.apart).sum())
        self.freedom = (max(pooled - 1, 1) * (seeds - 1))[:, None]  # [C, 1]
        self.columns = _root(_shrunk_correlation(centred[:, block.trained], self.there[:, block.trained]))
        rows, columns, clusters = block.questions.shape
        flat = block.questions.transpose(1, 0, 2).reshape(columns * rows, clusters)
        covariance = flat @ flat.T
        self.questions = _root(covariance)
        diagonal = np.diag(covariance)
        self.spread = np.sqrt(np.maximum(diagonal[:, None] + diagonal[None, :] - 2 * covariance, 0))

    def _moments(self, scores: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance of the difference of every pair over their common seeds, each f64[…, C, R, R]."""
        there, with_other = self.there, self.there.transpose(0, 2, 1)
        gap = scores @ with_other
        gap = gap - np.swapaxes(gap, -1, -2)
        squares = (scores**2) @ with_other
        squares = squares + np.swapaxes(squares, -1, -2) - 2 * scores @ np.swapaxes(scores * there, -1, -2)
        mean = gap / np.maximum(self.shared, 1)
        variance = np.maximum(squares - gap * mean, 0) / np.maximum(self.shared - 1, 1)
        return mean, variance

    def _pool(self, variance: Floats) -> Floats:
        """Return the mean variance of the pairs of each kind, f64[…, C, 2]."""
        means = [(variance * kind).sum(axis=(-1, -2)) / np.maximum(kind.sum(axis=(-1, -2)), 1) for kind in self.kinds]
        return np.stack(means, axis=-1)

    def kind(self, contrast: Contrast) -> int | None:
        """Return 0 for two trained rows, 1 for one of them, None for none."""
        count = int(self.trained[contrast.row]) + int(self.trained[contrast.other])
        return 2 - count if count else None

    def with_pooled_seeds(self, contrast: Contrast) -> Estimate:
        """Return the estimate with the larger of its own and the pooled seed variance."""
        found, (_, c, i, j, _) = contrast.estimate, contrast
        apart = bool(self.apart[i] or self.apart[j])
        return self._pooled(contrast, found.seeds - 1.0 if apart else float(self.freedom[c, 0]))

    def dof(self, contrast: Contrast) -> float:
        """Return the degrees of freedom that the contrast has, or would have if its rows were not set apart."""
        return self._pooled(contrast, float(self.freedom[contrast.column, 0])).dof

    def _pooled(self, contrast: Contrast, freedom: float) -> Estimate:
        found, kind = contrast.estimate, self.kind(contrast)
        if kind is None or math.isnan(found.se) or found.seeds < 2:
            return found
        _, c, i, j, _ = contrast
        seed = max(float(self.own[c, i, j]), float(self.pooled[c, kind])) / found.seeds
        se, dof = combine(found.question, found.question_spread, seed, found.rest, freedom)
        return replace(found, se=se, dof=dof, seed=seed) if se > 0 else found

    def draw(self, contrasts: Sequence[Contrast], count: int, rng: np.random.Generator) -> Floats:
        """Return ``count`` draws of the statistics when no row differs from another, f64[count, contrasts]."""
        columns, rows, seeds = self.there.shape
        column, row, other = np.array([contrast[1:4] for contrast in contrasts]).T
        kinds = [self.kind(c) for c in contrasts]
        kind = np.array([k or 0 for k in kinds])
        found = [c.estimate for c in contrasts]
        question, rest = np.array([e.question for e in found]), np.nan_to_num([e.rest for e in found])
        n = np.array([max(e.seeds, 1) for e in found])
        # seeds: scores of one unit of variance in every trained row, then each pair in its column's own unit
        noise = rng.standard_normal((count, columns, rows * seeds))
        noise = (self.columns @ noise).reshape(count, columns, rows, seeds)
        noise *= self.there * self.trained[:, None]
        mean, own = self._moments(noise)
        pooled = self._pool(own)
        apart = self.apart[row] | self.apart[other]
        variance = np.where(apart, self.own[column, row, other], self.pooled[column, kind])
        unit = np.where(kind == 0, 0.5, 1.0) * variance
        unit = np.where([k is None for k in kinds], 0.0, unit)
        # the true variance is as uncertain as an estimate with so many degrees of freedom, and no less than the rest's
        truth = self.freedom[:, 0] / rng.chisquare(self.freedom[:, 0], size=(count, columns))
        unit = np.maximum(unit * truth[:, column], np.where([k is None for k in kinds], 0.0, n * rest))
        seed = np.maximum(own[:, column, row, other], pooled[:, column, kind]) * unit / n
        # questions: as correlated as the scores of the same questions are
        drawn = rng.standard_normal((count, self.questions.shape[1])) @ self.questions.T
        first, second = column * rows + row, column * rows + other
        spread = self.spread[first, second]
        size = np.sqrt(np.maximum(question - rest, 0)) / np.where(spread > 0, spread, 1)
        shift = (drawn[:, first] - drawn[:, second]) * size
        freedom = np.array([e.question**2 / e.question_spread if e.question_spread else math.inf for e in found])
        least = np.array([freedom[column == c].min(initial=math.inf) for c in range(columns)])
        least = np.minimum(least, 1e6)
        known = rng.chisquare(least, size=(count, columns)) / least
        total = question * known[:, column] + np.maximum(seed - rest, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (shift + mean[:, column, row, other] * np.sqrt(unit)) / np.sqrt(total)
        return np.asarray(np.nan_to_num(t, nan=0.0, posinf=0.0, neginf=0.0), dtype=np.float64)


def _set_apart(own: Floats, shared: Floats, trained: NDArray[np.bool_], seeds: Floats) -> NDArray[np.bool_]:
    """Return bool[R], the rows whose seeds surely vary more than those of the others, in one column at least.

    A row's variance is the median over its pairs with other trained rows, f64[C, R, R] in ``own``. It is compared with
    the median row's. Among rows that vary alike, one of a hundred tables has a row apart. Three rows cannot tell.
    """
    apart, rows = np.zeros(len(trained), dtype=bool), np.flatnonzero(trained)
    if len(rows) < _FEWEST_ROWS:
        return apart
    own, paired = own[:, rows[:, None], rows], (shared[:, rows[:, None], rows] > 1) | np.eye(len(rows), dtype=bool)
    known = paired.all(axis=(1, 2))
    share = 1 - 0.01 / len(own)
    limits = [np.quantile(_largest_excess(len(rows), max(round(n), 2)), share) for n in seeds.tolist()]
    apart[rows] = ((_excess(own) > np.array(limits)[:, None]) & known[:, None]).any(axis=0)
    return apart


def _excess(own: Floats) -> Floats:
    """Return f64[…, R], each row's variance over the median row's, from the variances f64[…, R, R] of all pairs."""
    rows = own.shape[-1]
    others = own[..., ~np.eye(rows, dtype=bool)].reshape(*own.shape[:-2], rows, rows - 1)
    by_row = np.median(others, axis=-1)
    middle = np.median(by_row, axis=-1, keepdims=True)
    found: Floats = np.divide(by_row, middle, out=np.ones_like(by_row), where=middle > 0)
    return found


@cache
def _largest_excess(rows: int, seeds: int) -> Floats:
    """Return f64[DRAWS], the largest excess of the rows of a column, drawn when all vary alike."""
    rng, found = np.random.default_rng(0), []
    step = max(1, _CHUNK // (rows * rows))
    for start in range(0, DRAWS, step):
        noise = rng.standard_normal((min(step, DRAWS - start), rows, seeds))
        noise -= noise.mean(axis=-1, keepdims=True)
        squares = (noise**2).sum(axis=-1)
        own = squares[:, :, None] + squares[:, None] - 2 * noise @ noise.transpose(0, 2, 1)
        found.append(_excess(own).max(axis=-1))
    return np.concatenate(found)


def _draw(designs: Sequence[_Design], contrasts: Sequence[Contrast], draws: int) -> Iterator[Floats]:
    rng = np.random.default_rng(0)
    most = max(max(d.there.size, d.shared.size) for d in designs)
    step = max(1, _CHUNK // max(most, len(contrasts)))
    of = [[at for at, contrast in enumerate(contrasts) if contrast.block == b] for b in range(len(designs))]
    for start in range(0, draws, step):
        count = min(step, draws - start)
        found = np.empty((count, len(contrasts)))
        for design, places in zip(designs, of, strict=True):
            if places:
                found[:, places] = design.draw([contrasts[at] for at in places], count, rng)
        yield found


def _shrunk_correlation(centred: Floats, there: Floats) -> Floats:
    """Return f64[C, C], the columns' correlation over seeds, from the rows' deviations f64[C, R, S] from their means.

    The more uncertain the correlations are, the more they are shrunk to zero (Schäfer & Strimmer 2005). Only seeds that
    every row has in every column count.
    """
    columns, rows, _ = centred.shape
    complete = there.all(axis=(0, 1)) if rows else np.zeros(centred.shape[2], dtype=bool)
    if columns == 1 or complete.sum() < 2:
        return np.eye(columns)
    found = centred[:, :, complete]
    found = found - found.mean(axis=2, keepdims=True)
    if rows > 1:
        found = found - found.mean(axis=1, keepdims=True)
    flat = found.reshape(columns, -1)
    freedom = max(rows - 1, 1) * (int(complete.sum()) - 1)
    size = np.sqrt((flat**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.nan_to_num(flat @ flat.T / np.outer(size, size))
    off = ~np.eye(columns, dtype=bool)
    strength = (r[off] ** 2).sum()
    uncertain = ((1 - r[off] ** 2) ** 2).sum() / freedom
    shrink = min(1.0, uncertain / strength) if strength > 0 else 1.0
    shrunk: Floats = np.where(off, (1 - shrink) * r, 1.0)
    return shrunk


def _root(covariance: Floats) -> Floats:
    """Return a matrix whose product with its transpose is a covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = vectors * np.sqrt(np.maximum(values, 0))
    return root
