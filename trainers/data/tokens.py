"""Tokenised examples on disk: written once, then memory-mapped by every reader.

<cache>/<source>-<fingerprint>/
  tokens.npy   int32[sum of lengths]   all examples, one after another
  targets.npy  bool[sum of lengths]    which tokens are training targets
  offsets.npy  int64[N + 1]            where each example begins
  keys.npy     uint64[N]               hash of each example's tokens: equal examples have equal keys
  rows.npy     int64[N]                the number of each example's row in its source
  meta.json    written last: the report, and the hash of each array file
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_file, read_json, whole_directory, write_json
from harness.records import RowCounts

if TYPE_CHECKING:
    from trainers.data.encoder import Tokens

ARRAYS = ("tokens", "targets", "offsets", "keys", "rows")
_EXAMPLES_PER_REASON = 5
_REASONS = 20  # more kinds than this are only counted

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
        rows: the rows of the files.
        not_chosen: the rows that were not needed, because the recipe asks for fewer examples.
        not_selected: the rows that the ``select`` option left out.
        examples: the rows that became examples.
        bad: reason → number of rows left out for it; ``bad_at`` has the first few locations of each reason.
        malformed: the rows, of those left out, that break their format.
        notes: what was changed in rows that are used → number of rows.
        truncated: the examples that were cut to the maximum length.
        tokens: the tokens of all examples, of which ``target_tokens`` are training targets.
        revisions: hub id → the commit that was read.
    """

    rows: int = 0
    not_chosen: int = 0
    not_selected: int = 0
    examples: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    bad_at: dict[str, list[str]] = field(default_factory=dict)
    malformed: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    truncated: int = 0
    tokens: int = 0
    target_tokens: int = 0
    revisions: dict[str, str] = field(default_factory=dict)

    def add(self, tokens: Tokens, max_length: int, notes: Sequence[str] = ()) -> None:
        """Count one example, which is cut to ``max_length`` tokens."""
        input_ids, is_target = tokens
        self.examples += 1
        self.truncated += len(input_ids) > max_length
        self.tokens += min(len(input_ids), max_length)
        self.target_tokens += int(is_target[:max_length].sum())
        for note in notes:
            self.notes[note] = self.notes.get(note, 0) + 1

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

    def counts(self) -> RowCounts:
        """Return the numbers that a run's manifest states."""
        return RowCounts(
            read=self.rows - self.not_chosen,
            not_chosen=self.not_chosen,
            not_selected=self.not_selected,
            examples=self.examples,
            left_out=dict(self.bad),
            changed=dict(self.notes),
            truncated=self.truncated,
            revisions=dict(self.revisions),
        )

    def remarks(self, max_length: int) -> list[str]:
        """Return what a user should know of the rows, one phrase each; none if every row is used as it is."""
        said = [self.describe_bad()] if self.bad else []
        if self.truncated:
            said.append(f"{self.truncated} of {self.examples} examples cut to {max_length} tokens")
        return said + [f"{count} × {note}" for note, count in self.notes.items()]


def key_of(tokens: NDArray[np.int32]) -> int:
    """Return the hash of an example's tokens."""
    return int.from_bytes(hashlib.blake2b(tokens.tobytes(), digest_size=8).digest(), "little")


class TokenTable:
    """The examples of a source, memory-mapped. ``table[i]`` is an :class:`Example`."""

    def __init__(self, folder: Path, report: SourceReport) -> None:
        self.report = report
        self.tokens, self.targets, self.offsets, self.keys, self.rows = (
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
    """Collects examples in temporary files and writes them as a table; memory holds a few numbers of each example."""

    def __init__(self, folder: Path | None = None) -> None:
        self.report = SourceReport()
        # closed by `write`, or with the process; they have no name, so nothing is left of them
        self._files = {name: tempfile.TemporaryFile(dir=folder) for name in ("tokens", "targets")}  # noqa: SIM115
        self._lengths: list[int] = []
        self._keys: list[int] = []
        self._rows: list[int] = []

    def add(
        self,
        tokens: NDArray[np.int32],
        targets: NDArray[np.bool_],
        row: int = 0,
        *,
        max_length: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Add the example of a row, cut to ``max_length`` tokens, and count it."""
        self.report.add((tokens, targets), max_length or len(tokens), notes)
        tokens, targets = tokens[:max_length], targets[:max_length]
        self._files["tokens"].write(tokens.tobytes())
        self._files["targets"].write(targets.tobytes())
        self._lengths.append(len(tokens))
        self._keys.append(key_of(tokens))
        self._rows.append(row)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Return the hash of each example, uint64[N]."""
        return np.array(self._keys, np.uint64)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Return the row of each example, int64[N]."""
        return np.array(self._rows, np.int64)

    def write(self, folder: Path) -> None:
        """Write the arrays, and then ``meta.json`` with their hashes."""
        for name, kind in (("tokens", np.int32), ("targets", np.bool_)):
            with self._files[name] as file, open(folder / f"{name}.npy", "wb") as out:
                descr = np.dtype(kind).str
                header = {"shape": (self.report.tokens,), "fortran_order": False, "descr": descr}
                np.lib.format.write_array_header_1_0(out, header)  # type: ignore[no-untyped-call]
                file.seek(0)
                shutil.copyfileobj(file, out, 1 << 20)
        np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64))
        np.save(folder / "keys.npy", self.keys)
        np.save(folder / "rows.npy", self.rows)
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
