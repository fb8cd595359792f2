"""Read rows from local files and from the hub, each with its location; memory does not grow with the texts.

Files are JSON (an array, one object per line, or an object with one list of rows), CSV, TSV, Parquet or Arrow, the text
formats also compressed (gz, bz2, xz, zst), and folders that ``datasets`` saved.
"""

from __future__ import annotations

import csv
import io
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from harness.errors import MoemixError, unknown
from harness.recipe import Part
from harness.sources import PACKED, part_files
from trainers.data.conversation import MalformedRowError
from trainers.data.hub import dataset_rows, read_hub
from trainers.data.json_files import json_lines, json_rows
from trainers.data.located import Chosen, Located, Rows, is_utf8, open_file

if TYPE_CHECKING:
    from pyarrow import RecordBatch


def read_part(part: Part, *, root: Path | None, source: str) -> Rows:
    """Open the files of a part of a source; a hub id that is a folder below the data root is read from there.

    Raises:
        MoemixError: a file is missing, empty or damaged, a row is not an object (during iteration), or a hub dataset
            cannot be loaded.
    """
    files = part_files(part, root, where=source) if part.hub is None else read_hub(part, root, source)
    return files if isinstance(files, Rows) else _joined([_read_file(path, part) for path in files])


def _joined(files: list[Rows]) -> Rows:
    def chosen(wanted: Chosen) -> Iterator[Located]:
        first = 0
        for rows in files:
            mine = wanted[first : first + rows.count]
            first += rows.count
            if mine.any():
                yield from rows.chosen(mine)

    return Rows(sum(rows.count for rows in files), chosen)


def _read_file(path: Path, part: Part) -> Rows:
    if path.is_dir():
        return _saved(path, part.split)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] and suffixes[-1] in PACKED and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind not in _READERS:
        raise unknown("kind of file", kind or path.name, _READERS, where=str(path))
    try:
        rows = _READERS[kind](path, part.split)
    except UnicodeDecodeError as error:
        raise MoemixError(f"the file is not UTF-8 text (byte {error.start})", where=str(path)) from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise MoemixError(f"the file cannot be read: {error}", where=str(path)) from None
    if rows.count == 0:
        raise MoemixError("the file has no rows", where=str(path))
    return rows


def _saved(path: Path, split: str) -> Rows:
    """Read a folder that ``save_to_disk`` of `datasets` wrote."""
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise MoemixError(f"the folder was not written by `save_to_disk`: {error}", where=str(path)) from None
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise unknown("split", split, dataset, where=str(path))
        dataset = dataset[split]
    return dataset_rows(dataset, str(path))


# --- tables -----------------------------------------------------------------------------------------


def _csv(path: Path, split: str) -> Rows:
    """Read a table with a header; an empty cell at the end of a short line is null."""
    csv.field_size_limit(1 << 30)

    def rows() -> Iterator[Located]:
        with open_file(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
            delimiter = "\t" if ".tsv" in path.name.lower() else ","
            table = csv.DictReader(text, delimiter=delimiter, strict=True)
            _check_header(table, delimiter, path)
            before = 1
            while True:
                try:
                    row = next(table, None)
                except csv.Error as error:
                    raise MoemixError(f"not valid CSV: {error}", where=f"{path}:{table.line_num}") from None
                if row is None:
                    return
                before, where = table.line_num + 1, f"{path}:{max(before, 2)}"
                if None in row:
                    yield MalformedRowError("the line has more cells than the header"), where
                elif not all(map(is_utf8, filter(None, row.values()))):
                    yield MalformedRowError("not UTF-8 text"), where
                else:
                    yield cast("dict[str, object]", row), where

    return Rows(sum(1 for _ in rows()), lambda wanted: itertools.compress(rows(), wanted))


def _check_header(table: csv.DictReader[str], delimiter: str, path: Path) -> None:
    """Refuse a header that is not UTF-8, or has other separators than the ones that are read."""
    try:
        names = table.fieldnames or ()
    except csv.Error:
        return  # said with the rows
    if not all(map(is_utf8, names)):
        raise MoemixError("not UTF-8 text", where=f"{path}:1", hint="save the file as UTF-8")
    found = [each for each in ";\t|," if each != delimiter and len(names) == 1 and each in names[0]]
    if found:
        hint = "separate them by commas, or by tabs in a file that ends in .tsv"
        raise MoemixError(f"the columns are separated by {found[0]!r}", where=f"{path}:1", hint=hint)


def _parquet(path: Path, split: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise MoemixError(f"the file is not a Parquet file: {error}", where=str(path)) from None

    def chosen(wanted: Chosen) -> Iterator[Located]:
        return _records(pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024), wanted, path)

    return Rows(file.metadata.num_rows, chosen)


def _arrow(path: Path, split: str) -> Rows:
    """Read an Arrow file, or a stream, which is what ``datasets`` writes."""
    import pyarrow
    import pyarrow.ipc

    def batches() -> Iterator[RecordBatch]:
        with pyarrow.memory_map(str(path)) as file:
            try:
                reader = pyarrow.ipc.open_file(file)
            except pyarrow.ArrowInvalid:
                file.seek(0)
                yield from pyarrow.ipc.open_stream(file)
            else:
                yield from map(reader.get_batch, range(reader.num_record_batches))

    try:
        return Rows(sum(batch.num_rows for batch in batches()), lambda wanted: _records(batches(), wanted, path))
    except pyarrow.ArrowException as error:
        raise MoemixError(f"the file is not an Arrow file: {error}", where=str(path)) from None


def _records(batches: Iterable[RecordBatch], wanted: Chosen, path: Path) -> Iterator[Located]:
    """Yield the chosen rows of a table in batches."""
    import pyarrow

    first = 0
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, 1024):
                some = batch.slice(start, 1024)
                mine = wanted[first : first + some.num_rows]
                if mine.any():
                    numbers = (np.flatnonzero(mine) + first).tolist()
                    some.validate(full=True)  # a damaged one could end the process
                    found = some.filter(pyarrow.array(mine)).to_pylist()
                    yield from ((row, f"{path}:row {number}") for number, row in zip(numbers, found, strict=True))
                first += some.num_rows
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise MoemixError(f"the file is damaged: {str(error)[:200]}", where=f"{path}:row {first}") from None


_READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".json": json_rows,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
