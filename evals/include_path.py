"""``--include-path DIR``: a suite with a folder of further lm-eval tasks, as a suite file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from evals.suites import TASKS, SuiteColumn, load_suite, task_folders
from harness.errors import MoemixError
from harness.files import write_text

_METRICS = {
    "loglikelihood": "acc",
    "multiple_choice": "acc",
    "generate_until": "exact_match",
}  # where a task names none


def suite_with(name: str, folders: Sequence[Path], only: Sequence[str], out: Path) -> str:
    """Write the suite with these folders included to ``out/suite.yaml``, and say its path.

    A task, group or tag of the folders that is asked for, and that the suite does not have, is a column of its own,
    as the task file has it: its shots, and the first of its metrics and filters.

    Args:
        only: what is asked for.

    Raises:
        MoemixError: a task without a metric that can be told from its file, or ``out`` holds another suite.
    """
    from lm_eval.tasks import TaskManager

    suite = load_suite(name)
    index = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False).task_index
    taken = {*suite.tasks, *(column.name for column in suite.columns)}
    added = [_column(task, index) for task in dict.fromkeys(only) if task not in taken and task in index]
    included = [folder for folder in (*task_folders(name), *(path.resolve() for path in folders)) if folder != TASKS]
    tree = suite.model_dump(mode="json", exclude_defaults=True)
    tree["columns"] += [column.model_dump(mode="json", exclude_defaults=True) for column in added]
    tree["include"] = [str(folder) for folder in dict.fromkeys(included)]
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    file = out.resolve() / "suite.yaml"
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise MoemixError(
            "the folder holds an evaluation with another suite or included folder",
            where=str(file),
            hint="choose another --out, or remove the folder",
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    return str(file)


def _column(name: str, index: dict[str, Any]) -> SuiteColumn:
    config = _task_of(name, index)
    metrics = config.get("metric_list") or [{"metric": _METRICS.get(config.get("output_type", "generate_until"))}]
    metric, filters = metrics[0].get("metric"), config.get("filter_list") or [{"name": "none"}]
    if not metric:
        raise MoemixError(
            "its metric cannot be told from its file",
            where=f"task {name}",
            hint="write a suite file with a column for it",
        )
    column = "".join(letter if letter.isalnum() or letter in "_.&-" else "_" for letter in name).lstrip("_.&-")
    metric = str(metric).rpartition("/")[2].rpartition(".")[2]  # of a function's file and name, lm-eval takes the name
    return SuiteColumn(name=column, title=name, tasks=(name,), metric=metric, filter=filters[0]["name"])


def _task_of(name: str, index: dict[str, Any]) -> dict[str, Any]:
    """The settings of a task, or of the first task of a group or tag."""
    entry = index.get(name)
    if entry is None:
        return {}
    config: dict[str, Any] = entry.cfg or {}
    if entry.kind.name == "TAG":
        return _task_of(min(entry.tags), index)
    if entry.kind.name == "GROUP":
        first = (config.get("task") or [""])[0]
        return _task_of(first, index) if isinstance(first, str) else {**_task_of(first.get("task", ""), index), **first}
    return config
