"""Ranks as far as they are known: from which pairs of rows differ significantly, to rank intervals and tied groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def rank_intervals(scores: Mapping[T, float], differ: Callable[[T, T], bool]) -> dict[T, tuple[int, int]]:
    """The best and the worst rank that each may have, 1 the highest score.

    The best is one more than how many are significantly better, the worst the number of all less how many are
    significantly worse. Where the pairs are tested at a family-wise 5 %, all intervals hold together with 95 %
    (Mogstad, Romano, Shaikh & Wilhelm 2024, Inference for Ranks).
    """
    intervals = {}
    for item, score in scores.items():
        others = [other for other in scores if other is not item and differ(item, other)]
        better = sum(scores[other] > score for other in others)
        worse = sum(scores[other] < score for other in others)
        intervals[item] = (1 + better, len(scores) - worse)
    return intervals


def tied_groups(ordered: Sequence[T], differ: Callable[[T, T], bool]) -> list[list[T]]:
    """The largest groups of which no two differ, each in the order given, by their first member.

    "Not significantly different" does not carry over from a-b and b-c to a-c, so a row may stand in several groups.
    This is the compact letter display by insertion and absorption (Piepho 2004).
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
