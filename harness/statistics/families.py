"""Define the family of tests of a table or a board, its correction, and the verdicts, ranks and ties that follow.

Strategies are compared over training seeds: the declared comparisons are one family, and all the others of a table are
another (:mod:`harness.statistics.joint` corrects both). Checkpoints are compared over questions: the family is every
pair in every column of a table, or of one suite version of a board, corrected by Holm's method (1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

from harness.statistics.estimates import ALPHA, Floats

T = TypeVar("T")
Verdict = Literal["better", "worse", "equal", "undecided"]
Family = Literal["primary", "exploratory", "pairs"]
"""What a comparison was corrected with: the declared comparisons, all others, or all pairs of checkpoints."""


def adjust(p_values: Sequence[float] | Floats) -> list[float]:
    """Return the p-values of a family, corrected for all of its comparisons, in the order given (Holm 1979).

    A p-value that is nan stays nan and does not count.

    >>> adjust([0.01, 0.04, math.nan, 0.03])
    [0.03, 0.06, nan, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (len(known) - np.arange(len(known)))))
    found: list[float] = adjusted.tolist()
    return found


def level_of_family(comparisons: int, count_below: Callable[[float], int]) -> float:
    """Return the level below which :func:`adjust` makes p-values significant, for families too large to sort.

    Holm's method rejects the k smallest p-values as long as each is below ``α / (comparisons - how many are smaller)``.
    We go up from below: if R are rejected, the level is ``α / (comparisons - R)``, which may reject more.
    ``count_below`` returns how many p-values are below a level.
    """
    rejected = 0
    while True:
        level = ALPHA / max(1, comparisons - rejected)
        found = count_below(level)
        if found <= rejected:
            return level
        rejected = found


def verdict(
    difference: float,
    p_adjusted: float,
    p_equal: float = math.nan,
    *,
    higher_is_better: bool = True,
    level: float = ALPHA,
) -> Verdict:
    """Return the verdict on the first of two rows; p-values that are nan leave it undecided.

    A significant difference is better or worse, however small. Otherwise the rows are equal if two one-sided tests
    (Schuirmann 1987) place the difference within the margin.

    >>> verdict(0.1, 0.2, 0.01)
    'equal'
    """
    if p_adjusted < level and difference != 0:
        return "better" if (difference > 0) == higher_is_better else "worse"
    return "equal" if p_equal < level else "undecided"


def rank_intervals(scores: Mapping[T, float], differ: Callable[[T, T], bool]) -> dict[T, tuple[int, int]]:
    """Return the best and the worst rank that each row may have; rank 1 has the highest score.

    The best rank is 1 plus the number of significantly better rows. The worst rank is the number of rows minus the
    number of significantly worse ones. If the family-wise error of the pairs is 5 %, all intervals hold together with
    95 % (Mogstad, Romano, Shaikh & Wilhelm 2024, Inference for Ranks).
    """
    intervals = {}
    for item, score in scores.items():
        others = [other for other in scores if other is not item and differ(item, other)]
        better = sum(scores[other] > score for other in others)
        worse = sum(scores[other] < score for other in others)
        intervals[item] = (1 + better, len(scores) - worse)
    return intervals


def tied_groups(ordered: Sequence[T], differ: Callable[[T, T], bool]) -> list[list[T]]:
    """Return the largest groups of rows of which no two differ, each in the order given, sorted by first member.

    If a and b do not differ significantly, and b and c neither, a and c still may. A row can therefore be in several
    groups. This is the compact letter display by insertion and absorption (Piepho 2004).

    >>> tied_groups(["best", "middle", "worst"], lambda a, b: {a, b} == {"best", "worst"})
    [['best', 'middle'], ['middle', 'worst']]
    """
    groups = [frozenset(range(len(ordered)))] if ordered else []
    for i in range(len(ordered)):
        for j in range(i + 1, len(ordered)):
            if differ(ordered[i], ordered[j]):
                pair = {i, j}
                split = [part for g in groups for part in ((g - {i}, g - {j}) if pair <= g else (g,))]
                groups = [g for g in dict.fromkeys(split) if not any(g < other for other in split)]
    return [[ordered[i] for i in sorted(group)] for group in sorted(groups, key=sorted)]
