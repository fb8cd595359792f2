"""Sources for the trainer: read, tokenised, split into train and probe examples, with a report of every row."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from trainers.data.adapters import MalformedRowError, PartAdapter, UnusableRowError
from trainers.data.reading import Located, read_part
from trainers.data.template import Encoder, Rendered
from trainers.data.tokens import Example, SourceReport, TokenTable, TokenWriter, cached

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_BATCH = 512  # rows tokenised at once
_FORMAT = 2  # increase it when the same input gives other tokens than before

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
        name: the name in the recipe.
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
    """Tokenise the sources of a mixture, or read them from the cache, and split them.

    Args:
        sources: the sources of a recipe.
        tokenizer: a fast tokenizer with a chat template (raw text needs none).
        max_length: the largest number of tokens of an example; the rest is cut off.
        seed: the seed of the splits.
        root: the data root of relative files, and of hub ids that are folders in it.
        cache: the folder of token caches.

    Returns:
        One :class:`TokenSource` each, sorted by name.

    Raises:
        MoemixError: a source is missing, empty or malformed, has no usable row, or has fewer rows than requested.
    """
    encoder = Encoder(tokenizer)
    identity = _tokenizer_fingerprint(encoder.tokenizer)
    loaded = []
    for source in sorted(sources, key=lambda source: source.name):
        build = _prepare(source, encoder, max_length, root)
        key = hash_value([_FORMAT, identity, max_length, fingerprint(source, root)])
        table = cached(cache / f"{source.name}-{key[:16]}", build)
        report = table.report
        if report.bad and os.environ.get("LOCAL_RANK", "0") == "0":
            logger.warning("warning: source %s: %s", source.name, report.describe_bad())
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
    words = [seed % 2**64, int(hash_value(source.name)[:16], 16)]
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence(words))).permutation(len(table))
    probe, rest = order[: source.probe_examples], order[source.probe_examples :]
    rest = rest[~np.isin(table.keys[rest], table.keys[probe])]
    wanted = source.train_examples or 1
    if len(probe) < source.probe_examples or len(rest) < wanted:
        raise MoemixError(
            f"{source.probe_examples} probe and {wanted} training examples are requested, but only {len(table)} exist"
            + (f" ({len(rest)} of them neither in the probe set nor copies of it)" if len(rest) else ""),
            where=f"source {source.name}",
            hint="lower probe_examples or train_examples",
        )
    return TokenSplit(table, rest[: source.train_examples]), TokenSplit(table, probe)


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for setting in ("truncation", "padding"):  # left over from the last call
        backend.pop(setting, None)
    return hash_value([backend, tokenizer.chat_template, tokenizer.special_tokens_map])


# --- from rows to tokens -----------------------------------------------------------------------------


def _prepare(source: Source, encoder: Encoder, max_length: int, root: Path | None) -> Callable[[], TokenWriter]:
    """Check a source's options now, and return the function that reads and tokenises its files."""
    parts = [PartAdapter(part, f"source {source.name}") for part in source.parts]
    return lambda: _tokenise(source.name, parts, encoder, max_length, root)


def _tokenise(
    name: str, parts: Iterable[PartAdapter], encoder: Encoder, max_length: int, root: Path | None
) -> TokenWriter:
    writer = TokenWriter()
    readings = [(part, *read_part(part.part, root=root, source=name)) for part in parts]
    with progress(f"tokenising {name}", sum(count for _, count, _ in readings)) as bar:
        for part, _, rows in readings:
            waiting: list[tuple[Rendered, str]] = []
            for rendered, where in _render_rows(part, rows, encoder, writer.report):
                if rendered is not None:
                    waiting.append((rendered, where))
                if len(waiting) == _BATCH:
                    _encode(waiting, encoder, max_length, writer)
                    waiting = []
                bar.advance()
            _encode(waiting, encoder, max_length, writer)
    report = writer.report
    if not report.examples and not report.bad:
        raise MoemixError("`select` leaves no row", where=f"source {name}")
    if not report.examples:
        commonest = max(report.bad, key=lambda reason: report.bad[reason])
        message = f"no row of source {name} can be trained on: {report.describe_bad()}"
        raise MoemixError(message, where=report.bad_at[commonest][0])
    return writer


def _render_rows(
    part: PartAdapter, rows: Iterator[Located], encoder: Encoder, report: SourceReport
) -> Iterator[tuple[Rendered | None, str]]:
    """Yield each row as text, or None if it was left out; count it in either case."""
    for row, where in rows:
        report.rows += 1
        rendered = None
        try:
            if part.wants(row):
                rendered = encoder.render(part.adapt(row))
            else:
                report.not_selected += 1
        except UnusableRowError as reason:
            report.count_bad(str(reason), where)
        except MalformedRowError as reason:
            raise MoemixError(f"the row is not in the format `{part.part.adapter}`: {reason}", where=where) from reason
        yield rendered, where


def _encode(waiting: list[tuple[Rendered, str]], encoder: Encoder, max_length: int, writer: TokenWriter) -> None:
    encoded = encoder.encode([rendered for rendered, _ in waiting])
    for result, (_, where) in zip(encoded, waiting, strict=True):
        if isinstance(result, UnusableRowError):
            writer.report.count_bad(str(result), where)
            continue
        input_ids, is_target = result
        if is_target[:max_length].any():
            writer.report.truncated += len(input_ids) > max_length
            writer.add(input_ids[:max_length], is_target[:max_length])
        elif is_target.any():
            writer.report.count_bad(f"no answer within {max_length} tokens", where)
        else:
            writer.report.count_bad("a single token", where)
