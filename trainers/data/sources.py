"""Sources for the trainer: read, tokenised, split into train and probe examples, with a report of every row."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_value
from harness.progress import progress
from harness.recipe import Source
from harness.sources import fingerprint
from harness.store import Run, Store
from trainers.data.encoder import Encoder
from trainers.data.hub import pinned
from trainers.data.parts import OpenPart, PartAdapter, open_part
from trainers.data.rows import Outcome, tokenised
from trainers.data.tokens import Example, SourceReport, TokenTable, TokenWriter, cached

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_FORMAT = 4  # increase it when the same input gives other tokens than before
_MANY = 10_000  # rows; of more than these, and twice the examples asked for, only as many as needed are tokenised
_FEW_BAD = 10  # malformed rows that are left out of a small file, up to half of it
_SURELY_BAD = 1000  # malformed rows after which reading does not go on to list them all

logger = logging.getLogger("moemix.trainers")


class TokenSplit:
    """Some examples of a source, in the split's own order.

    Attributes:
        lengths: int64[N], the tokens in each example.
    """

    def __init__(self, table: TokenTable, members: NDArray[np.int64]) -> None:
        self._table, self._members = table, members
        self.lengths: NDArray[np.int64] = table.offsets[members + 1] - table.offsets[members]

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, i: int) -> Example:
        return self._table[int(self._members[i])]


@dataclass(frozen=True)
class TokenSource:
    """A dataset of the mixture, ready to draw from.

    Attributes:
        size: the original size in examples: the recipe's ``size``, or else the number of rows.
        train: the examples to draw from.
        probe: the held-out examples; none of them, and no copy of one, is in ``train``.
        report: what became of the rows.
    """

    name: str
    size: int
    train: TokenSplit
    probe: TokenSplit
    report: SourceReport


def load_sources(
    sources: Sequence[Source],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    seed: int,
    root: Path | None,
    cache: Path,
) -> tuple[TokenSource, ...]:
    """Tokenise the sources of a mixture, or read them from the cache, and split them; sorted by name.

    The tokenizer is a fast one with a chat template (raw text needs none). Examples are cut to ``max_length`` tokens;
    ``seed`` is that of the splits. Files are relative to the data root, and so are hub ids that are folders in it.

    Raises:
        MoemixError: a source is missing, empty or malformed, has no usable row, or has fewer rows than requested.
    """
    encoder = Encoder(tokenizer)
    identity = _tokenizer_fingerprint(encoder.tokenizer)
    loaded = []
    for source in sorted(sources, key=lambda source: source.name):
        source = source.model_copy(update={"parts": tuple(pinned(part, root) for part in source.parts)})
        choice: list[object] = [source.bad_rows, source.bad_rows_limit]
        if source.train_examples:
            choice += [seed, source.train_examples, source.probe_examples]
        key = hash_value([_FORMAT, identity, max_length, fingerprint(source, root), choice])
        build = _prepare(source, encoder, max_length, root, seed, cache)
        table = cached(cache / f"{source.name}-{key[:16]}", build)
        report = table.report
        if os.environ.get("LOCAL_RANK", "0") == "0":
            for remark in report.remarks(max_length):
                logger.warning("warning: source %s: %s", source.name, remark)
        train, probe = _split(source, table, seed)
        loaded.append(TokenSource(source.name, source.size or report.rows - report.not_selected, train, probe, report))
    return tuple(loaded)


def run_sources(
    run: Run, tokenizer: PreTrainedTokenizerBase, sources: Sequence[Source] | None = None
) -> tuple[TokenSource, ...]:
    """Load the sources of a run's manifest (or others, such as its held-out sets) for its base model's tokenizer."""
    manifest = run.manifest
    return load_sources(
        manifest.config.sources if sources is None else sources,
        tokenizer=tokenizer,
        max_length=manifest.config.training.max_length,
        seed=manifest.config.data_seed,
        root=Path(manifest.data_root) if manifest.data_root else None,
        cache=Store(run.store).cache / "tokens",
    )


def _split(source: Source, table: TokenTable, seed: int) -> tuple[TokenSplit, TokenSplit]:
    """Return train and probe, shuffled by (seed, name). Copies of a probe example are in neither."""
    if table.report.not_chosen:  # in the order in which the rows were chosen
        rank = np.empty(table.report.rows, np.int64)
        rank[_permutation(source, table.report.rows, seed)] = np.arange(table.report.rows)
        order = np.argsort(rank[table.rows])
    else:
        order = _permutation(source, len(table), seed)
    probe, rest = _parted(source, order, table.keys)
    wanted = source.train_examples or 1
    if len(probe) < source.probe_examples or len(rest) < wanted:
        raise MoemixError(
            f"{source.probe_examples} probe and {wanted} training examples are requested, but only {len(table)} exist"
            + (f" ({len(rest)} of them neither in the probe set nor copies of it)" if len(rest) else ""),
            where=f"source {source.name}",
            hint="lower probe_examples or train_examples",
        )
    return TokenSplit(table, rest[: source.train_examples]), TokenSplit(table, probe)


def _permutation(source: Source, size: int, seed: int) -> NDArray[np.int64]:
    words = [seed % 2**64, int(hash_value(source.name)[:16], 16)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words))).permutation(size)


def _parted(
    source: Source, order: NDArray[np.int64], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the probe examples, and the others without copies of them."""
    probe, rest = order[: source.probe_examples], order[source.probe_examples :]
    return probe, rest[~np.isin(keys[rest], keys[probe])]


