"""Tokenised examples on disk: written once, then memory-mapped by every reader.

<cache>/<source>-<fingerprint>/
  tokens.npy   int32[sum of lengths]   all examples, one after another
  targets.npy  bool[sum of lengths]    which tokens are training targets
  offsets.npy  int64[N + 1]            where each example begins
  keys.npy     uint64[N]               hash of each example's tokens: equal examples have equal keys
  meta.json    written last: the report, and the hash of each array file
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_file, read_json, whole_directory, write_json

ARRAYS = ("tokens", "targets", "offsets", "keys")
_EXAMPLES_PER_REASON = 3
_REASONS = 4

logger = logging.getLogger("moemix.trainers")


@dataclass(frozen=True)
class Example:
    """One example of T tokens: ``input_ids`` int32[T], and ``is_target`` bool[T], true where the token is a target."""

    input_ids: NDArray[np.int32]
    is_target: NDArray[np.bool_]


@dataclass
class SourceReport:
    """What became of a source's rows.

    Attributes:
        rows: the rows that were read.
        not_selected: the rows that the ``select`` option left out.
        examples: the rows that became examples.
        bad: reason → number of rows left out for it; ``bad_at`` has the first few locations of each reason.
        truncated: the examples that were cut to the maximum length.
        tokens: the tokens of all examples, of which ``target_tokens`` are training targets.
    """

    rows: int = 0
    not_selected: int = 0
    examples: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    bad_at: dict[str, list[str]] = field(default_factory=dict)
    truncated: int = 0
    tokens: int = 0
    target_tokens: int = 0

    def count_bad(self, reason: str, where: str) -> None:
        """Count one row that is left out."""
        self.bad[reason] = self.bad.get(reason, 0) + 1
        if len(places := self.bad_at.setdefault(reason, [])) < _EXAMPLES_PER_REASON:
            places.append(where)

    def describe_bad(self) -> str:
        """Return ``3 of 90 rows left out: 2 × no assistant turn (chat.jsonl:4, …); 1 × …``, most frequent first."""
        ordered = sorted(self.bad, key=lambda reason: -self.bad[reason])
        reasons = [f"{self.bad[r]} × {r} ({', '.join(self.bad_at[r])})" for r in ordered[:_REASONS]]
        if len(ordered) > _REASONS:
            reasons.append(f"and {len(ordered) - _REASONS} more reasons")
        return f"{sum(self.bad.values())} of {self.rows} rows left out: {'; '.join(reasons)}"


class TokenTable:
    """The examples of a source, memory-mapped. ``table[i]`` is an :class:`Example`."""

    def __init__(self, folder: Path, report: SourceReport) -> None:
        self.report = report
        self.tokens, self.targets, self.offsets, self.keys = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        span = slice(self.offsets[i], self.offsets[i + 1])
        return Example(np.asarray(self.tokens[span]), np.asarray(self.targets[span]))


class TokenWriter:
    """Collects examples and writes them as a table."""

    def __init__(self) -> None:
        self.report = SourceReport()
        self._tokens: list[NDArray[np.int32]] = []
        self._targets: list[NDArray[np.bool_]] = []
        self._keys: list[int] = []

    def add(self, tokens: NDArray[np.int32], targets: NDArray[np.bool_]) -> None:
        """Add one example and count its tokens."""
        self._tokens.append(tokens)
        self._targets.append(targets)
        digest = hashlib.blake2b(tokens.tobytes(), digest_size=8).digest()
        self._keys.append(int.from_bytes(digest, "little"))
        self.report.examples += 1
        self.report.tokens += len(tokens)
        self.report.target_tokens += int(targets.sum())

    def write(self, folder: Path) -> None:
        """Write the arrays, and then ``meta.json`` with their hashes."""
        lengths = [len(tokens) for tokens in self._tokens]
        arrays = {
            "tokens": np.concatenate(self._tokens),
            "targets": np.concatenate(self._targets),
            "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            "keys": np.array(self._keys, np.uint64),
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        files = {name: hash_file(folder / f"{name}.npy") for name in ARRAYS}
        write_json(folder / "meta.json", {"files": files, "report": asdict(self.report)})


def cached(folder: Path, build: Callable[[], TokenWriter]) -> TokenTable:
    """Return the table in ``folder``; build it first if it is missing or damaged.

    If several processes need it at the same time, one builds it and the others wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.exists():
            report, fault = _verify(folder)
            if report is not None:
                return TokenTable(folder, report)
            logger.warning("warning: %s: the token cache is damaged (%s) and is built again", folder, fault)
        writer = build()
        with whole_directory(folder) as temporary:
            writer.write(temporary)
        return TokenTable(folder, writer.report)


def _verify(folder: Path) -> tuple[SourceReport | None, str]:
    """Return the report of an intact cache, or None and what is wrong."""
    try:
        meta = read_json(folder / "meta.json")
        for name in ARRAYS:
            if hash_file(folder / f"{name}.npy") != meta["files"][name]:
                return None, f"{name}.npy has changed since it was written"
        return SourceReport(**meta["report"]), ""
    except (MoemixError, OSError, KeyError, TypeError) as error:
        return None, f"{type(error).__name__}: {error}"
