"""Draws follow the weights, repeat nothing within an epoch, and depend on nothing but seed, weights and number."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data import Draws, SourceExhaustedError
from trainers.data.draws import permuted

SIZES = np.array([5, 40, 1, 300])
WEIGHTS = np.array([0.1, 0.2, 0.3, 0.4])


def counted(source: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(source, minlength=k)


def test_realised_shares_match_the_weights():
    n = 200_000
    source, _ = Draws(SIZES, seed=3).take(0, n, WEIGHTS, np.zeros(4, int))
    chi_square = ((counted(source, 4) - n * WEIGHTS) ** 2 / (n * WEIGHTS)).sum()
    assert chi_square < 16.3  # 99.9 % of chi-square with 3 degrees of freedom


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5), seed=st.integers(0, 2**63))
@settings(max_examples=40, deadline=None)
def test_every_epoch_of_a_source_visits_each_example_once(sizes, seed):
    sizes = np.array(sizes)
    k = len(sizes)
    n = int(sizes.sum()) * 4
    source, index = Draws(sizes, seed).take(0, n, np.full(k, 1 / k), np.zeros(k, int))
    for s in range(k):
        mine = index[source == s]
        for start in range(0, len(mine) - sizes[s] + 1, sizes[s]):
            assert sorted(mine[start : start + sizes[s]]) == list(range(sizes[s]))


def test_epochs_are_shuffled_anew_and_by_seed():
    sizes = np.array([100])
    one = np.ones(1)
    _, index = Draws(sizes, 0).take(0, 200, one, np.zeros(1, int))
    assert (index[:100] != index[100:]).any()
    _, other = Draws(sizes, 1).take(0, 200, one, np.zeros(1, int))
    assert (index != other).any()


@pytest.mark.parametrize("size", [2, 3, 5, 7, 16, 97])
def test_over_many_epochs_each_example_is_as_likely_at_each_place(size):
    epochs = 4000
    keys = np.random.default_rng(size).integers(0, 2**64, epochs, dtype=np.uint64)
    for place in {0, 1, size - 1}:
        counts = counted(permuted(np.full(epochs, place), np.full(epochs, size), keys), size)
        chi_square = ((counts - epochs / size) ** 2 / (epochs / size)).sum()
        degrees = size - 1
        assert chi_square < degrees + 5 * np.sqrt(2 * degrees) + 10


def test_neighbours_of_one_epoch_are_not_neighbours_in_the_next():
    size = 10_000
    here, there = (permuted(np.arange(size), np.full(size, size), np.full(size, k, np.uint64)) for k in (1, 2))
    assert sorted(here) == sorted(there) == list(range(size))
    assert abs(np.corrcoef(here, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(here, there)[0, 1]) < 0.05
    assert (np.abs(np.diff(here)) == 1).mean() < 0.002
    assert (np.abs(here - there) == 0).sum() < 10


def test_a_source_with_no_weight_is_never_drawn():
    for k in range(4):
        weights = np.where(np.arange(4) == k, 0, 1 / 3)
        assert k not in Draws(SIZES, 0).take(0, 100_000, weights, np.zeros(4, int))[0]


@given(cut=st.integers(1, 999), change=st.integers(1, 999), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_resuming_by_replay_goes_on_as_if_never_stopped(cut, change, seed):
    draws = Draws(SIZES, seed)
    later = np.array([0.7, 0.1, 0.1, 0.1])
    history = [(0, WEIGHTS), (change, later)]

    def stretch(start: int, end: int) -> list[tuple[int, int]]:
        pairs = []
        for first, last, weights in ((start, min(end, change), WEIGHTS), (max(start, change), end, later)):
            if first < last:
                source, index = draws.take(first, last - first, weights, draws.replay(history, first))
                pairs += list(zip(source.tolist(), index.tolist(), strict=True))
        return pairs

    assert stretch(0, cut) + stretch(cut, 1000) == stretch(0, 1000)


def test_a_batch_at_a_time_is_the_same_as_all_at_once():
    draws = Draws(SIZES, 7)
    source, index = draws.take(0, 640, WEIGHTS, np.zeros(4, int))
    drawn = np.zeros(4, int)
    for step in range(20):
        s, i = draws.take(step * 32, 32, WEIGHTS, drawn)
        assert (s == source[step * 32 : (step + 1) * 32]).all()
        assert (i == index[step * 32 : (step + 1) * 32]).all()
        drawn += counted(s, 4)


def test_what_was_asked_before_changes_nothing():
    used, k = Draws(SIZES, 7), len(SIZES)
    weights, drawn = WEIGHTS.copy(), np.zeros(k, int)
    rng = np.random.default_rng(0)
    start = 0
    for _ in range(60):
        n = int(rng.integers(1, 3000))
        got, fresh = used.take(start, n, weights, drawn), Draws(SIZES, 7).take(start, n, weights, drawn)
        assert all(np.array_equal(a, b) for a, b in zip(got, fresh, strict=True))
        match rng.integers(4):
            case 0:  # new weights, in the same array
                weights[:] = rng.dirichlet(np.ones(k))
            case 1:  # the same draw again
                continue
            case 2:  # somewhere else, after other draws
                start, drawn = int(rng.integers(10_000)), rng.integers(0, 100, k)
                continue
        drawn = drawn + counted(got[0], k)
        start += n


def test_a_source_that_may_not_repeat_stops_at_the_same_draw_whatever_the_batch():
    def stops_at(batch: int) -> int:
        draws, drawn, start = Draws(SIZES, 3, "stop"), np.zeros(4, int), 0
        while True:
            try:
                source, _ = draws.take(start, batch, np.array([0.2, 0.6, 0.0, 0.2]), drawn)
            except SourceExhaustedError as end:
                return end.draw
            drawn, start = drawn + counted(source, 4), start + batch

    assert len({stops_at(batch) for batch in (1, 7, 500)}) == 1


def test_a_source_that_may_not_repeat_says_where_it_ran_out():
    with pytest.raises(SourceExhaustedError) as caught:
        Draws(SIZES, 0, "stop").take(0, 100, WEIGHTS, np.zeros(4, int))
    assert caught.value.source == 2
    assert caught.value.draw < 100


def test_weights_that_are_no_distribution_are_refused():
    for weights in ([0.5, 0.5, 0.5, 0.5], [-0.1, 0.5, 0.3, 0.3], [np.nan, 0.5, 0.3, 0.2]):
        with pytest.raises(ValueError, match="sum to 1"):
            Draws(SIZES, 0).take(0, 1, np.array(weights), np.zeros(4, int))


def test_ten_thousand_sources_are_drawn_from_quickly():
    k = 10_000
    draws = Draws(np.full(k, 1000), 0)
    drawn = np.zeros(k, int)
    rng = np.random.default_rng(0)
    begun = time.process_time()
    for i in range(10):
        source, _ = draws.take(i * 12_800, 12_800, rng.dirichlet(np.ones(k)), drawn)
        drawn += counted(source, k)
    assert 128_000 / (time.process_time() - begun) > 200_000  # a floor with room for a loaded machine
