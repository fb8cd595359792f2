"""From drawn examples to the forward passes of each rank.

Every rank draws the same global batch and lays out the same rows; it collates and computes its own share of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import LongTensor

from harness.errors import StageFailed
from trainers.data import Example, PackedBatch, TokenSource, collate, pack
from trainers.training.tally import Tally

Rows = list[list[int]]


@dataclass(frozen=True)
class Forward:
    """One forward pass: R rows of T tokens, and the N targets in them.

    Attributes:
        input_RT: token ids.
        position_RT: positions, restarted at every example.
        source_RT: source of every token; -1 is padding.
        at_N: flat positions whose hidden state predicts a target.
        target_N: the token ids to predict there.
        target_source_N: i64[N], the source of each target, on the host.
        tokens: real tokens.
    """

    input_RT: LongTensor
    position_RT: LongTensor
    source_RT: LongTensor
    at_N: LongTensor
    target_N: LongTensor
    target_source_N: NDArray[np.int64]
    tokens: int

    @classmethod
    def of(cls, packed: PackedBatch, device: torch.device) -> Forward:
        """From collated rows. A label is predicted by the position before it, which is in the same example."""
        labels_RT = packed.labels.numpy()
        row_N, column_N = np.nonzero(labels_RT != -100)
        source_RT = packed.source_ids.numpy()

        def move(tensor: Any) -> Any:
            return tensor.to(device, non_blocking=True)

        return cls(
            input_RT=move(packed.input_ids),
            position_RT=move(packed.position_ids),
            source_RT=move(packed.source_ids),
            at_N=move(torch.from_numpy(row_N * labels_RT.shape[1] + column_N - 1)),
            target_N=move(torch.from_numpy(labels_RT[row_N, column_N])),
            target_source_N=source_RT[row_N, column_N],
            tokens=int((source_RT >= 0).sum()),
        )


@dataclass(frozen=True)
class Layout:
    """How examples become rows and rows become forward passes.

    Args:
        max_length: tokens in a row.
        packed: several examples to a row; otherwise one, padded to ``max_length``.
        rows_per_forward: rows in one forward pass.
        pad_id: token id in padded positions.
    """

    max_length: int
    packed: bool
    rows_per_forward: int
    pad_id: int

    def forwards(self, lengths: NDArray[np.int64]) -> list[Rows]:
        """The forward passes of a global batch: for each, its rows, each a list of indices into ``lengths``."""
        rows = pack(lengths, self.max_length) if self.packed else [[i] for i in range(len(lengths))]
        return [rows[i : i + self.rows_per_forward] for i in range(0, len(rows), self.rows_per_forward)]

    def computed_tokens(self, rows: Rows, lengths: NDArray[np.int64]) -> int:
        """Positions that a forward pass computes, padding included."""
        return len(rows) * (max(int(lengths[row].sum()) for row in rows) if self.packed else self.max_length)

    def collate(
        self, rows: Rows, examples: Sequence[Example], source_ids: Sequence[int], device: torch.device
    ) -> Forward:
        """One forward pass as tensors, cut to its longest row if packed."""
        length = None if self.packed else self.max_length
        packed = collate(rows, examples, source_ids, self.pad_id, length)
        if not self.packed:
            # Padding follows its example and causal attention never looks ahead: one plain triangle, no mask needed.
            packed.position_ids[:] = torch.arange(self.max_length)
        return Forward.of(packed, device)

    @staticmethod
    def share(forwards: Sequence[Rows], rank: int, ranks: int) -> Iterator[Rows | None]:
        """A rank's forward passes. Every rank gets equally many, for they meet in each: where there are no rows left
        for it, None stands for :meth:`idle`."""
        for first in range(0, len(forwards), ranks):
            yield forwards[first + rank] if first + rank < len(forwards) else None

    def idle(self, device: torch.device) -> Forward:
        """A forward pass of padding, for a rank that has no rows left while others do."""
        return Forward.of(collate([[]], [], [], self.pad_id, 1), device)


@dataclass(frozen=True)
class GlobalBatch:
    """The examples of one optimizer step, laid out; the same on every rank.

    Attributes:
        examples: in the order they were drawn.
        source_ids: i32[n], the source of each.
        layout: how they become forward passes.
        all_forwards: the forward passes of all ranks.
        tally: examples, tokens and targets by source (losses still zero).
        computed_tokens: positions computed by all ranks, padding included.
    """

    examples: list[Example]
    source_ids: NDArray[np.int32]
    layout: Layout
    all_forwards: list[Rows]
    tally: Tally
    computed_tokens: int

    @classmethod
    def of(
        cls, sources: Sequence[TokenSource], source_ids: NDArray[np.int32], indices: NDArray[np.int64], layout: Layout
    ) -> GlobalBatch:
        """Fetch the drawn examples and lay them out.

        Raises:
            StageFailed: an example has no token to learn from; its source and index are named.
        """
        examples = [sources[k].train[i] for k, i in zip(source_ids.tolist(), indices.tolist(), strict=True)]
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        targets = np.array([np.count_nonzero(example.is_target) for example in examples], dtype=np.int64)
        if not targets.all():
            i = int(targets.argmin())
            raise StageFailed(
                f"training example {indices[i]} has no token that carries a loss",
                where=f"source {sources[source_ids[i]].name}",
            )
        tally = Tally.empty(len(sources))
        np.add.at(tally.examples, source_ids, 1)
        np.add.at(tally.tokens, source_ids, lengths)
        np.add.at(tally.targets, source_ids, targets)
        forwards = layout.forwards(lengths)
        computed = sum(layout.computed_tokens(rows, lengths) for rows in forwards)
        return cls(examples, source_ids, layout, forwards, tally, computed)

    def forwards(self, rank: int, ranks: int, device: torch.device) -> Iterator[Forward]:
        """This rank's forward passes; every rank gets equally many."""
        source_ids = self.source_ids.tolist()
        for rows in self.layout.share(self.all_forwards, rank, ranks):
            yield self.layout.collate(rows, self.examples, source_ids, device) if rows else self.layout.idle(device)
