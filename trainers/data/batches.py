"""Turn drawn examples into the forward passes of each rank, and count what each source contributes.

Every rank draws the same global batch and lays out the same rows. It collates and computes only its own share of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from harness.errors import StageError
from trainers.data.packing import NO_LOSS, PackedBatch, collate, pack
from trainers.data.sources import TokenSource
from trainers.data.tokens import Example

Rows = list[list[int]]
"""The rows of one forward pass; each row lists indices of examples."""


@dataclass
class Tally:
    """Sums over the K sources, of one step or of many, in the order of the sources' names.

    Attributes:
        examples: i64[K], examples drawn.
        tokens: i64[K], tokens trained on, without padding.
        targets: i64[K], the tokens among them that carried a loss.
        losses: f64[K], the sum of their losses.
    """

    examples: NDArray[np.int64]
    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    losses: NDArray[np.float64]

    @classmethod
    def empty(cls, num_sources: int) -> Tally:
        """Return sums of zero."""
        examples, tokens, targets = np.zeros((3, num_sources), dtype=np.int64)
        return cls(examples, tokens, targets, np.zeros(num_sources))

    def add(self, other: Tally) -> None:
        """Add the sums of ``other`` to these."""
        for mine, theirs in zip(self.arrays().values(), other.arrays().values(), strict=True):
            mine += theirs

    def clear(self) -> None:
        """Set all sums to zero."""
        for array in self.arrays().values():
            array.fill(0)

    @property
    def loss(self) -> float:
        """The mean loss per target token over all sources; nan if there was no target."""
        targets = int(self.targets.sum())
        return float(self.losses.sum()) / targets if targets else float("nan")

    @property
    def source_loss(self) -> NDArray[np.float64]:
        """f64[K], the mean loss per target token; nan where a source had no target."""
        loss_K = np.full(len(self.losses), np.nan)
        np.divide(self.losses, self.targets, out=loss_K, where=self.targets > 0)
        return loss_K

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fields by name, to be stored; ``Tally(**arrays)`` restores them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Forward:
    """One forward pass: R rows of T tokens, and the N targets in them.

    Attributes:
        input_RT: token ids.
        position_RT: positions, which restart at every example.
        source_RT: the source of every token; -1 is padding.
        at_N: flat positions whose hidden state predicts a target.
        target_N: the token ids to predict there.
        target_source_N: i64[N], the source of each target, on the host.
        tokens: the number of tokens that are not padding.
        rows: the lengths of the examples in each row, on the host; padding at the end of a row is one more of them.
    """

    input_RT: Tensor
    position_RT: Tensor
    source_RT: Tensor
    at_N: Tensor
    target_N: Tensor
    target_source_N: NDArray[np.int64]
    tokens: int
    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, packed: PackedBatch, device: torch.device) -> Forward:
        """Move collated rows to a device. The position before a label, in the same example, predicts it."""
        labels_RT = packed.labels.numpy()
        row_N, column_N = np.nonzero(labels_RT != NO_LOSS)
        source_RT = packed.source_ids.numpy()

        def move(tensor: Tensor) -> Tensor:
            # From pinned memory, the copy does not hold up the host.
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        return cls(
            input_RT=move(packed.input_ids),
            position_RT=move(packed.position_ids),
            source_RT=move(packed.source_ids),
            at_N=move(torch.from_numpy(row_N * labels_RT.shape[1] + column_N - 1)),
            target_N=move(torch.from_numpy(labels_RT[row_N, column_N])),
            target_source_N=source_RT[row_N, column_N],
            tokens=int((source_RT >= 0).sum()),
            rows=tuple(_runs(owner_T) for owner_T in packed.example_ids.numpy()),
        )


def _runs(owner_T: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the lengths of the runs of equal values."""
    ends = np.flatnonzero(np.diff(owner_T)) + 1
    return tuple(np.diff([0, *ends, len(owner_T)]).tolist())


