"""Judgments kept as they come: one JSON line each, found again by key, so that none is asked for twice."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import MoemixError, StageFailed

_SYNC_SECONDS = 1.0


class Journal:
    """A JSONL file that only grows. A line reaches the system before :meth:`add` returns, and the disk within a second.

    A torn last line, left by a writer that was killed, is cut off when the file is opened. A later line with the key
    of an earlier one replaces it. Threads may add at the same time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at: dict[bytes, int] = {}  # key → where its line begins
        self.failures = 0  # added since it was opened
        self._lock = threading.Lock()
        self._end = self._open()
        self._file = open(path, "ab")  # noqa: SIM115  # closed by close()
        self._synced = time.monotonic()

    def _open(self) -> int:
        if not self.path.is_file():
            return 0
        end = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._at[bytes.fromhex(json.loads(line)["key"])] = end
                except (ValueError, KeyError, TypeError):
                    raise MoemixError("not a judgment of ours", where=f"{self.path}:{number}") from None
                end += len(line)
        if end != self.path.stat().st_size:
            os.truncate(self.path, end)
        return end

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._at

    def __len__(self) -> int:
        return len(self._at)

    def add(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with self._lock:
            self._write(line)
            self._at[bytes.fromhex(record["key"])] = self._end
            self._end += len(line)
            self.failures += bool(record["reason"])

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise StageFailed(f"a judgment could not be stored: {error}", where=str(self.path)) from None

    def forget(self, keys: Iterable[str]) -> None:
        """Take these as not asked; their lines stay until they are replaced."""
        for key in keys:
            self._at.pop(bytes.fromhex(key), None)

    def records(self) -> Iterator[dict[str, Any]]:
        """Every judgment, in the order in which they came."""
        place = 0
        with open(self.path, "rb") as file:
            for line in file:
                record = json.loads(line)
                if self._at.get(bytes.fromhex(record["key"])) == place:
                    yield record
                place += len(line)

    @classmethod
    def read(cls, path: Path) -> Iterator[dict[str, Any]]:
        """The judgments of a file that may be missing, read line by line."""
        with cls(path) as journal:
            yield from journal.records()

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
