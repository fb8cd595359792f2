"""Read rows from local files and from the hub, each with its location; memory does not grow with the file.

Files are JSON (an array, one object per line, or an object with one list of rows), CSV, TSV, Parquet or Arrow, the text
formats also compressed (gz, bz2, xz, zst), and folders that ``datasets`` saved.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from harness.errors import MoemixError, unknown
from harness.recipe import Part
from harness.sources import hub_folder, part_files

if TYPE_CHECKING:
    from pyarrow import RecordBatch

Located = tuple[dict[str, object], str]
"""A row and its location: ``file:line``, or ``file:row N`` if the format has no lines."""
Counted = tuple[int, Iterable[Located]]

_CHUNK = 1 << 20  # bytes of a JSON text that are decoded at once
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_TURN = {"role", "from", "value", "content"}
_TABLES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
_SPLIT_NAME = re.compile(r"(^|[-_./])(train|test|valid|validation|val|dev|eval)([-_.0-9/]|$)")
_SHARD = re.compile(r"\d+(-of-\d+)?(?=\.)")


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
    readings = [_read_file(path, part) for path in part_files(part, root, where=source)]
    return sum(count for count, _ in readings), itertools.chain.from_iterable(rows for _, rows in readings)


def _read_file(path: Path, part: Part) -> Counted:
    if path.is_dir():
        return _saved(path, part.split)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] and suffixes[-1] in _PACKED and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind not in _READERS:
        raise unknown("kind of file", kind or path.name, _READERS, where=str(path))
    try:
        count, rows = _READERS[kind](path, part.split)
    except UnicodeDecodeError as error:
        raise MoemixError(f"the file is not UTF-8 text (byte {error.start})", where=str(path)) from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise MoemixError(f"the file cannot be read: {error}", where=str(path)) from None
    if count == 0:
        raise MoemixError("the file has no rows", where=str(path))
    return count, rows


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
        self._bytes = codecs.getincrementaldecoder("utf-8-sig")()
        self._decode = json.JSONDecoder().raw_decode

    @property
    def where(self) -> str:
        return f"{self._path}:{self._line}"

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            start = self._at
            while self._text[self._at : self._at + 1].isspace():
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
        self._text = self._text[self._at :] + self._bytes.decode(more, final=not more)
        self._at, self._ended = 0, not more


def _json(path: Path, split: str) -> Counted:
    """Read an array of objects, one object per line (many ``.json`` files are JSONL), or an object with the rows."""
    with _open(path) as file:
        head = file.read(_CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:1] == b"[":
        return sum(1 for _ in _elements(path, "")), _elements(path, "")
    if not _has_rows(head):
        return _jsonl(path, split)
    counts = Counter(key for key, _, _ in _lists(path))
    if split not in counts and len(counts) > 1:
        raise MoemixError(f"the file has several lists: {', '.join(counts)}", where=str(path), hint="name one: `split`")
    key = split if split in counts else next(iter(counts), "")
    return counts[key], _elements(path, key)


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


def _lists(path: Path) -> Iterator[tuple[str, object, str]]:
    """Yield the elements of an array (of key ``""``), or of every array in an object, with key and location."""
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


def _list(text: _JsonText, key: str) -> Iterator[tuple[str, object, str]]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        text.peek()
        where = text.where
        yield key, text.value(), where
        if text.take(",]") == "]":
            return


def _elements(path: Path, key: str) -> Iterator[Located]:
    return ((_object(value, where), where) for name, value, where in _lists(path) if name == key)


def _jsonl(path: Path, split: str) -> Counted:
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


# --- tables -----------------------------------------------------------------------------------------


def _csv(path: Path, split: str) -> Counted:
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

    return sum(1 for _ in rows()), rows()


def _parquet(path: Path, split: str) -> Counted:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise MoemixError(f"the file is not a Parquet file: {error}", where=str(path)) from None
    return file.metadata.num_rows, _records(file.iter_batches(batch_size=1024), path)


def _arrow(path: Path, split: str) -> Counted:
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
        return sum(batch.num_rows for batch in batches()), _records(batches(), path)
    except pyarrow.ArrowInvalid as error:
        raise MoemixError(f"the file is not an Arrow file: {error}", where=str(path)) from None


def _records(batches: Iterable[RecordBatch], path: Path) -> Iterator[Located]:
    """Yield the rows of a table in batches."""
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, 1024):
            for row in batch.slice(start, 1024).to_pylist():
                yield row, f"{path}:row {number}"
                number += 1


_READERS: dict[str, Callable[[Path, str], Counted]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}


# --- datasets ---------------------------------------------------------------------------------------


def _saved(path: Path, split: str) -> Counted:
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
    return len(dataset), ((row, f"{path}:row {i}") for i, row in enumerate(dataset))


def _read_hub(part: Part, root: Path | None, source: str) -> tuple[int, Iterator[Located]]:
    import datasets

    where = f"source {source}: hub dataset {part.hub}"
    place = hub_folder(part, root)
    try:
        if not part.subset and not part.data_files:
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
    return len(dataset), ((row, f"{part.hub}[{part.split}]:row {i}") for i, row in enumerate(dataset))


def _check_files(part: Part, place: Path | None, where: str) -> None:
    """Ask which files are meant where a repository has several that are neither splits nor shards of one table."""
    import datasets
    from huggingface_hub import HfApi, hf_hub_download

    if place is not None:
        files = sorted(str(file.relative_to(place)) for file in place.rglob("*") if file.is_file())
    elif datasets.config.HF_HUB_OFFLINE:
        return  # `datasets` has it in its cache, or fails
    else:
        files = HfApi().list_repo_files(str(part.hub), repo_type="dataset", revision=part.revision)
    tables = [file for file in files if any(suffix in _TABLES for suffix in Path(file).suffixes[-2:])]
    kinds = {_SHARD.sub("", file) for file in tables if not _SPLIT_NAME.search(file)}
    if len(kinds) < 2:
        return
    if "README.md" in files:
        card = place / "README.md" if place else None
        path = card or hf_hub_download(str(part.hub), "README.md", repo_type="dataset", revision=part.revision)
        if "data_files:" in (text := Path(path).read_text(encoding="utf-8")) or "data_dir:" in text or "path:" in text:
            return  # the card says which file is which split
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
