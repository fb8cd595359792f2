"""Read rows from JSON: arrays as a stream, of which only the chosen rows are decoded, and objects line by line.

A line that is not JSON, and a row that is not an object or not UTF-8, is a bad row like any other. An array that is not
valid JSON ends reading, because no one knows where its next row begins.
"""

from __future__ import annotations

import codecs
import itertools
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from harness.errors import MoemixError
from harness.sources import PACKED
from trainers.data.cells import kind
from trainers.data.conversation import MalformedRowError
from trainers.data.located import Chosen, Located, Rows, is_utf8, open_file

_BOM = "\ufeff"
_CHUNK = 1 << 20  # bytes of a text that are decoded at once
_TURN = {"role", "from", "value", "content"}


class _JsonText:
    """A JSON text that is decoded value by value, with the line of each."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._line, self._ended = "", 0, 1, False
        self._counted, self._offset = 0, 0  # the characters of the text whose bytes are in the offset
        self._bytes = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._decode = json.JSONDecoder().raw_decode

    @property
    def where(self) -> str:
        return f"{self._path}:{self._line}"

    @property
    def offset(self) -> int:
        """Return the bytes before the next character."""
        passed = self._text[self._counted : self._at]
        self._offset += len(passed) if passed.isascii() else len(passed.encode(errors="surrogateescape"))
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
        """Return the next value; ``MalformedRowError`` in its place if it is not UTF-8."""
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
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, a tree as deep
                raise MoemixError(f"the JSON cannot be read: {error}", where=self.where) from None
            else:
                if end < len(self._text) or self._ended:
                    raw, self._at = self._text[self._at : end], end
                    self._line += raw.count("\n")
                    return value if is_utf8(raw) else MalformedRowError("not UTF-8 text")
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
    if head[:1] != b"[" and not _has_rows(path, head):
        return json_lines(path, split)
    found: dict[str, _Index] = {}
    for key, _, (begin, end), where in _lists(path):
        index = found.setdefault(key, _Index(path, key))
        index.begins.append(begin)
        index.ends.append(end)
        index.lines.append(int(where.rpartition(":")[2]))
    if split not in found and len(found) > 1:
        raise MoemixError(f"the file has several lists: {', '.join(found)}", where=str(path), hint="name one: `split`")
    index = found.get(split) or next(iter(found.values()), _Index(path, ""))
    return Rows(len(index.begins), index.chosen)


class _Index:
    """Where each row of a list begins and ends in its file."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self.begins, self.ends, self.lines = array("q"), array("q"), array("q")

    def chosen(self, wanted: Chosen) -> Iterator[Located]:
        """Yield the chosen rows: of a file that can be read from anywhere, no others are decoded."""
        if wanted.all() or self._path.suffix.lower() in PACKED:
            elements = ((value, where) for key, value, _, where in _lists(self._path) if key == self._key)
            for value, where in itertools.compress(elements, wanted):
                yield _object(value), where
            return
        with self._path.open("rb") as file:
            for row in np.flatnonzero(wanted).tolist():
                file.seek(self.begins[row])
                yield _decoded(file.read(self.ends[row] - self.begins[row])), f"{self._path}:{self.lines[row]}"


def _has_rows(path: Path, head: bytes) -> bool:
    """Return whether a file that begins so is one object with a list of rows, such as ``{"data": [{…}, …]}``."""
    first, _, rest = head.partition(b"\n")
    if rest.strip() and not isinstance(_decoded(first), MalformedRowError):
        return False
    with open_file(path) as file:
        text = _JsonText(file, path)
        try:
            text.take("{")
            while text.peek() == '"':
                text.value()
                text.take(":")
                if text.peek() == "[":
                    text.take("[")
                    row = text.value() if text.peek() == "{" else None
                    return isinstance(row, dict) and not _TURN & row.keys()
                text.value()
                text.take(",}")
        except MoemixError:
            pass
    return False


def _lists(path: Path) -> Iterator[tuple[str, object, tuple[int, int], str]]:
    """Yield the elements of an array (of key ``""``), or of every array in an object, with key, bytes and location."""
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


def _list(text: _JsonText, key: str) -> Iterator[tuple[str, object, tuple[int, int], str]]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        text.peek()
        begin, where = text.offset, text.where
        value = text.value()
        yield key, value, (begin, text.offset), where
        if text.take(",]") == "]":
            return


def json_lines(path: Path, split: str) -> Rows:
    """Read one object per line.

    Raises:
        MoemixError: no line is an object.
    """
    count, fault = 0, None
    with open_file(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            if count == 0 or fault is not None:  # no object was found yet
                found = _decoded(line)
                fault = (fault or (number, found)) if isinstance(found, MalformedRowError) else None
            count += 1
    if fault is not None:
        raise MoemixError(
            f"no line is a JSON object; the first is {fault[1]}",
            where=f"{path}:{fault[0]}",
            hint="expected one object per line, or an array of objects",
        )

    def chosen(wanted: Chosen) -> Iterator[Located]:
        with open_file(path) as file:
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            for number, line in itertools.compress(lines, wanted):
                yield _decoded(line), f"{path}:{number}"

    return Rows(count, chosen)


def _decoded(text: bytes) -> dict[str, object] | MalformedRowError:
    """Decode a text that should be one object."""
    try:
        return _object(json.loads(text.decode("utf-8-sig")))
    except UnicodeDecodeError:
        return MalformedRowError("not UTF-8 text")
    except json.JSONDecodeError as error:
        return MalformedRowError(f"not valid JSON: {error.msg}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a tree as deep
        return MalformedRowError(f"JSON that cannot be read: {error}"[:120])


def _object(value: object) -> dict[str, object] | MalformedRowError:
    if isinstance(value, dict | MalformedRowError):
        return value
    return MalformedRowError(f"{kind(value)} in the place of an object")
