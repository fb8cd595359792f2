"""Rows of files, each with its location, and files that may be compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from harness.sources import PACKED
from trainers.data.conversation import MalformedRowError

Located = tuple[dict[str, object] | MalformedRowError, str]
"""A row, or why it cannot be read, and its location: ``file:line``, or ``file:row N`` if the format has no lines."""
Chosen = NDArray[np.bool_]
"""Which rows are wanted, bool[N]."""


@dataclass(frozen=True)
class Rows:
    """The rows of a file, or of several. Iterating reads all of them.

    Attributes:
        count: their number.
        chosen: a function that yields the chosen rows; the others cost little.
    """

    count: int
    chosen: Callable[[Chosen], Iterator[Located]]

    def __iter__(self) -> Iterator[Located]:
        """Yield all rows."""
        return self.chosen(np.ones(self.count, bool))


def is_utf8(text: str) -> bool:
    """Return whether a text that was decoded with ``surrogateescape`` had no bytes that are not UTF-8."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading, also a compressed one."""
    opened: dict[str, Callable[[Path], object]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zst": _zstandard,
    }
    return cast("BinaryIO", opened[path.suffix.lower()](path)) if path.suffix.lower() in PACKED else path.open("rb")


def _zstandard(path: Path) -> object:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
