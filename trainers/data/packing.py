"""Packing: several examples of a batch share a row, and each attends only to itself.

Every example keeps its own positions and its own attention block, so packing changes only how much padding is
computed. Each token keeps its source id, so loss and gate load are attributed token by token.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from trainers.data.tokens import Example

NO_LOSS = -100
"""The label of a token that is no training target, as in transformers."""


@dataclass(frozen=True)
class PackedBatch:
    """R rows of T tokens.

    Attributes:
        input_ids: int64[R, T].
        position_ids: int64[R, T], starting from 0 in every example; 0 in padding.
        labels: int64[R, T], the token itself if it is a target, otherwise -100; the loss shifts them, as in
            transformers. An example's first token is never a target, so nothing is predicted across a boundary.
        example_ids: int64[R, T], index into the batch's examples; -1 in padding.
        source_ids: int64[R, T], the token's source; -1 in padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    example_ids: torch.Tensor
    source_ids: torch.Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the same batch on a device."""
        return PackedBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def pack(lengths: Sequence[int] | NDArray[np.int64], max_length: int) -> list[list[int]]:
    """Distribute examples over as few rows as best-fit decreasing finds, and make these rows as equal as it can.

    The second step lowers the row length while the number of rows stays the same, because rows that are computed
    together are padded to the longest of them. The result, the examples (indices into ``lengths``) of each row, is
    deterministic, with the longest row first. Each length is from 1 to ``max_length``.
    """
    sizes = [int(length) for length in lengths]
    if not sizes:
        return []
    if min(sizes) < 1 or max(sizes) > max_length:
        raise ValueError(f"lengths must lie in 1..{max_length}; got {min(sizes)}..{max(sizes)}")
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    rows = _best_fit(sizes, order, max_length)
    low, high = max(max(sizes), -(-sum(sizes) // len(rows))), max_length
    while low < high:
        middle = (low + high) // 2
        tighter = _best_fit(sizes, order, middle)
        if len(tighter) <= len(rows):
            rows, high = tighter, middle
        else:
            low = middle + 1
    return sorted(rows, key=lambda row: (-sum(sizes[i] for i in row), row[0]))


def _best_fit(sizes: list[int], order: list[int], capacity: int) -> list[list[int]]:
    """Put each example, longest first, into the fullest row that still has room."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for i in order:
        at = bisect.bisect_left(room, (sizes[i], -1))
        if at < len(room):
            free, row = room.pop(at)
        else:
            free, row = capacity, len(rows)
            rows.append([])
        rows[row].append(i)
        bisect.insort(room, (free - sizes[i], row))
    return rows


def collate(
    rows: list[list[int]],
    examples: Sequence[Example],
    source_ids: Sequence[int] | NDArray[np.int64],
    pad_id: int,
    length: int | None = None,
) -> PackedBatch:
    """Return the tensors of rows, each the examples that :func:`pack` put into it.

    They are as long as ``length``, by default the longest row, and padded with ``pad_id``.
    """
    import torch

    longest = max(sum(len(examples[i].input_ids) for i in row) for row in rows)
    width = longest if length is None else length
    if longest > width:
        raise ValueError(f"a row has {longest} tokens, more than length={width}")
    shape = (len(rows), width)
    input_ids, positions = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    labels, owners, sources = (np.full(shape, fill, np.int64) for fill in (NO_LOSS, -1, -1))
    for r, row in enumerate(rows):
        start = 0
        for i in row:
            tokens = examples[i].input_ids
            span = slice(start, start + len(tokens))
            input_ids[r, span] = tokens
            positions[r, span] = np.arange(len(tokens))
            labels[r, span] = np.where(examples[i].is_target, tokens, NO_LOSS)
            labels[r, start] = NO_LOSS
            owners[r, span] = i
            sources[r, span] = source_ids[i]
            start = span.stop
    return PackedBatch(*(torch.from_numpy(a) for a in (input_ids, positions, labels, owners, sources)))


def block_mask(example_ids: torch.Tensor) -> torch.Tensor:
    """Return which token attends to which, bool[R, 1, T, T]: to earlier tokens of its own example, and to itself.

    ``example_ids``, i64[R, T], is -1 in padding. A padding token attends to itself: a row of only False would become
    NaN.
    """
    import torch

    steps = torch.arange(example_ids.shape[1], device=example_ids.device)
    same = (example_ids[:, :, None] == example_ids[:, None, :]) & (example_ids[:, :, None] >= 0)
    causal = steps[:, None] >= steps[None, :]
    itself = steps[:, None] == steps[None, :]
    return ((same & causal) | itself)[:, None]
