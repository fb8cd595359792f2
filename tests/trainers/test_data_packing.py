"""Packing loses nothing, overfills nothing, and keeps examples apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data import Example, block_mask, collate, pack


def example(length: int, first_target: int = 1) -> Example:
    return Example(np.arange(10, 10 + length, dtype=np.int32), np.arange(length) >= first_target)


@given(lengths=st.lists(st.integers(1, 64), max_size=60))
@settings(max_examples=60, deadline=None)
def test_every_example_is_in_exactly_one_row_and_no_row_is_too_long(lengths):
    rows = pack(lengths, 64)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)
    assert rows == pack(lengths, 64)


def test_short_examples_leave_little_padding():
    lengths = np.random.default_rng(0).lognormal(4.5, 1.0, 128).astype(int).clip(8, 2048)
    rows = pack(lengths, 2048)
    assert lengths.sum() / (len(rows) * max(sum(lengths[i] for i in row) for row in rows)) > 0.9


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="65"):
        pack([65], 64)


def test_a_row_keeps_positions_sources_and_labels_of_each_example():
    examples = [example(3), example(4, first_target=2), example(2)]
    batch = collate([[0, 1], [2]], examples, [5, 6, 7], pad_id=0)
    assert batch.input_ids.tolist() == [[10, 11, 12, 10, 11, 12, 13], [10, 11, 0, 0, 0, 0, 0]]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.example_ids.tolist() == [[0, 0, 0, 1, 1, 1, 1], [2, 2, -1, -1, -1, -1, -1]]
    assert batch.source_ids.tolist() == [[5, 5, 5, 6, 6, 6, 6], [7, 7, -1, -1, -1, -1, -1]]
    assert batch.labels.tolist() == [[-100, 11, 12, -100, -100, 12, 13], [-100, 11, *[-100] * 5]]


def test_attention_stays_within_an_example_and_never_looks_ahead():
    batch = collate([[0, 1], [2]], [example(3), example(2), example(2)], [0, 1, 0], pad_id=0)
    mask = block_mask(batch.example_ids)[:, 0]
    for row, ids in zip(mask, batch.example_ids, strict=True):
        for i in range(5):
            for j in range(5):
                allowed = j <= i and ids[i] == ids[j] and ids[i] >= 0
                assert bool(row[i, j]) == (allowed or i == j)
    assert mask.any(dim=-1).all()  # no row of attention is empty: that would be nan
    assert torch.equal(mask, mask & torch.ones(5, 5).tril().bool())
