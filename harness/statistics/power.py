"""Say what other numbers of seeds and questions would show, and how reliably parts of the data pick the winner."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from harness.statistics.estimates import ALPHA, POWER, Estimate, Floats, combine, quantile

MOST_SEEDS = 200
DRAWS = 200


@dataclass(frozen=True)
class Variances:
    """What a score with one seed, or a difference of two, varies by; :mod:`harness.statistics.estimates` defines it.

    Attributes:
        seed: variance that the training seed adds to a score over all questions.
        question: variance by the choice of questions.
        rest: variance by what a seed does to single questions.
        clusters: number of independent clusters of questions.
    """

    seed: float
    question: float
    rest: float
    clusters: int

    @property
    def noise(self) -> float:
        """Return the standard deviation over seeds of a score on the same questions."""
        return math.sqrt(self.seed + self.rest)

    def error(self, seeds: int, share: float = 1.0, rows: int = 2) -> tuple[float, float]:
        """Return standard error and degrees of freedom with so many seeds and this share of the questions."""
        rest = self.rest / (seeds * share)
        question = self.question / share + rest
        spread = question**2 / max(self.clusters * share - 1, 1)
        return combine(question, spread, self.seed / seeds + rest, rest, max(rows - 1, 1) * (seeds - 1))

    def detectable(self, seeds: int, share: float = 1.0, rows: int = 2, comparisons: float = 1.0) -> float:
        """Return the true difference that is found with 80 % power, with two seeds or more.

        ``share`` is that of the questions that there are, ``rows`` the number of rows that share the seed variance, and
        ``comparisons`` the number of independent comparisons that the correction is worth.
        """
        se, dof = self.error(seeds, share, rows)
        return float((quantile(1 - ALPHA / (2 * comparisons), dof) + quantile(POWER, dof)) * se)

    def seeds_for(self, target: float, share: float = 1.0, rows: int = 2, comparisons: float = 1.0) -> int | None:
        """Return the smallest number of seeds, from three, that detects ``target``; None if 200 are not enough."""
        for seeds in range(3, MOST_SEEDS + 1):
            if self.detectable(seeds, share, rows, comparisons) <= target:
                return seeds
        return None


def variances(found: Sequence[Estimate]) -> Variances | None:
    """Return the mean variances of estimates; None if none has two seeds and a known error."""
    several = [e for e in found if e.seeds > 1 and not math.isnan(e.se)]
    if not several:
        return None
    return Variances(
        seed=max(float(np.mean([(e.seed - e.rest) * e.seeds for e in several])), 0.0),
        question=max(float(np.mean([e.question - e.rest for e in several])), 0.0),
        rest=float(np.mean([e.rest * e.seeds for e in several])),
        clusters=min(e.clusters for e in several),
    )


def worth(critical: float, dof: float) -> float:
    """Return the number of independent comparisons for which Bonferroni's correction has this critical value."""
    return max(ALPHA / (2 * float(stdtr(dof, -critical))), 1.0)


def winner(scores: Floats) -> int:
    """Return the row with the highest mean of f64[R, S]."""
    return int(np.argmax(scores.mean(axis=1)))


def accuracy_of_seeds(scores: Floats, count: int, truth: int) -> float:
    """Return the share of all choices of ``count`` seeds of f64[R, S] in which row ``truth`` wins."""
    chosen = list(itertools.combinations(range(scores.shape[1]), count))
    if len(chosen) > DRAWS:
        generator = np.random.default_rng(0)
        chosen = [chosen[at] for at in generator.choice(len(chosen), DRAWS, replace=False)]
    return float(np.mean([winner(scores[:, list(seeds)]) == truth for seeds in chosen]))


def accuracy_of_questions(tasks: Sequence[tuple[float, Floats]], share: float, truth: int) -> float:
    """Return how often row ``truth``, which wins on everything, wins on a random share of the questions.

    Tasks have a weight and f64[R, n], the mean over seeds of the score of each question; at least one question of each
    is drawn.
    """
    generator, hits = np.random.default_rng(0), 0
    for _ in range(DRAWS):
        total = np.zeros(tasks[0][1].shape[0])
        for weight, scores in tasks:
            count = max(1, round(share * scores.shape[1]))
            total += weight * scores[:, generator.permutation(scores.shape[1])[:count]].mean(axis=1)
        hits += int(np.argmax(total)) == truth
    return hits / DRAWS
