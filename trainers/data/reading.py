"""Read rows from local files and from the hub, each with its location; memory does not grow with the texts.

Files are JSON (an array, one object per line, or an object with one list of rows), CSV, TSV, Parquet or Arrow, the text
formats also compressed (gz, bz2, xz, zst), and folders that ``datasets`` saved.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import fnmatch
import gzip
import io
import itertools
import json
import lzma
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError, unknown
from harness.recipe import Part
from harness.sources import hub_folder, part_files

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import RecordBatch

Located = tuple[dict[str, object], str]
"""A row and its location: ``file:line``, or ``file:row N`` if the format has no lines."""
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


_BOM = "\ufeff"
_CHUNK = 1 << 20  # bytes of a JSON text that are decoded at once
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_TURN = {"role", "from", "value", "content"}
_TABLES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
_SPLIT_NAME = re.compile(r"(^|[-_./])(train|test|valid|validation|val|dev|eval)([-_.0-9/]|$)")
_SHARD = re.compile(r"(?<![vV\d.])(?!(19|20)\d\d\.)\d+(-of-\d+)?(?=\.)")  # not a version (v2) or a year


def read_part(part: Part, *, root: Path | None, source: str) -> Rows:
    """Open the files of a part.

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
    return _joined([_read_file(path, part) for path in part_files(part, root, where=source)])


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
    kind = suffixes[-2] if suffixes[-1:] and suffixes[-1] in _PACKED and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind not in _READERS:
        raise unknown("kind of file", kind or path.name, _READERS, where=str(path))
    try:
        rows = _READERS[kind](path, part.split)
    except UnicodeDecodeError as error:
        raise MoemixError(f"the file is not UTF-8 text (byte {error.start})", where=str(path)) from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise MoemixError(f"the file cannot be read: {error}", where=str(path)) from None
    if rows.count == 0:
        raise MoemixError("the file has no rows", where=str(path))
    return rows


def _open(path: Path) -> BinaryIO:
    opened: dict[str, Callable[[Path], object]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zst": _zstandard,
    }
    return cast("BinaryIO", opened[path.suffix.lower()](path)) if path.suffix.lower() in _PACKED else path.open("rb")


def _zstandard(path: Path) -> object:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


# --- JSON -------------------------------------------------------------------------------------------


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


def _json(path: Path, split: str) -> Rows:
    """Read an array of objects, one object per line (many ``.json`` files are JSONL), or an object with the rows."""
    with _open(path) as file:
        head = file.read(_CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:1] != b"[" and not _has_rows(head):
        return _jsonl(path, split)
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
        if wanted.all() or self._path.suffix.lower() in _PACKED:
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
    with _open(path) as file:
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


def _jsonl(path: Path, split: str) -> Rows:
    with _open(path) as file:
        count = sum(bool(line.strip()) for line in file)

    def chosen(wanted: Chosen) -> Iterator[Located]:
        with _open(path) as file:
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


# --- tables -----------------------------------------------------------------------------------------


def _csv(path: Path, split: str) -> Rows:
    """Read a table with a header; an empty cell at the end of a short line is null."""
    csv.field_size_limit(1 << 30)

    def rows() -> Iterator[Located]:
        with _open(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            table = csv.DictReader(text, delimiter="\t" if ".tsv" in path.name.lower() else ",", strict=True)
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
                    raise MoemixError("the line has more cells than the header", where=where)
                yield cast("dict[str, object]", row), where

    return Rows(sum(1 for _ in rows()), lambda wanted: itertools.compress(rows(), wanted))


def _parquet(path: Path, split: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
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
    except pyarrow.ArrowInvalid as error:
        raise MoemixError(f"the file is not an Arrow file: {error}", where=str(path)) from None


def _records(batches: Iterable[RecordBatch], wanted: Chosen, path: Path) -> Iterator[Located]:
    """Yield the chosen rows of a table in batches."""
    import pyarrow

    first = 0
    for batch in batches:
        for start in range(0, batch.num_rows, 1024):
            some = batch.slice(start, 1024)
            mine = wanted[first : first + some.num_rows]
            if mine.any():
                numbers = (np.flatnonzero(mine) + first).tolist()
                for number, row in zip(numbers, some.filter(pyarrow.array(mine)).to_pylist(), strict=True):
                    yield row, f"{path}:row {number}"
            first += some.num_rows


_READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}


# --- datasets ---------------------------------------------------------------------------------------


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
    return _dataset(dataset, str(path))


def _dataset(dataset: Dataset, place: str) -> Rows:
    def chosen(wanted: Chosen) -> Iterator[Located]:
        numbers = np.flatnonzero(wanted)
        rows = dataset if len(numbers) == len(dataset) else dataset.select(numbers)
        for number, row in zip(numbers.tolist(), rows, strict=True):
            yield cast("dict[str, object]", row), f"{place}:row {number}"

    return Rows(len(dataset), chosen)


def _read_hub(part: Part, root: Path | None, source: str) -> Rows:
    import datasets

    where = f"source {source}: hub dataset {part.hub}"
    place = hub_folder(part, root)
    try:
        _check_files(part, place, where)
        dataset = datasets.load_dataset(
            str(place or part.hub),
            name=part.subset,
            split=part.split,
            revision=None if place else part.revision,
            data_files={part.split.partition("[")[0]: list(part.data_files)} if part.data_files else None,
        )
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise MoemixError(f"the dataset cannot be loaded: {error}", where=where) from error
    if len(dataset) == 0:
        raise MoemixError("the dataset has no rows", where=where)
    return _dataset(dataset, f"{part.hub}[{part.split}]")


def _check_files(part: Part, place: Path | None, where: str) -> None:
    """Check that ``data_files`` exist; ask for them where a repository has several tables that are not one dataset."""
    import datasets
    from huggingface_hub import HfApi, hf_hub_download

    if part.subset and not part.data_files:
        return
    if place is not None:
        files = sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
    elif datasets.config.HF_HUB_OFFLINE:
        return  # `datasets` has it in its cache, or fails
    else:
        files = HfApi().list_repo_files(str(part.hub), repo_type="dataset", revision=part.revision)
    for pattern in part.data_files:
        if not fnmatch.filter(files, pattern) and "://" not in pattern:
            raise unknown("file of the repository", pattern, files, where=where)
    tables = [file for file in files if any(suffix in _TABLES for suffix in Path(file).suffixes[-2:])]
    kinds = {_SHARD.sub("", file) for file in tables if not _SPLIT_NAME.search(file)}
    if part.data_files or len(kinds) < 2:
        return
    if "README.md" in files:
        card = place / "README.md" if place else None
        path = card or hf_hub_download(str(part.hub), "README.md", repo_type="dataset", revision=part.revision)
        if re.match(r"---\n(?:(?!---\n).*\n)*?configs:", Path(path).read_text(encoding="utf-8")):
            return  # the card says which files are a dataset
    raise MoemixError(
        f"the repository has several files, which are not splits of one dataset: {', '.join(tables)}",
        where=where,
        hint="choose with `data_files`",
    )


def pinned(part: Part, root: Path | None) -> Part:
    """Return a part whose hub revision is a commit; unchanged if it is one, or the hub cannot be asked."""
    import datasets

    if part.hub is None or hub_folder(part, root) or re.fullmatch("[0-9a-f]{40}", part.revision or ""):
        return part
    if datasets.config.HF_HUB_OFFLINE:
        return part
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = HfApi().dataset_info(part.hub, revision=part.revision, timeout=10).sha
    except (HfHubHTTPError, HTTPError, OSError, ValueError):
        return part  # loading it says what is wrong
    return part.model_copy(update={"revision": found}) if found else part
