"""Reading what anybody may have written: bounded, never followed out of its folder, never executed, always a sentence.

A JSON file is refused if it is a link, too large, not UTF-8, nested too deeply, holds NaN, an infinity or a key twice.
YAML is read without aliases (a few lines of them unfold to gigabytes) and without tags.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from harness.errors import MoemixError

RECORD_BYTES = 4 << 20  # submission.json, summary.json, run.json, …
YAML_BYTES = 8 << 20
LINE_BYTES = 4 << 20
FILE_BYTES = 1 << 30
SUBMISSION_BYTES = 4 << 30
MOST_FILES = 2000
DEEPEST = 64


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder by its relative path, in order.

    Raises:
        MoemixError: a link, a pipe, a device, or more than :data:`MOST_FILES` files. Nothing is followed or opened.
    """
    waiting, seen = [PurePosixPath()], 0
    while waiting:
        here = waiting.pop()
        with os.scandir(folder / here) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path, found = here / entry.name, entry.stat(follow_symlinks=False)
                seen += 1
                if seen > MOST_FILES:
                    raise MoemixError(f"more than {MOST_FILES} files", where=str(folder))
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(path)
                    continue
                kind = _refused_kind(found)
                if kind:
                    raise MoemixError(f"{_shown(str(path))} is {kind}; a submission holds plain files only",
                                      where=str(folder))  # fmt: skip
                yield str(path), found


def _refused_kind(found: os.stat_result) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(found.st_mode):
        return "no regular file"
    return "a hard link to another file" if found.st_nlink > 1 else None


def read_bytes(path: Path, limit: int) -> bytes:
    """A plain file's bytes, if there are at most ``limit`` of them."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise MoemixError("the file does not exist", where=str(path)) from None
    except OSError as error:
        raise MoemixError(f"the file cannot be read: {error.strerror}", where=str(path)) from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise MoemixError("not a regular file", where=str(path))
        if found.st_size > limit:
            raise MoemixError(f"{found.st_size:,} bytes where at most {limit:,} are read", where=str(path))
        return file.read(limit)


def read_record(path: Path, limit: int = RECORD_BYTES) -> Any:
    """The value of a JSON file."""
    value = parse_json(read_bytes(path, limit), where=str(path))
    _check_value(value, str(path), 0)
    return value


def read_lines(path: Path, limit: int = FILE_BYTES) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and value of every line of a JSONL file. A published file has no torn line: every one must be whole."""
    for number, line in enumerate(read_bytes(path, limit).split(b"\n"), 1):
        if line:
            where = f"{path}:{number}"
            if len(line) > LINE_BYTES:
                raise MoemixError(f"a line of {len(line):,} bytes; at most {LINE_BYTES:,} are read", where=where)
            value = _parse(_LINES, line, where)
            if not isinstance(value, dict):
                raise MoemixError("a line holds a JSON object", where=where)
            yield where, value


def parse_json(data: bytes, *, where: str) -> Any:
    """One JSON value; a key that comes twice in an object is refused, for readers disagree on which one counts."""
    return _parse(_RECORDS, data, where)


def read_yaml(path: Path, limit: int = YAML_BYTES) -> Any:
    """A YAML file of plain values: no alias, no tag, no key twice."""
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


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {_shown(next(n for n in names if names.count(n) > 1))} comes twice")
    return found


_RECORDS = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_once)
_LINES = json.JSONDecoder(parse_constant=_refuse_constant)


def _parse(decoder: json.JSONDecoder, data: bytes, where: str) -> Any:
    try:
        return decoder.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MoemixError(f"not UTF-8 text (byte {error.start})", where=where) from None
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if error.lineno > 1 else ""
        raise MoemixError(f"not valid JSON: {error.msg}", where=f"{where}{line}") from None
    except ValueError as error:
        raise MoemixError(f"not valid JSON: {str(error)[:200]}", where=where) from None
    except RecursionError:
        raise MoemixError("nested too deeply", where=where) from None


def _check_value(value: Any, where: str, depth: int) -> None:
    """No infinity (``1e999`` is read as one), and no nesting that a later reader would choke on."""
    if depth > DEEPEST:
        raise MoemixError(f"nested more than {DEEPEST} levels deep", where=where)
    if isinstance(value, float) and not math.isfinite(value):
        raise MoemixError("a number is too large (it is read as infinity)", where=where)
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_value(item, where, depth + 1)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "…")


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, and without the same key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(None, None, "aliases are not read", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        if len(set(map(str, keys))) < len(keys):
            raise yaml.MarkedYAMLError(None, None, "a key comes twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)
