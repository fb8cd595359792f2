"""Error bars: means over questions, paired differences, several seeds, many comparisons. Arrays in, numbers out.

A score is a weighted sum of task means, ``Σ_t a_t · mean_q x_tq`` (a task alone, or a macro average), where the
questions of a task are a sample and the tasks are fixed. A paired difference is the same with ``x`` the difference of
two models' scores on the same question, so one function serves both.

With ``S`` training seeds, seeds and questions are crossed: ``x_sq = μ + seed_s + question_q + rest_sq``. Writing

    A   variance of the mean over questions of the scores averaged over seeds,  Σ_t a_t² · s²(x̄_·q) / n_t
    B   variance of the mean over seeds of whole scores,  s²(score_s) / S
    C   what the rest contributes to both A and B,  Σ_t a_t² · MS_rest / (S · n_t)

the variance of the score is ``A + max(B - C, 0)`` (Searle, Casella & McCulloch 1992, Variance Components, two-way
crossed random model), and its degrees of freedom are Satterthwaite's (1946). The second term is what training seeds
add; it is reported on its own. Questions in clusters enter A and C by cluster sums (Liang & Zeger 1986), with the
G / (G - 1) correction.

Checked by simulation (tests/leaderboards: test_statistics, test_simulations): 95 % intervals cover 92–98 % with one
seed, or with three and more; with two seeds whose own variance dominates, down to 89 %, because one degree of freedom
cannot know better. Far out in the tails, where a table's correction looks, that is not good enough: see ``pooling``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ALPHA = 0.05
POWER = 0.8
NEGLIGIBLE = 1e-12  # standard errors below this part of the scores are rounding


@dataclass(frozen=True)
class Part:
    """One task's share in a score.

    Attributes:
        weight: ``a_t``; the weights of a score's parts sum to 1.
        scores: f64[S, n], a row per training seed, a column per question.
        clusters: i64[n] in 0 … G - 1; questions with the same number are not independent.
    """

    weight: float
    scores: Floats
    clusters: Ints


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error.

    Attributes:
        se: nan where it cannot be known (a task with a single question or cluster).
        dof: degrees of freedom of ``se``.
        clusters: independent groups of questions it rests on.
        seeds: training seeds it is the mean of.
        question, question_spread: A, and the sum of its tasks' squares by their degrees of freedom.
        seed, rest: B and C; nan with one seed, which cannot show them.
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
        """What training seeds alone add to ``se`` (in squares); nan with one seed."""
        return math.sqrt(max(self.seed - self.rest, 0.0)) if self.seeds > 1 else math.nan


def estimate(parts: Sequence[Part]) -> Estimate:
    """The weighted sum of task means with its standard error (the module tells how)."""
    seeds = parts[0].scores.shape[0]
    weights = np.array([part.weight for part in parts])  # [T]
    groups = np.array([part.clusters.max() + 1 for part in parts])  # [T]
    by_seed = weights @ np.stack([part.scores.mean(axis=1) for part in parts])  # [S]
    value = float(by_seed.mean())
    if groups.min() < 2:
        return Estimate(value, math.nan, math.nan, int(groups.sum()), seeds)

    by_task = weights**2 * np.array([_mean_variance(p.scores.mean(axis=0), p.clusters) for p in parts])
    question, spread = float(by_task.sum()), float((by_task**2 / (groups - 1)).sum())
    seed = rest = math.nan
    if seeds > 1:
        seed = float(by_seed.var(ddof=1)) / seeds
        rest = float((weights**2 * np.array([_rest_variance(p.scores, p.clusters) for p in parts])).sum())
    se, dof = combine(question, spread, seed, rest, seeds - 1)
    if se <= NEGLIGIBLE * max(float(np.abs(part.scores).max()) for part in parts):
        se, dof = 0.0, float((groups - 1).sum())
    return Estimate(value, se, dof, int(groups.sum()), seeds, question, spread, seed, rest)


def combine(question: float, spread: float, seed: float, rest: float, seed_dof: int) -> tuple[float, float]:
    """Standard error and Satterthwaite's degrees of freedom from A, its spread, B, C and the freedom of B."""
    variance = question
    if not math.isnan(seed):
        variance += max(seed - rest, 0.0)
        spread += seed**2 / seed_dof
    return math.sqrt(variance), variance**2 / spread if spread else math.inf


def _mean_variance(scores: Floats, clusters: Ints) -> float:
    """Variance of the mean of ``scores`` f64[n]; with singleton clusters it is s²/n."""
    groups, n = clusters.max() + 1, len(scores)
    sums = np.bincount(clusters, weights=scores - scores.mean(), minlength=groups)
    return float(groups / (groups - 1) * (sums**2).sum() / n**2)


def _rest_variance(scores: Floats, clusters: Ints) -> float:
    """C of one task: the seed × question residuals of ``scores`` f64[S, n], as variance of the mean over both."""
    seeds = scores.shape[0]
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + scores.mean()
    return sum(_mean_variance(row, clusters) for row in rest) / (seeds * (seeds - 1))


def p_value(difference: Estimate) -> float:
    """Two-sided probability of a difference this far from 0 if there were none (t test).

    Where every question differs by the same amount the t test has no variance to go by; the sign test over the
    independent questions, ``2^(1 - G)``, is used instead.
    """
    if math.isnan(difference.se):
        return math.nan
    if difference.se == 0:
        return 1.0 if difference.value == 0 else float(2.0 ** (1 - difference.clusters))
    return float(2 * stdtr(difference.dof, -abs(difference.value) / difference.se))


def holm(p_values: Sequence[float], comparisons: int | None = None) -> list[float]:
    """Holm's adjusted p-values, in the order given; nan stays nan and is not counted.

    Args:
        comparisons: size of the family where ``p_values`` is only a part of it. The rest counts as less significant,
            which can only raise the adjusted values.
    """
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    family = comparisons if comparisons is not None else len(known)
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (family - np.arange(len(order)))))
    return [float(value) for value in adjusted]


def detectable(difference: Estimate, comparisons: int = 1) -> float:
    """The smallest true difference found significant with 80 % power, as the strictest of ``comparisons`` (α / m).

    nan where the standard error is unknown or zero.
    """
    if math.isnan(difference.se) or difference.se == 0:
        return math.nan
    return (_quantile(1 - ALPHA / (2 * comparisons), difference.dof) + _quantile(POWER, difference.dof)) * difference.se


def _quantile(probability: float, dof: float) -> float:
    return float(stdtrit(dof, probability) if dof < 1e6 else ndtri(probability))
