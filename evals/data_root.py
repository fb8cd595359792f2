"""Benchmarks from local files, in the formats they were published in, under the names lm-eval looks them up by.

Stock tasks name data sets of the hub. Given a data root, those listed in :mod:`evals.benchmarks` are converted once
into the layout the hub keeps (Parquet, one file per split, a README that lists them) in a cache, and
``datasets.load_dataset`` finds them there for as long as :func:`local_datasets` lasts. Task files, prompts and
metrics stay as they are.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from evals.benchmarks import DATASETS, Dataset, Row, Split
from evals.cache import cache_root
from harness.errors import MoemixError
from harness.files import hash_file, hash_value, read_jsonl, whole_directory, write_text

_LAYOUT = 2  # raise when a conversion changes


@contextmanager
def local_datasets(root: Path | None) -> Iterator[None]:
    """While this lasts, data sets listed here come from ``root``; others, or all without a root, from the hub."""
    if root is None:
        yield
        return
    import datasets
    from huggingface_hub import constants

    hub = datasets.load_dataset
    switches: tuple[Any, ...] = (constants, datasets.config)
    offline = [switch.HF_HUB_OFFLINE for switch in switches]

    def load(path: str, name: str | None = None, **options: Any) -> Any:
        dataset = DATASETS.get((path, name))
        if dataset is None:
            try:
                return hub(path, name, **options)
            except ConnectionError:
                for switch in switches:
                    switch.HF_HUB_OFFLINE = True  # the next one need not wait for the network as well
                raise
        return _opened(dataset, mirror(dataset, root), options.get("split"))

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = hub
        for switch, value in zip(switches, offline, strict=True):
            switch.HF_HUB_OFFLINE = value


def _opened(dataset: Dataset, folder: Path, split: str | None) -> Any:
    """What ``datasets.load_dataset`` gives for a mirror, read straight from its files."""
    import datasets
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    loaded = datasets.DatasetDict()
    for name, source in dataset.splits.items():
        if source is not None:
            loaded[name] = datasets.Dataset(pq.read_table(folder / f"{name}.parquet"))
    for name, source in dataset.splits.items():
        if source is None:  # a task with no few-shot examples still opens the split they would come from
            loaded[name] = next(iter(loaded.values())).select([])
    return loaded if split is None else loaded[split]


def inventory(root: Path) -> list[tuple[str, bool, str]]:
    """Every benchmark a data root can hold: its folder, whether all its files are there and readable, and the rows."""
    findings = []
    folders: dict[str, list[Dataset]] = {}
    for (hub, _), dataset in DATASETS.items():
        if not hub.startswith("moemix/"):
            first = next(split.file for split in dataset.splits.values() if split is not None)
            folders.setdefault(first.split("/")[0], []).append(dataset)
    for folder, members in folders.items():
        files = [split.file for member in members for split in member.splits.values() if split is not None]
        missing = [file for file in dict.fromkeys(files) if not (root / file).is_file()]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            findings.append((folder, False, f"missing: {', '.join(missing[:3])}{more}"))
            continue
        rows: dict[str, int] = {}
        try:
            for member in members:
                for name, split in member.splits.items():
                    if split is not None:
                        found = sum(1 for _ in _converted(member, split, root / split.file))
                        rows[name] = rows.get(name, 0) + found
        except MoemixError as error:
            findings.append((folder, False, str(error)))
            continue
        parts = f"{len(members)} parts, " if len(members) > 1 else ""
        absent = sorted({name for member in members for name, split in member.splits.items() if split is None})
        without = f" (no {', '.join(absent)} split: no few-shot examples from it)" if absent else ""
        counts = ", ".join(f"{name} {count} rows" for name, count in rows.items())
        findings.append((folder, True, f"{parts}{counts}{without}"))
    return findings


def mirror(dataset: Dataset, root: Path) -> Path:
    """The folder that holds a data set as the hub lays it out, made on first use and named by its content."""
    files = {name: root / split.file for name, split in dataset.splits.items() if split is not None}
    for file in files.values():
        if not file.is_file():
            raise MoemixError("the data root lacks this file", where=str(file), hint="or leave --data-root out")
    contents = {split: hash_file(file) for split, file in files.items()}
    hub, config = next(key for key, value in DATASETS.items() if value is dataset)
    folder = cache_root() / "datasets" / hash_value([_LAYOUT, hub, config, list(dataset.splits), contents])[:24]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "README.md").is_file():
            with whole_directory(folder) as new:
                _write(dataset, config or "default", files, new)
    return folder


def _write(dataset: Dataset, config: str, files: dict[str, Path], folder: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]
    import yaml

    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in dataset.schema.items()])
    for name, file in files.items():
        split = dataset.splits[name]
        assert split is not None
        rows = [row for _, row in _converted(dataset, split, file)]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")
    listing = [{"split": split, "path": f"{split}.parquet"} for split in files]
    card = {"configs": [{"config_name": config, "data_files": listing}]}
    write_text(folder / "README.md", f"---\n{yaml.safe_dump(card)}---\n")


def _converted(dataset: Dataset, split: Split, file: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a split with their numbers in the file, from 1."""
    for number, row in _readable(file):
        try:
            if split.keep(row):
                yield number, dataset.convert(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise MoemixError(f"not a row of this data set: {error!r}", where=f"{file}:{number}") from None


def _readable(file: Path) -> Iterator[tuple[int, Row]]:
    try:
        yield from _rows(file)
    except (ValueError, KeyError, TypeError, OSError, EOFError, csv.Error) as error:
        raise MoemixError(f"cannot be read: {error!r}", where=str(file)) from None


def _rows(file: Path) -> Iterator[tuple[int, Row]]:
    """Published rows: JSONL (or gzipped), a JSON list or ``{"examples": […]}``, or CSV as ``{"cells": […]}``."""
    if file.suffix == ".csv":
        with open(file, encoding="utf-8", newline="") as lines:
            reader = csv.reader(lines)
            for cells in reader:
                if reader.line_num == 1 and cells and cells[-1] not in tuple("0123ABCD"):
                    continue  # a header, which some copies have
                yield reader.line_num, {"cells": cells}
    elif file.suffix == ".gz":
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield number, json.loads(line)
    elif _is_one_value(file):
        tree = json.loads(file.read_text(encoding="utf-8"))
        yield from enumerate(tree if isinstance(tree, list) else tree["examples"], 1)
    else:
        yield from enumerate(read_jsonl(file), 1)


def _is_one_value(file: Path) -> bool:
    """Whether a file is one JSON value rather than one a line: ``.json`` files are either."""
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


def _arrow_type(kind: Any) -> Any:
    import pyarrow as pa  # type: ignore[import-untyped]

    if isinstance(kind, dict):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in kind.items()])
    if isinstance(kind, list):
        return pa.list_(_arrow_type(kind[0]))
    return {"text": pa.string(), "texts": pa.list_(pa.string()), "int": pa.int64(), "ints": pa.list_(pa.int64())}[kind]
