"""Read rows from local files (JSON, JSONL, Parquet, gzipped or not) and from the hub, each with its location."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from harness.errors import MoemixError, unknown
from harness.recipe import Part
from harness.sources import hub_folder, part_files

Located = tuple[dict[str, object], str]
"""A row and its location: ``file:line``, or ``file:row N`` if the format has no lines."""


def read_part(part: Part, *, root: Path | None, source: str) -> tuple[int, Iterator[Located]]:
    """Return the number of rows of a part, and an iterator over them.

    Args:
        part: the part of a source.
        root: the data root. A hub id that is a folder below it is read from there.
        source: the source's name, for errors.

    Raises:
        MoemixError: a file is missing, empty or damaged, a row is not an object (during iteration), or a hub dataset
            cannot be loaded.
    """
    if part.hub is not None:
        return _read_hub(part, root, source)
    readings = [_read_file(path) for path in part_files(part, root, where=source)]
    return sum(count for count, _ in readings), itertools.chain.from_iterable(rows for _, rows in readings)


def _read_file(path: Path) -> tuple[int, Iterable[Located]]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind not in _READERS:
        raise unknown("kind of file", kind or path.name, _READERS, where=str(path))
    try:
        count, rows = _READERS[kind](path)
    except UnicodeDecodeError as error:
        raise MoemixError(f"the file is not UTF-8 text (byte {error.start})", where=str(path)) from None
    except (OSError, EOFError) as error:
        raise MoemixError(f"the file cannot be read: {error}", where=str(path)) from None
    if count == 0:
        raise MoemixError("the file has no rows", where=str(path))
    return count, rows


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else open(path, "rb")


def _json(path: Path) -> tuple[int, Iterable[Located]]:
    """Read an array of objects, or one object per line, because many ``.json`` files are JSONL (such as AQuA's)."""
    with _open(path) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start != b"[":
        return _jsonl(path)
    with _open(path) as file:
        document = file.read().decode("utf-8-sig")
    rows = list(_array(document, path))
    return len(rows), rows


def _array(document: str, path: Path) -> Iterator[Located]:
    """Yield the elements of a JSON array with their lines, decoded one by one, because a decoded list has no lines."""
    decode = json.JSONDecoder().raw_decode
    line, counted = 1, 0
    position = _skip(document, _skip(document, 0) + 1)
    try:
        while document[position : position + 1] != "]":
            value, end = decode(document, position)
            line, counted = line + document.count("\n", counted, position), position
            yield _object(value, f"{path}:{line}"), f"{path}:{line}"
            position = _skip(document, end)
            if document[position : position + 1] == ",":
                position = _skip(document, position + 1)
            elif document[position : position + 1] != "]":
                raise json.JSONDecodeError("expected `,` or `]`", document, position)
        if _skip(document, position + 1) < len(document):
            raise json.JSONDecodeError("unexpected text after the array", document, _skip(document, position + 1))
    except json.JSONDecodeError as error:
        raise MoemixError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from None


def _skip(document: str, position: int) -> int:
    """Return the next position that is not white space."""
    while document[position : position + 1].isspace():
        position += 1
    return position


def _jsonl(path: Path) -> tuple[int, Iterable[Located]]:
    with _open(path) as file:
        count = sum(bool(line.strip()) for line in file)
    return count, _lines(path)


def _lines(path: Path) -> Iterator[Located]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise MoemixError(f"not UTF-8 text (byte {error.start} of the line)", where=where) from None
            except json.JSONDecodeError as error:
                raise MoemixError(
                    f"not valid JSON: {error.msg} (column {error.colno})",
                    where=where,
                    hint="expected one object per line" + (", or an array of objects" if number == 1 else ""),
                ) from None
            yield _object(value, where), where


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise MoemixError(f"a row should be an object, but it is {json.dumps(value)[:40]}", where=where)
    return value


def _parquet(path: Path) -> tuple[int, Iterable[Located]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise MoemixError(f"the file is not a Parquet file: {error}", where=str(path)) from None

    def rows() -> Iterator[Located]:
        batches = file.iter_batches(batch_size=1024)
        for number, row in enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches)):
            yield row, f"{path}:row {number}"

    return file.metadata.num_rows, rows()


_READERS: dict[str, Callable[[Path], tuple[int, Iterable[Located]]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
}


def _read_hub(part: Part, root: Path | None, source: str) -> tuple[int, Iterator[Located]]:
    import datasets

    where = f"source {source}: hub dataset {part.hub}"
    place = hub_folder(part, root)
    try:
        dataset = datasets.load_dataset(
            str(place or part.hub), name=part.subset, split=part.split, revision=None if place else part.revision
        )
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise MoemixError(f"the dataset cannot be loaded: {error}", where=where) from error
    if len(dataset) == 0:
        raise MoemixError("the dataset has no rows", where=where)
    return len(dataset), ((row, f"{part.hub}[{part.split}]:row {i}") for i, row in enumerate(dataset))
