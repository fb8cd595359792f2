"""Turn significant pairs of rows into rank intervals and groups of tied rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


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
                split = [part for group in groups for part in _without(group, i, j)]
                groups = [g for g in dict.fromkeys(split) if not any(g < other for other in split)]
    return [[ordered[i] for i in sorted(group)] for group in sorted(groups, key=sorted)]


def _without(group: frozenset[int], i: int, j: int) -> list[frozenset[int]]:
    return [group - {i}, group - {j}] if {i, j} <= group else [group]
