"""Which questions of a suite are asked and how: single ones by number, further tasks, other settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from evals.suites import TASKS, SuiteColumn, load_suite, task_folders
from harness.errors import MoemixError, unknown
from harness.files import read_json, write_text

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from evals.loading import LoadedTasks

# The metric of a task that names none, by its type of request.
_METRICS = {"loglikelihood": "acc", "multiple_choice": "acc", "generate_until": "exact_match"}


def read_questions(path: Path) -> dict[str, tuple[int, ...]]:
    """Read a JSON file of task → question numbers.

    Raises:
        MoemixError: the file holds anything else.
    """
    tree = read_json(path)
    valid = isinstance(tree, dict) and all(
        isinstance(numbers, list) and numbers and all(type(number) is int and number >= 0 for number in numbers)
        for numbers in tree.values()
    )
    if not tree or not valid:
        raise MoemixError("expected an object of task → list of question numbers", where=str(path))
    return {task: tuple(sorted(set(numbers))) for task, numbers in tree.items()}


def keep_questions(loaded: LoadedTasks, questions: Mapping[str, tuple[int, ...]]) -> None:
    """Drop all tasks and questions but these (task → numbers, ascending), and the columns that need a dropped task.

    The prompts stay those that the questions have when all are asked.

    Raises:
        MoemixError: the suite has no such task or question.
    """
    for name, numbers in questions.items():
        if name not in loaded.tasks:
            raise unknown("task", name, loaded.tasks, where="--questions")
        size = len(loaded.tasks[name].eval_docs)
        if max(numbers) >= size:
            raise MoemixError(f"{name} has no question {max(numbers)}: it has {size}", where="--questions")
        _build_only(loaded.tasks[name], numbers)
    for name in loaded.tasks.keys() - questions.keys():
        del loaded.tasks[name]
    loaded.leaves = {name: leaves for name, leaves in loaded.leaves.items() if loaded.tasks.keys() >= set(leaves)}
    loaded.refused.clear()


def _build_only(task: Task, numbers: Sequence[int]) -> None:
    """Make a task build the requests of all its questions and keep those of some.

    lm-eval draws the few-shot examples of one question after the other from one generator, so those of question 17
    depend on the 17 draws before.
    """
    build = task.build_all_requests
    positions = {number: position for position, number in enumerate(numbers)}

    def build_and_keep(*, samples: object = None, **options: object) -> None:
        build(**options)
        task._instances = [
            dataclasses.replace(request, metadata=(request.task_name, positions[request.doc_id], request.repeats))
            for request in task._instances
            if request.doc_id in positions
        ]

    task.build_all_requests = build_and_keep


def adapted_suite(
    name: str | None,
    only: Sequence[str],
    out: Path,
    *,
    folders: Sequence[Path] = (),
    chat_template: bool = False,
    shots: int | None = None,
    generation: Mapping[str, Any] | None = None,
) -> str:
    """Write a suite for one evaluation to ``out/suite.yaml``, and return its path.

    A requested task, group or tag that the suite does not have becomes a column of its own, with the shots of its task
    file and the first of its metrics and filters.

    Args:
        name: the suite to start from, by name or file; None for a suite of the requested tasks of lm-eval alone.
        only: the requested tasks.
        out: the evaluation's folder.
        folders: folders of further lm-eval task files.
        chat_template: ask all tasks with the tokenizer's chat template.
        shots: few-shot examples of every task, in place of the suite's.
        generation: generation arguments of every column, before the suite's.

    Raises:
        MoemixError: an unknown task, one whose file does not say its metric, or ``out`` has another suite.
    """
    from lm_eval.tasks import TaskManager

    paths = [path.resolve() for path in folders]
    index = TaskManager(include_path=[str(path) for path in (TASKS, *paths)], include_defaults=not name).task_index
    tree: dict[str, Any] = {"name": "tasks", "description": "single tasks", "columns": []}
    known: set[str] = set()
    if name is not None:
        suite = load_suite(name)
        tree = suite.model_dump(mode="json", exclude_defaults=True)
        known = {*suite.tasks, *(column.name for column in suite.columns)}
        paths = [folder for folder in task_folders(name) if folder != TASKS] + paths
    for task in dict.fromkeys(only):
        if task not in known and task in index:
            tree["columns"].append(_column(task, index).model_dump(mode="json", exclude_defaults=True))
        elif name is None:
            raise unknown("task", task, index, where="--tasks")
    tree["include"] = [str(path) for path in dict.fromkeys(paths)]
    if chat_template:
        tree["chat_template"] = True
    for column in tree["columns"]:
        column |= {} if shots is None else {"shots": shots}
        column |= {"generation": {**column.get("generation", {}), **generation}} if generation else {}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    file = out.resolve() / "suite.yaml"
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise MoemixError(
            "the folder holds an evaluation with another suite or included folder",
            where=str(file),
            hint="choose another --out, or remove the folder",
        )
    write_text(file, text)
    return str(file)


def _column(name: str, index: Mapping[str, Any]) -> SuiteColumn:
    config = _settings(name, index)
    metrics = config.get("metric_list") or [{"metric": _METRICS.get(config.get("output_type", "generate_until"))}]
    metric, filters = metrics[0].get("metric"), config.get("filter_list") or [{"name": "none"}]
    if not metric:
        raise MoemixError(
            "the task's file does not say its metric",
            where=f"task {name}",
            hint="write a suite file with a column for it",
        )
    column = "".join(letter if letter.isalnum() or letter in "_.&-" else "_" for letter in name).lstrip("_.&-")
    metric = str(metric).rpartition("/")[2].rpartition(".")[2]  # lm-eval calls a function's metric by its name
    return SuiteColumn(name=column, title=name, tasks=(name,), metric=metric, filter=filters[0]["name"])


def _settings(name: str, index: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a task, or of the first task of a group or tag."""
    if name not in index:
        return {}
    entry, config = index[name], index[name].cfg or {}
    if entry.kind.name == "TAG":
        return _settings(min(entry.tags), index)
    if entry.kind.name == "GROUP":
        first = (config.get("task") or [""])[0]
        return _settings(first, index) if isinstance(first, str) else _settings(first.get("task", ""), index) | first
    return dict(config)
