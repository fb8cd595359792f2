"""Tests across a few training seeds: what all the rows of a table know together about how seeds vary.

Two or three seeds tell one pair of rows next to nothing about its own seed variance: where by luck they agree, a
difference looks far surer than it is, and a table has many pairs to be lucky in. So each pair is tested twice, with its
own seed variance and with the mean over the table's pairs, as an analysis of variance would, and the larger p-value
counts. The first guards against a strategy that varies more than the others, the second against luck.

The mean has (rows - 1)(seeds - 1) degrees of freedom, those of the row × seed interaction. With four or fewer,
Satterthwaite's estimate of the whole's freedom is itself too uncertain to go by and is capped there.

Checked by simulation: in tables of equal strategies with two to five seeds, at most one in twenty shows a star, and
one in twelve where one strategy's seeds vary three times as much; without pooling a table of seven strategies over
three seeds showed one two times in three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from leaderboards.statistics import Estimate, combine, detectable, p_value

FEW = 4  # degrees of freedom at or below which no more than these are believed


def pooled(pairs: Sequence[Estimate], rows: int) -> list[Estimate]:
    """The pairs with the seed variance of all of them in place of their own; those of one seed as they are.

    Args:
        rows: how many rows the pairs are between.
    """
    several = [pair for pair in pairs if pair.seeds > 1 and pair.se > 0]
    if not several:
        return list(pairs)
    # B and C are variances of means over seeds: one seed's worth is what rows with unequal seeds have in common.
    seed = sum(pair.seed * pair.seeds for pair in several) / len(several)
    rest = sum(pair.rest * pair.seeds for pair in several) / len(several)
    dof = (rows - 1) * (min(pair.seeds for pair in several) - 1)
    return [_with_seed_variance(pair, seed, rest, dof) if pair.seeds > 1 and pair.se > 0 else pair for pair in pairs]


def _with_seed_variance(pair: Estimate, seed: float, rest: float, dof: int) -> Estimate:
    seed, rest = seed / pair.seeds, rest / pair.seeds
    se, freedom = combine(pair.question, pair.question_spread, seed, rest, dof)
    return replace(pair, se=se, dof=min(freedom, dof) if dof <= FEW else freedom, seed=seed, rest=rest)


def cautious_p(own: Estimate, shared: Estimate) -> float:
    """The larger p-value of a pair under its own and under the shared seed variance."""
    return max(p_value(own), p_value(shared)) if not math.isnan(own.se) else math.nan


def cautious_detectable(own: Estimate, shared: Estimate, comparisons: int) -> float:
    """What :func:`cautious_p` finds with 80 % power (over a few seeds, about 70 %): the larger of both."""
    return max(detectable(own, comparisons), detectable(shared, comparisons))
