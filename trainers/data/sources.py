"""Sources for the trainer: tokenised, split into train and probe examples, with a report of every row."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_value
from harness.recipe import Source
from harness.sources import fingerprint
from harness.store import Run, Store
from trainers.data.template import Encoder
from trainers.data.tokenise import prepare
from trainers.data.tokens import Example, SourceReport, TokenTable, cached

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

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
        build = prepare(source, encoder, max_length, root)
        key = hash_value([_FORMAT, identity, max_length, fingerprint(source, root)])
        table = cached(cache / f"{source.name}-{key[:16]}", build)
        report = table.report
        if report.bad and os.environ.get("LOCAL_RANK", "0") == "0":
            logger.warning("warning: source %s: %s", source.name, report.describe_bad())
        train, probe = _split(source, table, seed)
        loaded.append(TokenSource(source.name, source.size or report.rows - report.not_selected, train, probe, report))
    return tuple(loaded)


def run_sources(run: Run, tokenizer: PreTrainedTokenizerBase) -> tuple[TokenSource, ...]:
    """Load the sources of a run's manifest for its base model's tokenizer."""
    manifest = run.manifest
    return load_sources(
        manifest.config.sources,
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
