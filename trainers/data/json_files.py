"""Read rows from JSON: arrays as a stream, of which only the chosen rows are decoded, and objects line by line."""

from __future__ import annotations

import codecs
import io
import itertools
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from harness.errors import MoemixError
from trainers.data.located import PACKED, Chosen, Located, Rows, open_file

_BOM = "\ufeff"
_CHUNK = 1 << 20  # bytes of a text that are decoded at once
_TURN = {"role", "from", "value", "content"}


class _JsonText:
    """A JSON text that is decoded value by value, with the line of each."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._line, self._ended = "", 0, 1, False
        self._counted, self._offset = 0, 0  # the characters of the text whose bytes are in the offset
        self._bytes = codecs.getincrementaldecoder("utf-8")()
        self._decode = json.JSONDecoder().raw_decode

    @property
    def where(self) -> str:
        return f"{self._path}:{self._line}"

    @property
    def offset(self) -> int:
        """Return the bytes before the next character."""
        passed = self._text[self._counted : self._at]
        self._offset += len(passed) if passed.isascii() else len(passed.encode())
        self._counted = self._at
        return self._offset

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            start = self._at
            while self._text[self._at : self._at + 1].isspace() or self._text[self._at : self._at + 1] == _BOM:
                self._at += 1
            self._line += self._text.count("\n", start, self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._fill(_CHUNK)

    def take(self, expected: str) -> str:
        """Return the next character, which must be one of ``expected``."""
        found = self.peek()
        if not found or found not in expected:
            raise MoemixError(f"not valid JSON: expected {' or '.join(expected)}", where=self.where)
        self._at += 1
        return found

    def value(self) -> object:
        """Return the next value."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 12
                if self._ended or not cut:
                    line = self._line + self._text.count("\n", self._at, error.pos)
                    raise MoemixError(f"not valid JSON: {error.msg}", where=f"{self._path}:{line}") from None
            else:
                if end < len(self._text) or self._ended:
                    self._line += self._text.count("\n", self._at, end)
                    self._at = end
                    return value
            self._fill(size)
            size *= 2

    def end(self) -> None:
        """Check that nothing follows."""
        if self.peek():
            raise MoemixError("not valid JSON: unexpected text after the array", where=self.where)

    def _fill(self, size: int) -> None:
        more = self._file.read(size)
        _ = self.offset  # counts what is dropped now
        self._counted = 0
        self._text = self._text[self._at :] + self._bytes.decode(more, final=not more)
        self._at, self._ended = 0, not more


def json_rows(path: Path, split: str) -> Rows:
    """Read an array of objects, one object per line (many ``.json`` files are JSONL), or an object with the rows."""
    with open_file(path) as file:
        head = file.read(_CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:1] != b"[" and not _has_rows(head):
        return json_lines(path, split)
    found: dict[str, _Index] = {}
    for key, _, offset, where in _lists(path):
        index = found.setdefault(key, _Index(path, key))
        index.offsets.append(offset)
        index.lines.append(int(where.rpartition(":")[2]))
    if split not in found and len(found) > 1:
        raise MoemixError(f"the file has several lists: {', '.join(found)}", where=str(path), hint="name one: `split`")
    index = found.get(split) or next(iter(found.values()), _Index(path, ""))
    return Rows(len(index.offsets), index.chosen)


class _Index:
    """Where each row of a list begins in its file."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self.offsets, self.lines = array("q"), array("q")

    def chosen(self, wanted: Chosen) -> Iterator[Located]:
        """Yield the chosen rows: of a file that can be read from anywhere, no others are decoded."""
        if wanted.all() or self._path.suffix.lower() in PACKED:
            elements = ((value, where) for key, value, _, where in _lists(self._path) if key == self._key)
            for value, where in itertools.compress(elements, wanted):
                yield _object(value, where), where
            return
        decode = json.JSONDecoder().raw_decode
        with self._path.open("rb") as file:
            for row in np.flatnonzero(wanted).tolist():
                begin, end = self.offsets[row], self.offsets[row + 1] if row + 1 < len(self.offsets) else None
                file.seek(begin)
                text = file.read(-1 if end is None else end - begin).decode(errors="ignore")
                where = f"{self._path}:{self.lines[row]}"
                yield _object(decode(text)[0], where), where


def _has_rows(head: bytes) -> bool:
    """Return whether a file that begins so is one object with a list of rows, such as ``{"data": [{…}, …]}``."""
    first, _, rest = head.partition(b"\n")
    try:
        whole = json.loads(first)
    except ValueError:
        whole = None
    if whole is not None and rest.strip():
        return False
    text = _JsonText(io.BytesIO(head), Path())
    try:
        text.take("{")
        while text.peek() == '"':
            text.value()
            text.take(":")
            if text.peek() == "[":
                text.take("[")
                if text.peek() != "{":
                    return False
                row = text.value()
                return isinstance(row, dict) and not _TURN & row.keys()
            text.value()
            text.take(",}")
    except (MoemixError, UnicodeDecodeError):
        pass
    return False


def _lists(path: Path) -> Iterator[tuple[str, object, int, str]]:
    """Yield the elements of an array (of key ``""``), or of every array in an object, with key, offset and location."""
    with open_file(path) as file:
        text = _JsonText(file, path)
        if text.peek() == "[":
            yield from _list(text, "")
        else:
            text.take("{")
            while True:
                key = str(text.value())
                text.take(":")
                if text.peek() == "[":
                    yield from _list(text, key)
                else:
                    text.value()
                if text.take(",}") == "}":
                    break
        text.end()


def _list(text: _JsonText, key: str) -> Iterator[tuple[str, object, int, str]]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        text.peek()
        offset, where = text.offset, text.where
        yield key, text.value(), offset, where
        if text.take(",]") == "]":
            return


def json_lines(path: Path, split: str) -> Rows:
    """Read one object per line."""
    with open_file(path) as file:
        count = sum(bool(line.strip()) for line in file)

    def chosen(wanted: Chosen) -> Iterator[Located]:
        with open_file(path) as file:
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            for number, line in itertools.compress(lines, wanted):
                where = f"{path}:{number}"
                yield _object(_line(line, number, where), where), where

    return Rows(count, chosen)


def _line(line: bytes, number: int, where: str) -> object:
    """Decode a line that is one JSON value."""
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise MoemixError(f"not UTF-8 text (byte {error.start} of the line)", where=where) from None
    except json.JSONDecodeError as error:
        raise MoemixError(
            f"not valid JSON: {error.msg} (column {error.colno})",
            where=where,
            hint="expected one object per line" + (", or an array of objects" if number == 1 else ""),
        ) from None


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise MoemixError(f"a row should be an object, but it is {json.dumps(value)[:40]}", where=where)
    return value
