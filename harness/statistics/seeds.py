"""Test differences over a few training seeds with what all the rows of a table together show about seeds.

Two or three seeds say little about the seed variance of one pair of rows. If they agree by luck, a difference looks
far surer than it is, and a table has many pairs. We therefore test each pair twice: with its own seed variance, and
with the mean over the pairs of its column, as an analysis of variance would. The larger p-value counts. The first test
protects against a strategy that varies more than the others, the second against luck.

The mean has (rows - 1)(seeds - 1) degrees of freedom, those of the row × seed interaction. With four or fewer,
Satterthwaite's degrees of freedom of the whole are themselves too uncertain, and we cap them there.

Simulations check this: tables of equal strategies with two to five seeds show a star in at most one of twenty cases,
and in one of twelve if the seeds of one strategy vary three times as much. Without pooling, a table of seven strategies
over three seeds showed a star two times in three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from harness.statistics.estimates import Estimate, combine, detectable, p_value

FEW = 4  # at or below this many degrees of freedom, no more than these count


def pool_seed_variance(pairs: Sequence[Estimate], rows: int) -> list[Estimate]:
    """Return the pairs with the mean seed variance of all of them; pairs of one seed stay as they are.

    Args:
        pairs: differences in one column.
        rows: number of rows that the pairs are between.
    """
    several = [pair for pair in pairs if pair.seeds > 1 and pair.se > 0]
    if not several:
        return list(pairs)
    # B and C are variances of means over seeds. Rows with unequal numbers of seeds share the variance of one seed.
    seed = sum(pair.seed * pair.seeds for pair in several) / len(several)
    rest = sum(pair.rest * pair.seeds for pair in several) / len(several)
    dof = (rows - 1) * (min(pair.seeds for pair in several) - 1)
    return [_with_seed_variance(pair, seed, rest, dof) if pair.seeds > 1 and pair.se > 0 else pair for pair in pairs]


def _with_seed_variance(pair: Estimate, seed: float, rest: float, dof: int) -> Estimate:
    seed, rest = seed / pair.seeds, rest / pair.seeds
    se, freedom = combine(pair.question, pair.question_spread, seed, rest, dof)
    return replace(pair, se=se, dof=min(freedom, dof) if dof <= FEW else freedom, seed=seed, rest=rest)


def cautious_p_value(own: Estimate, pooled: Estimate) -> float:
    """Return the larger p-value of a pair with its own and with the pooled seed variance."""
    return max(p_value(own), p_value(pooled)) if not math.isnan(own.se) else math.nan


def cautious_detectable(own: Estimate, pooled: Estimate, comparisons: int) -> float:
    """Return what :func:`cautious_p_value` detects with 80 % power (over a few seeds, about 70 %)."""
    return max(detectable(own, comparisons), detectable(pooled, comparisons))
