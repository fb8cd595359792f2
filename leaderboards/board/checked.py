"""What is known of a verified submission, and the cache of it: enough to rank and show it without its samples.

The cache lies in ``.moemix/verified.sqlite`` beside the board. Its keys are hashes of a submission's whole content, of
the board's pins and of the code of the checks, so it may be copied to another machine. A file whose size and times have
not changed is not read again.
"""

from __future__ import annotations

import base64
import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

import harness
import leaderboards
from harness.errors import MoemixError
from harness.files import hash_file, hash_tree, hash_value
from harness.schema import Strict
from harness.statistics.columns import Key
from leaderboards.board.folder import BoardFolder, SubmissionFolder
from leaderboards.board.submissions import FileEntry, Outcome, ShownJudging, Submission, Verdict, Withdrawal
from leaderboards.board.untrusted import walk


class Vector(Strict):
    """The scores of one result, packed: one bit for each question if all are 0 or 1, otherwise eight bytes."""

    task: str
    metric: str
    filter: str
    n: int
    bits: str = ""
    floats: str = ""

    @classmethod
    def pack(cls, key: Key, values: NDArray[np.float64]) -> Vector:
        """Pack the scores f64[n] of a result."""
        bits = floats = ""
        if np.isin(values, (0.0, 1.0)).all():
            bits = base64.b64encode(np.packbits(values.astype(bool)).tobytes()).decode()
        else:
            floats = base64.b64encode(values.astype("<f8").tobytes()).decode()
        return cls(task=key.task, metric=key.metric, filter=key.filter, n=len(values), bits=bits, floats=floats)

    @property
    def key(self) -> Key:
        """The result that the scores belong to."""
        return Key(self.task, self.metric, self.filter)

    @property
    def values(self) -> NDArray[np.float64]:
        """The scores, f64[n]."""
        if self.floats:
            return np.frombuffer(base64.b64decode(self.floats), dtype="<f8").astype(np.float64)
        packed = np.frombuffer(base64.b64decode(self.bits), dtype=np.uint8)
        return np.unpackbits(packed, count=self.n).astype(np.float64)


class Checked(Strict):
    """A submission after its own checks: enough to rank and show it without its samples."""

    label: str
    submission: Submission | None
    withdrawn: Withdrawal | None
    verdicts: tuple[Verdict, ...]
    prints: dict[str, str]
    vectors: dict[str, tuple[Vector, ...]]
    engines: dict[str, str] = Field(default_factory=dict, description="suite → name, version and dtype of the engine")
    repeats: dict[str, dict[str, tuple[int, ...]]] = Field(
        default_factory=dict, description="suite → task → cluster of each question, if questions share a passage"
    )
    as_recorded: tuple[tuple[str, str, str, str], ...] = Field(
        (), description="suite, task, metric and filter of scores that nothing here confirms"
    )
    marks: dict[str, str] = Field(default_factory=dict, description="suite → hashes by which a copy is found, u32[n]")
    judged: dict[str, ShownJudging] = Field(default_factory=dict, description="bench → its judging, recomputed")
    arrived: str = Field("", description="when it came into the board's repository; empty if it has not yet")

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(verdict.verdict == "fail" for verdict in self.verdicts)

    def outcome(self, check: str) -> str:
        """Return the worst verdict of a check; empty if it did not take place."""
        held = {verdict.verdict for verdict in self.verdicts if verdict.check == check}
        return next((outcome for outcome in ("fail", "warn", "skip", "pass") if outcome in held), "")

    def with_verdict(self, check: str, verdict: Outcome, detail: str) -> Checked:
        """Return this with one more verdict."""
        added = Verdict(submission=self.label, check=check, verdict=verdict, detail=detail)
        return self.model_copy(update={"verdicts": (*self.verdicts, added)})


AT_ONCE = 500  # keys in one query; SQLite allows 999 where it allows the fewest


class Cache:
    """The cache file. If it is damaged it is removed, and everything is checked again."""

    def __init__(self, board: BoardFolder) -> None:
        code = [hash_tree(Path(str(package.__file__)).parent, "*.py") for package in (leaderboards, harness)]
        self.checks = hash_value([code, board.board.model_dump(mode="json")])
        self.path = board.work / "verified.sqlite"

    def __enter__(self) -> Cache:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)
            self._open()
        return self

    def _open(self) -> None:
        self.file = sqlite3.connect(self.path, timeout=60)
        for table in ("content (name TEXT PRIMARY KEY, state TEXT, digest TEXT)",
                      "found (key TEXT PRIMARY KEY, value BLOB)"):  # fmt: skip
            self.file.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        rows: Iterable[tuple[str, str, str]] = self.file.execute("SELECT name, state, digest FROM content")
        self.content = {name: (state, digest) for name, state, digest in rows}

    def __exit__(self, *_: object) -> None:
        self.commit()
        self.file.close()

    def changed(self, states: Mapping[str, str]) -> list[str]:
        """Return the submissions whose files may not be those that were hashed before, by their :func:`state_of`."""
        return [label for label, state in states.items() if self.content.get(label, ("", ""))[0] != state]

    def remember(self, label: str, state: str, files: Mapping[str, FileEntry]) -> None:
        """Store a hash of a submission's files with their state when they were read; a random one if they were not."""
        content = [[path, entry.sha256] for path, entry in files.items()]
        digest = hash_value(content) if content else os.urandom(16).hex()
        self.content[label] = state, digest
        self.file.execute("INSERT OR REPLACE INTO content VALUES (?, ?, ?)", (label, state, digest))

    def digest(self, label: str) -> str:
        """Return the hash of a submission's files; a random one if they were not hashed."""
        return self.content[label][1] if label in self.content else os.urandom(16).hex()

    def key(self, label: str) -> str:
        """Return a hash of what a submission's verdicts depend on: its files, the pins, the checks."""
        return hash_value([self.checks, label, self.digest(label)])

    def read(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return what is known, by key."""
        found: dict[str, bytes] = {}
        left = list(keys)
        for first in range(0, len(left), AT_ONCE):
            wanted = left[first : first + AT_ONCE]
            marks = ",".join("?" * len(wanted))
            found |= dict(self.file.execute(f"SELECT key, value FROM found WHERE key IN ({marks})", wanted).fetchall())
        return found

    def commit(self) -> None:
        """Keep what was written, even if this process is killed."""
        self.file.commit()

    def write(self, key: str, value: bytes) -> None:
        """Store what was found out."""
        self.file.execute("INSERT OR REPLACE INTO found VALUES (?, ?)", (key, value))


def state_of(where: SubmissionFolder) -> str:
    """Return a hash of names, sizes and times of a submission's files; a random one if they cannot be listed."""
    try:
        return hash_value([[path, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for path, s in walk(where.path)])
    except (MoemixError, OSError):
        return os.urandom(16).hex()


def files_of(where: SubmissionFolder) -> dict[str, FileEntry]:
    """Return size and hash of each of a submission's files; none if one of them cannot be read."""
    try:
        return {
            path: FileEntry.model_construct(bytes=status.st_size, sha256=hash_file(where.path / path))
            for path, status in walk(where.path)
        }
    except (MoemixError, OSError):
        return {}