@dataclass(frozen=True)
class Layout:
    """How examples become rows and rows become forward passes.

    Attributes:
        packed: whether a row holds several examples; otherwise it holds one, padded to ``max_length``.
        rows_per_forward: rows in one forward pass.
        pad_id: the token id in padded positions.
        tokens_per_forward: fill a forward pass with rows up to so many tokens, padding included; None to count rows.
    """

    max_length: int
    packed: bool
    rows_per_forward: int
    pad_id: int
    tokens_per_forward: int | None = None

    def forwards(self, lengths: NDArray[np.int64]) -> list[Rows]:
        """Divide a global batch among forward passes; the rows of each hold indices into ``lengths``."""
        rows = pack(lengths, self.max_length) if self.packed else [[i] for i in range(len(lengths))]
        found = []
        while rows:  # the longest row is the first one
            width = int(lengths[rows[0]].sum()) if self.packed else self.max_length
            budget = self.tokens_per_forward
            count = self.rows_per_forward if budget is None else max(1, budget // width)
            found.append(rows[:count])
            rows = rows[count:]
        return found

    def computed_tokens(self, rows: Rows, lengths: NDArray[np.int64]) -> int:
        """Return the number of positions that a forward pass computes, padding included."""
        return len(rows) * (max(int(lengths[row].sum()) for row in rows) if self.packed else self.max_length)

    def collate(
        self, rows: Rows, examples: Sequence[Example], source_ids: Sequence[int], device: torch.device
    ) -> Forward:
        """Build the tensors of one forward pass; packed rows are cut to the longest of them."""
        length = None if self.packed else self.max_length
        packed = collate(rows, examples, source_ids, self.pad_id, length)
        if not self.packed:
            # Padding follows its example and causal attention never looks ahead: one plain triangle, no mask needed.
            packed.position_ids[:] = torch.arange(self.max_length)
        return Forward.of(packed, device)

    def shares(
        self,
        forwards: Sequence[Rows],
        examples: Sequence[Example],
        source_ids: Sequence[int],
        rank: int,
        ranks: int,
        device: torch.device,
    ) -> Iterator[Forward]:
        """Yield a rank's share of the forward passes.

        Ranks meet in every forward pass, so each gets equally many: a rank without rows left computes one of padding.
        """
        for first in range(0, len(forwards), ranks):
            if first + rank < len(forwards):
                yield self.collate(forwards[first + rank], examples, source_ids, device)
            else:
                yield self.padding(device)

    def padding(self, device: torch.device) -> Forward:
        """Return a forward pass of one token, of padding."""
        return Forward.of(collate([[]], [], [], self.pad_id, 1), device)


@dataclass(frozen=True)
class GlobalBatch:
    """The examples of one optimizer step, laid out; the same on every rank.

    Attributes:
        examples: the examples in the order in which they were drawn.
        source_ids: i32[n], the source of each.
        all_forwards: the forward passes of all ranks.
        tally: examples, tokens and targets by source (the losses are still zero).
        computed_tokens: the number of positions that all ranks compute, padding included.
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
            StageError: an example has no token to learn from; the error names its source and index.
        """
        examples = [sources[k].train[i] for k, i in zip(source_ids.tolist(), indices.tolist(), strict=True)]
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        targets = np.array([np.count_nonzero(example.is_target) for example in examples], dtype=np.int64)
        if not targets.all():
            i = int(targets.argmin())
            raise StageError(
                f"training example {indices[i]} has no token that carries a loss",
                where=f"source {sources[source_ids[i]].name}",
            )
        tally = Tally.empty(len(sources))
        for sums, values in ((tally.examples, 1), (tally.tokens, lengths), (tally.targets, targets)):
            np.add.at(sums, source_ids, values)
        forwards = layout.forwards(lengths)
        computed = sum(layout.computed_tokens(rows, lengths) for rows in forwards)
        return cls(examples, source_ids, layout, forwards, tally, computed)

    def sample_rows(self) -> tuple[tuple[tuple[int, ...], ...], list[Tensor]]:
        """Return the lengths of the examples in the longest row and in the one with the most, and their tokens."""
        rows = [row for forward in self.all_forwards for row in forward]
        chosen = [rows[0], max(rows, key=len)] if len(rows) > 1 else rows
        tokens = [torch.from_numpy(self.examples[i].input_ids.astype(np.int64)) for row in chosen for i in row]
        return tuple(tuple(len(self.examples[i].input_ids) for i in row) for row in chosen), tokens

    def forwards(self, rank: int, ranks: int, device: torch.device) -> Iterator[Forward]:
        """Yield this rank's forward passes; every rank gets equally many."""
        return self.layout.shares(self.all_forwards, self.examples, self.source_ids.tolist(), rank, ranks, device)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that fills rows: the padding token, else the end of text, else 0."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
