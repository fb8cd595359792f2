"""A suite's tasks, made ready to run: found, given their shots, and refused where they cannot run honestly."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals import sandbox
from evals.data_root import local_datasets
from evals.suites import Suite, SuiteColumn, task_folders
from harness.errors import MoemixError, nearest, unknown


@dataclass
class LoadedTasks:
    """What a suite comes to on this machine.

    Attributes:
        manager: lm-eval's task manager that knows them.
        tasks: the lm-eval tasks to run, by name, groups flattened.
        limits: task → questions to ask; None for all.
        leaves: each name in the suite's ``tasks`` → the tasks it stands for.
        refused: task → why it cannot run, with the column that wants it.
    """

    manager: Any
    tasks: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, int | None] = field(default_factory=dict)
    leaves: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: dict[str, tuple[SuiteColumn, str]] = field(default_factory=dict)


def load_tasks(suite: Suite, name: str, *, only: Sequence[str], limit: int | None, root: Path | None) -> LoadedTasks:
    """Load a suite's tasks with lm-eval's own task manager.

    Args:
        name: the suite's name or file.
        only: a selection of the suite's tasks or columns; empty for all.
        limit: questions per task, on top of the columns' own limits.
        root: the data root; None for the hub.
    """
    selected = _selected(suite, only)
    folders = tuple(str(folder) for folder in task_folders(name))
    manager = _manager(folders, with_stock=False)
    if not selected <= set(manager.all_subtasks):
        manager = _manager(folders, with_stock=True)
    loaded = LoadedTasks(manager)
    with local_datasets(root):
        for column in suite.columns:
            for task_name in column.tasks:
                if task_name not in selected:
                    continue
                if task_name not in loaded.leaves:
                    _load(task_name, column, limit, loaded)
                for leaf in loaded.leaves[task_name]:
                    if leaf in loaded.tasks:
                        _check_metric(loaded.tasks[leaf], leaf, column)
    return loaded


@functools.cache
def _manager(folders: tuple[str, ...], *, with_stock: bool) -> Any:
    """lm-eval's task manager. Its own task files are many thousand, and reading their names takes ten seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(folders), include_defaults=with_stock)


def _selected(suite: Suite, only: Sequence[str]) -> set[str]:
    if not only:
        return set(suite.tasks)
    by_column = {column.name: column.tasks for column in suite.columns}
    selected: set[str] = set()
    for name in only:
        if name in suite.tasks:
            selected.add(name)
        elif name in by_column:
            selected.update(by_column[name])
        else:
            raise unknown("task", name, {*suite.tasks, *by_column}, where="--tasks")
    return selected


def _load(name: str, column: SuiteColumn, limit: int | None, loaded: LoadedTasks) -> None:
    manager = loaded.manager
    if name not in manager.all_tasks:
        raise MoemixError(
            f"lm-eval knows no task {name!r}",
            where=f"column {column.name}",
            hint=nearest(name, manager.all_tasks)[:300],
        )
    try:
        found = manager.load([name])["tasks"]
    except MoemixError:
        raise
    except Exception as error:  # a task file is a program of its own: whatever goes wrong in it is the task's
        raise MoemixError(
            f"the task {name} could not be loaded: {type(error).__name__}: {error}".splitlines()[0][:500],
            where=f"column {column.name}",
            hint="where the hub cannot be reached, give local files with --data-root DIR",
        ) from error
    loaded.leaves[name] = tuple(found)
    for leaf, task in found.items():
        if column.shots is not None:
            task.set_config(key="num_fewshot", value=column.shots)
        reason = _refusal(task)
        if reason:
            loaded.refused[leaf] = (column, reason)
        else:
            loaded.tasks[leaf] = task
            loaded.limits[leaf] = min((n for n in (limit, column.limit) if n is not None), default=None)


def _refusal(task: Any) -> str | None:
    """Why a task cannot be run here; None if it can."""
    config = task.config
    if (config.metadata or {}).get("sandbox"):
        missing = sandbox.available()
        if missing:
            return f"it runs generated programs, and {missing}"
    elif getattr(task, "UNSAFE_CODE", False) or getattr(config, "unsafe_code", False):
        return "it runs generated programs outside a sandbox"
    if config.num_fewshot and not len(list(task.fewshot_docs() or [])):
        split = task.fewshot_cfg.split or config.training_split
        return f"its few-shot examples come from the split {split!r}, which the data root lacks"
    return None


def _check_metric(task: Any, name: str, column: SuiteColumn) -> None:
    """Fail before the engine starts, not after hours, if the column's metric does not exist."""
    metrics = [entry["metric"] for entry in task.config.metric_list or []]
    if metrics and column.metric not in metrics:
        raise unknown(f"metric of the task {name}", column.metric, map(str, metrics), where=f"column {column.name}")
    filters = [entry["name"] for entry in task.config.filter_list or [{"name": "none"}]]
    if column.filter not in filters:
        raise unknown(f"filter of the task {name}", column.filter, filters, where=f"column {column.name}")
