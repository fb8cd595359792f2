"""Store every answer of a model as it arrives: a crash or ``kill -9`` loses only the requests in flight.

There is one SQLite file for each checkpoint in each engine, under ``responses/`` of the cache folder. Evaluations of
the same checkpoint therefore share answers, whatever their suite, limit or output folder; two checkpoints never do.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MoemixError, StageError
from harness.files import hash_value

_BUSY_SECONDS = 60.0  # two evaluations of one checkpoint may write at the same time
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS identity (value TEXT NOT NULL);
"""


def cache_root() -> Path:
    """Return the cache folder, which may be deleted at any time: ``MOEMIX_CACHE``, else a user's ``moemix`` folder."""
    given = os.environ.get("MOEMIX_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moemix"


def responses_folder() -> Path:
    """Return the folder of cached answers."""
    return cache_root() / "responses"


class ResponseCache:
    """A SQLite file of answers (write-ahead log, each answer committed by itself).

    Args:
        path: the file, which is created if it does not exist. None keeps the answers in memory only.
        identity: what determines an answer besides the request: checkpoint hash, engine, version, dtype, arguments.
            It is part of every key, so two checkpoints, or one checkpoint in two engines, never share an entry.
    """

    def __init__(self, path: Path | None, identity: dict[str, object]) -> None:
        self.path = path
        self._identity = hash_value(identity)
        self._new: list[str] = []
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=_BUSY_SECONDS)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.executescript(_TABLES)
            if path is not None:
                os.utime(path)  # reading alone would not count as use
            if not self._file.execute("SELECT value FROM identity").fetchone():
                self._file.execute("INSERT INTO identity VALUES (?)", (json.dumps(identity),))
        except (sqlite3.Error, OSError) as error:
            hint = "remove the file, or evaluate with --no-cache"
            raise MoemixError(f"the response cache cannot be used: {error}", where=str(path), hint=hint) from None

    def key(self, kind: str, arguments: tuple[object, ...]) -> str:
        """Return the key of a request: a hash of lm-eval's request type, the arguments and the identity."""
        return hash_value([self._identity, kind, list(arguments)])

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the cached answers by key."""
        found = {}
        for key in keys:
            row = self._file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            if row:
                found[key] = json.loads(row[0])
        return found

    def put(self, key: str, answer: object) -> None:
        """Store an answer."""
        try:
            self._file.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))
        except sqlite3.DatabaseError as error:
            raise StageError(f"an answer could not be stored: {error}", where=str(self.path)) from None
        self._new.append(key)

    def forget_new(self) -> None:
        """Delete the answers that were stored since the file was opened."""
        self._file.executemany("DELETE FROM answers WHERE key = ?", [(key,) for key in self._new])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_cache(identity: dict[str, object], *, keep: bool = True) -> ResponseCache:
    """Open the cache of a checkpoint in an engine; with ``keep`` false, an empty one in memory."""
    path = responses_folder() / f"{hash_value(identity)[:24]}.sqlite" if keep else None
    return ResponseCache(path, identity)


@dataclass(frozen=True)
class CacheFile:
    """A file of answers: its checkpoint and engine, its size, and the days since its last use."""

    path: Path
    checkpoint: str
    engine: str
    answers: int
    bytes: int
    age_days: float


def cache_files() -> Iterator[CacheFile]:
    """Yield every file of answers. A damaged file is listed without its content, so that it can be pruned."""
    for path in sorted(responses_folder().glob("*.sqlite")):
        parts = [part for part in _parts(path) if part.is_file()]
        used = max(part.stat().st_mtime for part in parts)
        identity, answers = {}, 0
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_BUSY_SECONDS) as file:
                identity = json.loads(file.execute("SELECT value FROM identity").fetchone()[0])
                answers = file.execute("SELECT count(*) FROM answers").fetchone()[0]
        except (sqlite3.Error, TypeError, ValueError):
            identity = {"checkpoint": "damaged"}
        engine = identity.get("engine")
        description = (
            f"{engine['name']} {engine['version']} {engine['dtype']}" if isinstance(engine, dict) else str(engine)
        )
        size = sum(part.stat().st_size for part in parts)
        yield CacheFile(path, identity["checkpoint"], description, answers, size, (time.time() - used) / 86400)


def prune(*, older_than_days: float | None = None, checkpoint: str | None = None) -> list[CacheFile]:
    """Delete the files of answers that meet every given condition, and return them."""
    gone = []
    for file in list(cache_files()):
        if older_than_days is not None and file.age_days < older_than_days:
            continue
        if checkpoint is not None and not file.checkpoint.startswith(checkpoint):
            continue
        for part in _parts(file.path):
            part.unlink(missing_ok=True)
        gone.append(file)
    return gone


def _parts(path: Path) -> list[Path]:
    """Return a SQLite file and the files that exist beside it while it is open or after a crash."""
    return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))]
