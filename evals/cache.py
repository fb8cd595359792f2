"""Every answer a model gave, kept as it arrives: a crash or ``kill -9`` loses only the requests in flight."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import MoemixError, StageFailed
from harness.files import hash_value


class ResponseCache:
    """A SQLite file of answers (write-ahead log, each answer committed by itself).

    Args:
        path: the file; made if absent.
        identity: what determines an answer besides the request: checkpoint hash, engine, version, dtype, arguments.
            It is part of every key, so two checkpoints, or one checkpoint in two engines, never share an entry.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = hash_value(identity)
        try:
            self._file = sqlite3.connect(path, isolation_level=None)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise MoemixError(f"the response cache cannot be used: {error}", where=str(path)) from None

    def key(self, kind: str, arguments: tuple[Any, ...]) -> str:
        """The key of a request: lm-eval's request type and arguments, and the identity."""
        return hash_value([self._identity, kind, list(arguments)])

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        """The answers that are there, by key."""
        found = {}
        for key in keys:
            row = self._file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            if row:
                found[key] = json.loads(row[0])
        return found

    def put(self, key: str, answer: Any) -> None:
        try:
            self._file.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))
        except sqlite3.DatabaseError as error:
            raise StageFailed(f"an answer could not be stored: {error}", where=str(self.path)) from None

    def close(self) -> None:
        self._file.close()
