"""Read files that anybody may have written: bounded, never followed out of their folder, never executed.

A JSON file is refused if it is a link, too large, not UTF-8, nested too deeply, or if it holds NaN, an infinity, the
same key twice, or (a record) a very long text or a control character. YAML is read without aliases (a few lines of them
expand to gigabytes) and without tags. Every refusal is a :class:`MoemixError` that names the file and the reason.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn, cast

import yaml
from pydantic_core import from_json
from yaml.error import Mark

from harness.errors import MoemixError
from leaderboards.board.submissions import odd_character

RECORD_BYTES = 4 << 20  # submission.json, summary.json, run.json, …
YAML_BYTES = 8 << 20
LINE_BYTES = 4 << 20
FILE_BYTES = 1 << 30
TEXT_LENGTH = 20_000  # of a text in a record
MAX_FILES = 2000
MAX_DEPTH = 64


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every file below a folder, in order, as its relative path and status. Nothing is followed or opened.

    Raises:
        MoemixError: a link, a pipe, a device, or more than :data:`MAX_FILES` files.
    """
    waiting, count = [""], 0
    while waiting:
        parent = waiting.pop()
        with os.scandir(folder / parent) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path, status = f"{parent}{entry.name}", entry.stat(follow_symlinks=False)
                count += 1
                if count > MAX_FILES:
                    raise MoemixError(f"more than {MAX_FILES} files", where=str(folder))
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(f"{path}/")
                    continue
                kind = _refused_kind(status)
                if kind:
                    raise MoemixError(f"{_shortened(path)} is {kind}; a submission holds regular files only",
                                      where=str(folder))  # fmt: skip
                yield path, status


def _refused_kind(status: os.stat_result) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return "a hard link to another file" if status.st_nlink > 1 else None


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        MoemixError: the file is missing, not a regular file, not readable or too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise MoemixError("the file does not exist", where=str(path)) from None
    except OSError as error:
        raise MoemixError(f"the file cannot be read: {error.strerror}", where=str(path)) from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MoemixError("not a regular file", where=str(path))
        if status.st_size > limit:
            raise MoemixError(f"the file has {status.st_size:,} bytes; the limit is {limit:,}", where=str(path))
        return file.read(limit)


def read_record(path: Path, limit: int = RECORD_BYTES) -> object:
    """Return the value of a JSON file.

    Raises:
        MoemixError: the file or its JSON is refused.
    """
    value = parse_json(read_bytes(path, limit), where=str(path))
    _check_value(value, str(path), 0)
    return value


