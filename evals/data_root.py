"""Benchmarks from local files, in the formats they were published in, under the names lm-eval looks them up by.

Stock tasks name data sets of the hub. Given a data root, those listed here are converted once into the layout the
hub keeps (Parquet, one file per split, a README that lists them) in a cache, and ``datasets.load_dataset`` finds
them there for as long as :func:`local_datasets` lasts. Task files, prompts and metrics stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from evals.cache import cache_root
from harness.errors import MoemixError
from harness.files import hash_file, hash_value, read_jsonl, whole_directory, write_text

Row = dict[str, Any]
_LAYOUT = 1  # raise when a conversion below changes


@dataclass(frozen=True)
class Dataset:
    """One configuration of a hub data set.

    Attributes:
        splits: split → the file under the data root; None for a split without one, which is there and empty.
        schema: column → type, in words of this module (``text``, ``texts``, ``int``); nested columns as a dict.
        convert: a published row → a row as the hub has it.
    """

    splits: dict[str, str | None]
    schema: dict[str, Any]
    convert: Callable[[Row], Row]


def _arc(row: Row) -> Row:
    choices = row["question"]["choices"]
    return {
        "id": row["id"],
        "question": row["question"]["stem"],
        "choices": {"text": [c["text"] for c in choices], "label": [c["label"] for c in choices]},
        "answerKey": row["answerKey"],
    }


def _boolq(row: Row) -> Row:
    label = {"true": 1, "false": 0}[str(row["label"]).lower()]  # the words, or JSON's own true and false
    return {"question": row["question"], "passage": row["passage"], "idx": row["idx"], "label": label}


def _gsm8k(row: Row) -> Row:
    return {"question": row["question"], "answer": row["answer"]}


_ARC_SCHEMA = {"id": "text", "question": "text", "choices": {"text": "texts", "label": "texts"}, "answerKey": "text"}


def _arc_files(name: str) -> Dataset:
    files = {"train": None, "validation": f"arc/{name}-Dev.jsonl", "test": f"arc/{name}-Test.jsonl"}
    return Dataset(files, _ARC_SCHEMA, _arc)


def _quickstart(family: str, schema: dict[str, Any]) -> Dataset:
    """A family of held-out questions of the generated quickstart world, which is a data root of its own."""
    schema = {"prompt": "text", **schema}
    return Dataset({"test": f"eval/{family}.jsonl"}, schema, lambda row: {column: row[column] for column in schema})


DATASETS: dict[tuple[str, str | None], Dataset] = {
    ("allenai/ai2_arc", "ARC-Easy"): _arc_files("ARC-Easy"),
    ("allenai/ai2_arc", "ARC-Challenge"): _arc_files("ARC-Challenge"),
    ("aps/super_glue", "boolq"): Dataset(
        {"train": None, "validation": "boolq/val.jsonl"},
        {"question": "text", "passage": "text", "idx": "int", "label": "int"},
        _boolq,
    ),
    ("openai/gsm8k", "main"): Dataset(
        {"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"}, {"question": "text", "answer": "text"}, _gsm8k
    ),
    ("moemix/quickstart", "facts"): _quickstart("facts", {"choices": "texts", "label": "int"}),
    ("moemix/quickstart", "words"): _quickstart("words", {"target": "text"}),
    ("moemix/quickstart", "math"): _quickstart("math", {"target": "text"}),
    ("moemix/quickstart", "code"): _quickstart("code", {"tests": "texts"}),
}


@contextmanager
def local_datasets(root: Path | None) -> Iterator[None]:
    """While this lasts, data sets listed here come from ``root``; others, or all without a root, from the hub."""
    if root is None:
        yield
        return
    import datasets

    hub = datasets.load_dataset

    def load(path: str, name: str | None = None, **options: Any) -> Any:
        dataset = DATASETS.get((path, name))
        if dataset is None:
            return hub(path, name, **options)
        loaded = hub(str(mirror(dataset, root)), name, **options)
        if isinstance(loaded, datasets.DatasetDict):
            # A task with no few-shot examples still opens the split they would come from.
            for split in dataset.splits.keys() - loaded.keys():
                loaded[split] = next(iter(loaded.values())).select([])
        return loaded

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = hub


def mirror(dataset: Dataset, root: Path) -> Path:
    """The folder that holds a data set as the hub lays it out, made on first use and named by its content."""
    files = {split: root / file for split, file in dataset.splits.items() if file is not None}
    for file in files.values():
        if not file.is_file():
            raise MoemixError("the data root lacks this file", where=str(file), hint="or leave --data-root out")
    contents = {split: hash_file(file) for split, file in files.items()}
    name = next(key for key, value in DATASETS.items() if value is dataset)
    folder = cache_root() / "datasets" / hash_value([_LAYOUT, list(name), list(dataset.splits), contents])[:24]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "README.md").is_file():
            with whole_directory(folder) as new:
                _write(dataset, name[1] or "default", files, new)
    return folder


def _write(dataset: Dataset, config: str, files: dict[str, Path], folder: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]
    import yaml

    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in dataset.schema.items()])
    for split, file in files.items():
        rows = list(_converted(dataset, file))
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{split}.parquet")
    listing = [{"split": split, "path": f"{split}.parquet"} for split in files]
    card = {"configs": [{"config_name": config, "data_files": listing}]}
    write_text(folder / "README.md", f"---\n{yaml.safe_dump(card)}---\n")


def _converted(dataset: Dataset, file: Path) -> Iterator[Row]:
    for number, row in enumerate(read_jsonl(file), 1):
        try:
            yield dataset.convert(row)
        except (KeyError, TypeError) as error:
            raise MoemixError(f"not a row of this data set: {error!r}", where=f"{file}:{number}") from None


def _arrow_type(kind: Any) -> Any:
    import pyarrow as pa  # type: ignore[import-untyped]

    if isinstance(kind, dict):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in kind.items()])
    return {"text": pa.string(), "texts": pa.list_(pa.string()), "int": pa.int64()}[kind]
