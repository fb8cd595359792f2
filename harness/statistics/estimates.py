"""Estimate means over questions and training seeds, and paired differences, with standard errors and intervals.

A score is a weighted sum of task means, ``Σ_t a_t · mean_q x_tq`` (one task, or a macro average). The questions of a
task are a sample; the tasks are fixed. A paired difference is the same sum, with ``x`` the difference between the
scores of two models on the same question. One function therefore serves both.

With ``S`` training seeds, seeds and questions are crossed: ``x_sq = μ + seed_s + question_q + rest_sq``. We write

    A   variance of the mean over questions of the scores averaged over seeds,  Σ_t a_t² · s²(x̄_·q) / n_t
    B   variance of the mean over seeds of whole scores,  s²(score_s) / S
    C   what the rest contributes to both A and B,  Σ_t a_t² · MS_rest / (S · n_t)

The variance of the score is ``A + max(B - C, 0)`` (Searle, Casella & McCulloch 1992, Variance Components, two-way
crossed random model). Its degrees of freedom are Satterthwaite's (1946). The second term is what training seeds add;
it is also reported alone. Clustered questions enter A and C as cluster sums (Liang & Zeger 1986), with the correction
G / (G - 1) for G clusters.

Simulations check this (tests/harness/statistics): 95 % intervals cover the truth in 92 to 98 % of cases with one seed,
and with three or more. With two seeds whose own variance dominates, the coverage falls to 89 %. The tails, where a
correction for many comparisons looks, need more care: see :mod:`harness.statistics.joint`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bounds = tuple[float, float]

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8
NEGLIGIBLE = 1e-12  # a standard error below this share of the scores is a rounding error
UNBOUNDED: Bounds = (-math.inf, math.inf)
FRACTION: Bounds = (0.0, 1.0)
FRACTION_DIFFERENCE: Bounds = (-1.0, 1.0)


@dataclass(frozen=True)
class Part:
    """The share of one task in a score.

    Attributes:
        weight: ``a_t``; the weights of the parts of a score sum to 1.
        scores: f64[S, n], one row per training seed, one column per question.
        clusters: i64[n], from 0 to G - 1. Questions with the same number are not independent.
    """

    weight: float
    scores: Floats
    clusters: Ints


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error.

    Attributes:
        se: standard error; nan if it is unknown (a task with one question or one cluster).
        dof: degrees of freedom of ``se``.
        clusters: number of independent clusters of questions.
        seeds: number of training seeds.
        question: A.
        question_spread: sum over tasks of the squared parts of A, each divided by its degrees of freedom.
        seed: B; nan with one seed.
        rest: C; nan with one seed.
    """

    value: float
    se: float
    dof: float
    clusters: int
    seeds: int = 1
    question: float = math.nan
    question_spread: float = math.nan
    seed: float = math.nan
    rest: float = math.nan

    @property
    def seed_se(self) -> float:
        """Return the part of ``se`` that training seeds add (in squares); nan with one seed."""
        return math.sqrt(max(self.seed - self.rest, 0.0)) if self.seeds > 1 else math.nan

    def interval(self, bounds: Bounds = UNBOUNDED) -> tuple[float, float]:
        """Return the lower and upper end of the 95 % interval, cut at ``bounds``; nan if ``se`` is unknown."""
        lower, upper = intervals(self.value, self.se, self.dof, bounds)
        return float(lower), float(upper)


def bounds_of(*scores: Floats) -> Bounds:
    """Return the bounds of an interval: 0 and 1 if every score is a fraction, else none."""
    fraction = all(array.min() >= 0 and array.max() <= 1 for array in scores)
    return FRACTION if fraction else UNBOUNDED


def estimate(parts: Sequence[Part]) -> Estimate:
    """Return the weighted sum of task means with its standard error, as the module's text defines it."""
    seeds = parts[0].scores.shape[0]
    weights = np.array([part.weight for part in parts])  # [T]
    groups = np.array([part.clusters.max() + 1 for part in parts])  # [T]
    by_seed = weights @ np.stack([part.scores.mean(axis=1) for part in parts])  # [S]
    value = float(by_seed.mean())
    if groups.min() < 2:
        return Estimate(value, math.nan, math.nan, int(groups.sum()), seeds)

    by_task = weights**2 * np.array([(by_cluster(p.scores.mean(axis=0), p.clusters) ** 2).sum() for p in parts])
    question, spread = float(by_task.sum()), float((by_task**2 / (groups - 1)).sum())
    seed = rest = math.nan
    if seeds > 1:
        seed = float(by_seed.var(ddof=1)) / seeds
        rest = float((weights**2 * np.array([_rest_variance(p.scores, p.clusters) for p in parts])).sum())
    se, dof = combine(question, spread, seed, rest, seeds - 1)
    if se <= NEGLIGIBLE * max(float(np.abs(part.scores).max()) for part in parts):
        se, dof = 0.0, float((groups - 1).sum())
    return Estimate(value, se, dof, int(groups.sum()), seeds, question, spread, seed, rest)


