"""Sources as the trainer sees them: tokenised, split into train and probe examples, with a report of every row."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

_FORMAT = 2  # raise it when the same input gives other tokens than before


class TokenSplit:
    """Some examples of a source, in the split's own order.

    Attributes:
        lengths: int64[N], tokens in each.
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
        name: as in the recipe.
        size: original size in examples: the recipe's ``size``, else the rows there are.
        train: examples to draw from.
        probe: held-out examples; none of them, nor a copy of one, is in ``train``.
        report: what became of the rows.
    """

    name: str
    size: int
    train: TokenSplit
    probe: TokenSplit
    report: SourceReport


def load_sources(
    sources: Sequence[Source], *, tokenizer: Any, max_length: int, seed: int, root: Path | None, cache: Path
) -> tuple[TokenSource, ...]:
    """Tokenise (once: later calls read the cache) and split the sources of a mixture.

    Args:
        tokenizer: a fast tokenizer with a chat template (raw text needs none).
        max_length: the most tokens of an example that are kept.
        seed: of the splits.
        root: the data root that relative files, and hub ids that are folders in it, are found in.
        cache: the folder of token caches.

    Returns:
        one :class:`TokenSource` each, sorted by name.

    Raises:
        MoemixError: a source is missing, empty or malformed, has no usable row, or has fewer than were asked for.
    """
    encoder = Encoder(tokenizer)
    identity = _tokenizer_fingerprint(tokenizer)
    loaded = []
    for source in sorted(sources, key=lambda source: source.name):
        build = prepare(source, encoder, max_length, root)
        key = hash_value([_FORMAT, identity, max_length, fingerprint(source, root)])
        table = cached(cache / f"{source.name}-{key[:16]}", build)
        report = table.report
        if report.bad and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"warning: source {source.name}: {report.describe_bad()}", file=sys.stderr)
        train, probe = _split(source, table, seed)
        loaded.append(TokenSource(source.name, source.size or report.rows - report.not_selected, train, probe, report))
    return tuple(loaded)


def run_sources(run: Run, tokenizer: Any) -> tuple[TokenSource, ...]:
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
    """Train and probe, shuffled by (seed, name): the probe set is taken out first, then every copy of its examples."""
    words = [seed % 2**64, int(hash_value(source.name)[:16], 16)]
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence(words))).permutation(len(table))
    probe, rest = order[: source.probe_examples], order[source.probe_examples :]
    rest = rest[~np.isin(table.keys[rest], table.keys[probe])]
    wanted = source.train_examples or 1
    if len(probe) < source.probe_examples or len(rest) < wanted:
        raise MoemixError(
            f"{source.probe_examples} probe and {wanted} training examples were asked for, and {len(table)} exist"
            + (f" ({len(rest)} of them neither in the probe set nor copies of it)" if len(rest) else ""),
            where=f"source {source.name}",
            hint="lower probe_examples or train_examples",
        )
    return TokenSplit(table, rest[: source.train_examples]), TokenSplit(table, probe)


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for passing in ("truncation", "padding"):  # left over from the last call
        backend.pop(passing, None)
    return hash_value([backend, tokenizer.chat_template, tokenizer.special_tokens_map])
