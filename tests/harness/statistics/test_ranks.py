"""Rank intervals and tied groups: by hand, and what must hold for any pattern of significant pairs."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from harness.statistics.families import rank_intervals, tied_groups


def from_pairs(*pairs: str):
    return lambda a, b: a + b in pairs or b + a in pairs


def test_a_chain_of_near_neighbours_is_two_groups_not_one():
    assert tied_groups("abc", from_pairs("ac")) == [["a", "b"], ["b", "c"]]


def test_clear_differences_leave_each_alone_and_none_leave_all_together():
    assert tied_groups("abc", from_pairs("ab", "ac", "bc")) == [["a"], ["b"], ["c"]]
    assert tied_groups("abc", from_pairs()) == [["a", "b", "c"]]
    assert tied_groups("", from_pairs()) == []


def test_a_rank_is_known_as_far_as_others_are_surely_above_or_below():
    scores = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert rank_intervals(scores, from_pairs("ac")) == {"a": (1, 2), "b": (1, 3), "c": (2, 3)}
    assert rank_intervals(scores, from_pairs("ab", "ac", "bc")) == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}


@given(st.integers(1, 7), st.randoms(use_true_random=False))
def test_the_groups_are_all_the_largest_sets_without_a_significant_pair(count, random):
    differing = {pair for pair in itertools.combinations(range(count), 2) if random.random() < 0.4}
    differ = lambda a, b: (min(a, b), max(a, b)) in differing
    alike = [
        set(chosen)
        for size in range(1, count + 1)
        for chosen in itertools.combinations(range(count), size)
        if not any(differ(a, b) for a, b in itertools.combinations(chosen, 2))
    ]
    largest = sorted(sorted(group) for group in alike if not any(group < other for other in alike))
    assert tied_groups(range(count), differ) == largest