def most_malformed(limit: float, rows: int) -> float:
    """Return how many rows may break their format: a share of them, or a few of a small file."""
    return max(limit * rows, min(_FEW_BAD, rows / 2))


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for setting in ("truncation", "padding"):  # left over from the last call
        backend.pop(setting, None)
    return hash_value([backend, tokenizer.chat_template, tokenizer.special_tokens_map])


# --- from rows to tokens -----------------------------------------------------------------------------


def _prepare(
    source: Source, encoder: Encoder, max_length: int, root: Path | None, seed: int, cache: Path
) -> Callable[[], TokenWriter]:
    """Check a source's options now, and return the function that reads and tokenises its files."""
    for part in source.parts:
        if part.adapter != "auto":
            PartAdapter(part, f"source {source.name}")
    return lambda: _Tokeniser(source, encoder, max_length, root, seed, TokenWriter(cache)).run()


class _Tokeniser:
    """Reads the rows of a source and writes them as tokens: all of them, or as many as the recipe asks for."""

    def __init__(
        self, source: Source, encoder: Encoder, max_length: int, root: Path | None, seed: int, writer: TokenWriter
    ) -> None:
        self.source, self.encoder, self.max_length, self.root, self.seed = source, encoder, max_length, root, seed
        self.writer, self.report = writer, writer.report
        self.where = f"source {source.name}"
        self.parts: list[OpenPart] = []
        self.report.revisions = {part.hub: part.revision for part in source.parts if part.hub and part.revision}

    def run(self) -> TokenWriter:
        self.parts = [open_part(part, root=self.root, source=self.source.name) for part in self.source.parts]
        total = sum(part.rows.count for part in self.parts)
        self.report.rows = total
        wanted = (self.source.train_examples or 0) + self.source.probe_examples
        if self.source.train_examples is None or total <= max(_MANY, 2 * wanted):
            self._add(np.ones(total, bool), total)
        else:
            self._add_chosen(total, wanted)
        report = self.report
        self._check_bad(total - report.not_chosen - report.not_selected)
        if not report.examples and not report.bad:
            raise MoemixError("`select` leaves no row", where=self.where)
        if not report.examples:
            commonest = max(report.bad, key=lambda reason: report.bad[reason])
            message = f"no row of {self.where} can be trained on: {report.describe_bad()}"
            raise MoemixError(message, where=report.bad_at[commonest][0])
        return self.writer

    def _add_chosen(self, total: int, wanted: int) -> None:
        """Tokenise the first rows of a permutation, and more until there are as many examples as wanted."""
        order = _permutation(self.source, total, self.seed)
        rank = np.empty(total, np.int64)
        rank[order] = np.arange(total)
        done, upto = 0, wanted + wanted // 20 + 100
        while True:
            chosen = np.zeros(total, bool)
            chosen[order[done:upto]] = True
            self._add(chosen, min(upto, total) - done)
            self.report.not_chosen = max(0, total - upto)
            probe, rest = _parted(self.source, np.argsort(rank[self.writer.rows]), self.writer.keys)
            if upto >= total or len(probe) + min(len(rest), self.source.train_examples or 0) == wanted:
                return
            done, upto = upto, 2 * upto

    def _add(self, chosen: NDArray[np.bool_], count: int) -> None:
        """Tokenise the chosen rows, which are ``count``."""
        first = 0
        with progress(f"tokenising {self.source.name}", count) as bar:
            for part in self.parts:
                mine = chosen[first : first + part.rows.count]
                numbers = (np.flatnonzero(mine) + first).tolist()
                results = tokenised(part, part.rows.chosen(mine), len(numbers), self.encoder)
                for number, outcome in zip(numbers, results, strict=True):
                    self._count(outcome, number, part.adapter.part.adapter)
                    bar.advance()
                first += part.rows.count

    def _count(self, outcome: Outcome, number: int, adapter: str) -> None:
        report = self.report
        if outcome.skipped:
            report.not_selected += 1
        elif reason := outcome.reason_left_out(adapter, self.max_length):
            if outcome.malformed and self.source.bad_rows == "stop":
                message = f"the row is {reason}"
                raise MoemixError(message, where=outcome.where, hint="`bad_rows: skip` leaves such rows out")
            report.malformed += outcome.malformed
            report.count_bad(reason, outcome.where)
            if outcome.malformed and report.malformed > _SURELY_BAD:
                self._check_bad(report.rows - report.not_chosen - report.not_selected)
        elif outcome.tokens is not None:
            self.writer.add(*outcome.tokens, number, max_length=self.max_length, notes=outcome.notes)

    def _check_bad(self, rows: int) -> None:
        """Stop if more rows break their format than the recipe allows."""
        limit = self.source.bad_rows_limit
        if self.report.malformed > most_malformed(limit, rows) and self.report.examples:
            raise MoemixError(
                f"{self.report.malformed} rows are not in their format, more than {limit:.1%}:"
                f" {self.report.describe_bad()}",
                where=self.where,
                hint="raise `bad_rows_limit` to leave them out",
            )
