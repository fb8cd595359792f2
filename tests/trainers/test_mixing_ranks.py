"""Two processes with different rows of the batch decide as one, and each of them makes sure of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import two_ranks
from forked import run_ranks
from small_runs import lines

from trainers.data.batches import GlobalBatch, Layout


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """The folder in which two processes trained."""
    folder = tmp_path_factory.mktemp("two")
    run_ranks(two_ranks.main, folder)
    return folder


@pytest.mark.parametrize("name", two_ranks.STRATEGIES)
def test_both_ranks_hold_the_same_weights_to_the_bit(both, name):
    first, second = (np.load(both / f"{name}-{rank}.npz") for rank in (0, 1))
    for array in ("history", "weights"):
        assert first[array].tobytes() == second[array].tobytes()
    assert np.ptp(first["weights"]) > 0, "something was decided"


@pytest.mark.parametrize("name", two_ranks.STRATEGIES)
def test_two_ranks_of_which_each_lacks_sources_decide_what_one_process_would(both, tmp_path, name):
    two_ranks.loop(name, tmp_path, two_ranks.sources(tmp_path / "sources")).run()
    alone, together = (lines(folder / name / "mixture.jsonl", without="cost") for folder in (tmp_path, both))
    for one, two in zip(alone, together, strict=True):
        assert one["realised_examples"] == two["realised_examples"]
        assert sum(count > 0 for count in one["realised_examples"]) <= 2, "so each rank lacked two sources of three"
        np.testing.assert_allclose(two["after"], one["after"], rtol=2e-3)
    if name == "dynamic":  # before the first step of learning the counts agree exactly, whoever counted what
        assert alone[1]["observation"] == together[1]["observation"]


def test_a_rank_that_strays_by_one_bit_is_noticed_by_each(both):
    for rank in (0, 1):
        assert "1 of 2 processes disagree" in (both / f"strayed-{rank}.txt").read_text()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_share_the_drawn_examples_out_without_losing_or_repeating_one(tmp_path, ranks):
    sources = two_ranks.sources(tmp_path)
    ids, indices = np.repeat(np.arange(3, dtype=np.int32), 7), np.tile(np.arange(7), 3)
    batch = GlobalBatch.of(sources, ids, indices, Layout(64, True, 1, 0))
    rows = [batch.all_forwards[rank::ranks] for rank in range(ranks)]
    shared = [example for forwards in rows for forward in forwards for row in forward for example in row]
    assert sorted(shared) == list(range(21))
    tokens = np.zeros(3, dtype=np.int64)
    for rank in range(ranks):
        for forward in batch.forwards(rank, ranks, torch.device("cpu")):
            real = forward.source_RT[forward.source_RT >= 0].numpy()
            tokens += np.bincount(real, minlength=3)
    np.testing.assert_array_equal(tokens, batch.tally.tokens)