def mean_over_seeds(numbers: Sequence[float]) -> Estimate:
    """Return the mean of one number per seed; its standard error is that of the seeds, nan with one seed."""
    count = len(numbers)
    se = float(np.std(numbers, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(np.mean(numbers)), se, count - 1 if count > 1 else math.nan, count, count)


def weighted_sum(weights: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """Return ``Σ_t a_t · score_t`` of independent one-seed estimates, as :func:`estimate` does from their questions."""
    value = sum(weight * found.value for weight, found in zip(weights, estimates, strict=True))
    question = sum((weight * found.se) ** 2 for weight, found in zip(weights, estimates, strict=True))
    if math.isnan(question):  # a part has one question alone
        return Estimate(value, math.nan, math.nan, sum(found.clusters for found in estimates))
    spread = sum((w * found.se) ** 4 / found.dof for w, found in zip(weights, estimates, strict=True) if found.se)
    clusters = sum(found.clusters for found in estimates)
    se, dof = combine(question, spread, math.nan, math.nan, 0)
    return Estimate(value, se, dof if se else sum(found.dof for found in estimates), clusters, 1, question, spread)


def combine(question: float, spread: float, seed: float, rest: float, seed_dof: float) -> tuple[float, float]:
    """Return the standard error and Satterthwaite's degrees of freedom, from A, B and C (nan with one seed).

    ``spread`` is the sum of the squared parts of A, each divided by its degrees of freedom.
    """
    variance = question
    if not math.isnan(seed):
        variance += max(seed - rest, 0.0)
        spread += seed**2 / seed_dof
    return math.sqrt(variance), variance**2 / spread if spread else math.inf


def by_cluster(scores: Floats, clusters: Ints) -> Floats:
    """Return f64[…, G]: how far each cluster of questions moves the mean of ``scores`` f64[…, n].

    The sum of the squares is the variance of the mean, which is s²/n with clusters of one question.
    """
    groups, n = int(clusters.max()) + 1, scores.shape[-1]
    moves = scores - scores.mean(axis=-1, keepdims=True)
    if groups < n:
        order = np.argsort(clusters, kind="stable")
        moves = np.add.reduceat(moves[..., order], np.searchsorted(clusters[order], np.arange(groups)), axis=-1)
    scaled: Floats = math.sqrt(groups / max(groups - 1, 1)) / n * moves
    return scaled


def _rest_variance(scores: Floats, clusters: Ints) -> float:
    """Return C of one task: the seed × question residuals of ``scores`` f64[S, n], as variance of the whole mean."""
    seeds = scores.shape[0]
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + scores.mean()
    return float((by_cluster(rest, clusters) ** 2).sum() / (seeds * (seeds - 1)))


def intervals(
    value: Floats | float, se: Floats | float, dof: Floats | float, bounds: Bounds = UNBOUNDED
) -> tuple[Floats, Floats]:
    """Return lower and upper ends of 95 % t intervals, cut at ``bounds``, in the shape of ``value``."""
    half = quantile((1 + CONFIDENCE) / 2, dof) * se
    return np.maximum(value - half, bounds[0]), np.minimum(value + half, bounds[1])


def p_value(difference: Estimate) -> float:
    """Return the two-sided p-value of a difference from 0 (t test); nan if the standard error is unknown.

    If every question differs by the same amount, the t test has no variance to use. The sign test over the independent
    clusters of questions, ``2^(1 - G)``, takes its place.
    """
    return float(p_values(difference.value, difference.se, difference.dof, difference.clusters))


def p_values(value: Floats | float, se: Floats | float, dof: Floats | float, clusters: int) -> Floats:
    """Return :func:`p_value` for arrays of differences over the same ``clusters``."""
    value, se, dof = (np.asarray(array, dtype=np.float64) for array in (value, se, dof))
    with np.errstate(divide="ignore", invalid="ignore"):
        by_t = 2 * stdtr(dof, -np.abs(value) / se)
    p: Floats = np.where(se == 0, np.where(value == 0, 1.0, 2.0 ** (1 - clusters)), by_t)
    return p


def detectable(difference: Estimate, comparisons: int = 1) -> float:
    """Return the smallest true difference that a test finds with 80 % power at the level α / ``comparisons``.

    It is nan if the standard error is unknown or zero.
    """
    if math.isnan(difference.se) or difference.se == 0:
        return math.nan
    level, power = quantile(1 - ALPHA / (2 * comparisons), difference.dof), quantile(POWER, difference.dof)
    return float((level + power) * difference.se)


def quantile(probability: float, dof: Floats | float) -> Floats:
    """Return quantiles of Student's t in the shape of ``dof``; more than a million degrees of freedom are the normal's.

    scipy's quantiles lose digits there.
    """
    found: Floats = stdtrit(np.minimum(dof, 1e6), probability)
    return found
