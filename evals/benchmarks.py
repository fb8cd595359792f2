"""The benchmarks that a data root may hold, and how their published rows become rows of the hub.

``benchmarks.yaml`` lists them. lm-eval's stock tasks read what the hub serves, so a conversion is right when prompts
come out the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.files import read_yaml

Row = dict[str, Any]
"""A row of a published file, or of the hub."""
Columns = dict[str, object]
"""Column → type, in the words of ``benchmarks.yaml``."""


@dataclass(frozen=True)
class Split:
    """A split's file under the data root, and the range of ``task_id`` that it takes where several share the file."""

    file: str
    task_ids: tuple[int, int] | None = None

    def keeps(self, row: Row) -> bool:
        """Return whether a row belongs to this split."""
        return self.task_ids is None or self.task_ids[0] <= row["task_id"] <= self.task_ids[1]


@dataclass(frozen=True)
class Dataset:
    """One configuration of a hub data set.

    Attributes:
        splits: split → its file; None for a split that has no file and is opened empty.
        columns: column → type.
        convert: makes a published row a row of the hub.
    """

    splits: dict[str, Split | None]
    columns: Columns
    convert: Callable[[Row], Row]


def _arc(row: Row, config: str, columns: Columns) -> Row:
    choices = row["question"]["choices"]
    return {
        "id": row["id"],
        "question": row["question"]["stem"],
        "choices": {"text": [c["text"] for c in choices], "label": [c["label"] for c in choices]},
        "answerKey": row["answerKey"],
    }


def _boolq(row: Row, config: str, columns: Columns) -> Row:
    label = {"true": 1, "false": 0}[str(row["label"]).lower()]  # the words, or JSON's own true and false
    return {"question": row["question"], "passage": row["passage"], "idx": row["idx"], "label": label}


def _mmlu(row: Row, config: str, columns: Columns) -> Row:
    question, *choices, answer = row["cells"]
    if len(choices) != 4:
        raise KeyError(f"four choices, not {len(choices)}")
    # The authors' files name the answer by its letter, others by its number.
    return {"question": question, "subject": config, "choices": choices, "answer": "0123ABCD".index(answer) % 4}


def _aqua(row: Row, config: str, columns: Columns) -> Row:
    """Word a question of AQuA-RAT as AGIEval does, which is the form in which lm-eval asks it."""
    options = [f"({option[0]}){option[2:]}" for option in row["options"]]  # "A)21" → "(A)21"
    query = f"Q: {row['question']} Answer Choices: {' '.join(options)}\nA: Among A through E, the answer is"
    return {"query": query, "choices": options, "gold": ["ABCDE".index(row["correct"])]}


def _ifeval(row: Row, config: str, columns: Columns) -> Row:
    (arguments,) = cast("list[Columns]", columns["kwargs"])
    every = [{name: given.get(name) for name in arguments} for given in row["kwargs"]]
    return {**{name: row[name] for name in columns if name != "kwargs"}, "kwargs": every}


def _columns(row: Row, config: str, columns: Columns) -> Row:
    return {column: row[column] for column in columns}


_CONVERSIONS = {"arc": _arc, "boolq": _boolq, "mmlu": _mmlu, "aqua": _aqua, "ifeval": _ifeval, "columns": _columns}


def _load() -> tuple[dict[tuple[str, str | None], Dataset], dict[str, str]]:
    datasets: dict[tuple[str, str | None], Dataset] = {}
    tasks: dict[str, str] = {}
    for entry in read_yaml(Path(__file__).with_suffix(".yaml")):
        for config in entry["configs"]:
            splits = {
                name: _split({"file": given} if isinstance(given, str) else given, config) if given else None
                for name, given in entry["splits"].items()
            }
            columns = entry["columns"]
            convert = functools.partial(_CONVERSIONS[entry["convert"]], config=config, columns=columns)
            datasets[entry["name"], config] = Dataset(splits, columns, convert)
        folder = next(split.file.split("/")[0] for split in splits.values() if split)
        tasks.update(dict.fromkeys(entry.get("tasks", ()), folder))
    return datasets, tasks


def _split(given: dict[str, Any], config: str | None) -> Split:
    return Split(given["file"].format(config=config), tuple(given["task_ids"]) if "task_ids" in given else None)


DATASETS, TASKS = _load()
"""Name and configuration on the hub → what stands for it under a data root; and lm-eval's task → its folder there."""