def read_lines(path: Path, limit: int = FILE_BYTES, *, own: str = "") -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the place (``file:line``) and the object of every line of a JSONL file.

    What stands before the key ``own`` is in the files of many submissions, and parsed once.

    Raises:
        MoemixError: a line is too long, not valid JSON or not an object; the last line may not be cut off either.
    """
    name, cut = str(path), f', "{own}": '.encode() if own else b""
    for number, line in enumerate(read_bytes(path, limit).split(b"\n"), 1):
        if line:
            where = f"{name}:{number}"
            if len(line) > LINE_BYTES:
                raise MoemixError(f"the line has {len(line):,} bytes; the limit is {LINE_BYTES:,}", where=where)
            try:
                value = _quickly_parsed(line, cut)
            except ValueError:
                value = _parse(_LINES, line, where)  # it is slower, and says what is wrong
            if not isinstance(value, dict):
                raise MoemixError("every line must be a JSON object", where=where)
            yield where, value


def _quickly_parsed(line: bytes, cut: bytes) -> object:
    """Parse a line; nothing but a key can look like ``cut``, because quotes are escaped in a text.

    Raises:
        ValueError: it is not JSON, or not as this parser wants it.
    """
    head, found, tail = line.partition(cut) if cut else (line, b"", b"")
    if not found:
        return from_json(line, allow_inf_nan=False)
    start = _starts.get(head)
    if start is None:
        start = from_json(head + b"}", allow_inf_nan=False)
        if not start:
            raise ValueError("nothing before a comma")
        if len(_starts) == _MOST_STARTS:
            _starts.clear()
        if len(head) <= _LONGEST_START:
            _starts[head] = start
    return start | from_json(b"{" + cut.removeprefix(b", ") + tail, allow_inf_nan=False)


_starts: dict[bytes, dict[str, object]] = {}
_MOST_STARTS, _LONGEST_START = 20_000, 4096  # lines and bytes, so that they take little memory


def parse_json(data: bytes, *, where: str) -> object:
    """Parse one JSON value. A repeated key is refused, because readers disagree on which one counts."""
    return _parse(_RECORDS, data, where)


def read_yaml(path: Path, limit: int = YAML_BYTES) -> object:
    """Return the value of a YAML file without aliases, tags and repeated keys.

    Raises:
        MoemixError: with the line, anything else.
    """
    try:
        return yaml.load(read_bytes(path, limit).decode("utf-8"), Loader=_PlainLoader)
    except UnicodeDecodeError as error:
        raise MoemixError(f"not UTF-8 text (byte {error.start})", where=str(path)) from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise MoemixError(f"not plain YAML: {error.problem}", where=f"{path}{line}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise MoemixError(f"not plain YAML: {str(error).splitlines()[0][:200]}", where=str(path)) from None
    except RecursionError:
        raise MoemixError("nested too deeply", where=str(path)) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {_shortened(next(n for n in names if names.count(n) > 1))} appears twice")
    return value


_RECORDS = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
_LINES = json.JSONDecoder(parse_constant=_refuse_constant)


def _parse(decoder: json.JSONDecoder, data: bytes, where: str) -> object:
    try:
        value: object = decoder.decode(data.decode("utf-8"))
        return value
    except UnicodeDecodeError as error:
        raise MoemixError(f"not UTF-8 text (byte {error.start})", where=where) from None
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if error.lineno > 1 else ""
        raise MoemixError(f"not valid JSON: {error.msg}", where=f"{where}{line}") from None
    except ValueError as error:
        raise MoemixError(f"not valid JSON: {str(error)[:200]}", where=where) from None
    except RecursionError:
        raise MoemixError("nested too deeply", where=where) from None


def _check_value(value: object, where: str, depth: int) -> None:
    """Refuse infinities (``1e999`` is parsed as one), odd texts, and nesting that would overflow a later reader."""
    kind = type(value)
    if kind is str:
        _check_text(cast("str", value), where)
    elif kind is float and not math.isfinite(cast("float", value)):
        raise MoemixError("a number is too large: it is read as infinity", where=where)
    elif kind is dict or kind is list:
        if depth >= MAX_DEPTH:
            raise MoemixError(f"nested more than {MAX_DEPTH} levels deep", where=where)
        if kind is dict:
            for key in cast("dict[str, object]", value):
                _check_text(key, where)
            value = cast("dict[str, object]", value).values()
        for item in cast("Iterable[object]", value):
            if type(item) not in _HARMLESS:
                _check_value(item, where, depth + 1)


_HARMLESS = (int, bool, type(None))


def _check_text(text: str, where: str) -> None:
    if len(text) > TEXT_LENGTH:
        raise MoemixError(f"a text has {len(text):,} characters; the limit is {TEXT_LENGTH:,}", where=where)
    odd = odd_character(text)
    if odd is not None:
        raise MoemixError(f"the character U+{ord(odd):04X} is not allowed in a text", where=where)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "…")


class _PlainLoader(yaml.SafeLoader):
    """A YAML loader that refuses aliases and repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = cast("yaml.Event", self.peek_event())  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, "aliases are not allowed", cast("Mark", event.start_mark))
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [str(key.value) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise yaml.MarkedYAMLError(None, None, "a key appears twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)
