"""A suite's tasks, made ready to run: found, given their shots, and refused where they cannot run honestly."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals import sandbox
from evals.code_eval import is_sandboxed, run_setup_code, sandboxed_metrics
from evals.data_root import local_datasets, sentence_model
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
        unrunnable: of the refused tasks, those that were loaded.
        notes: task → what a reader must know about its numbers.
    """

    manager: Any
    tasks: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, int | None] = field(default_factory=dict)
    leaves: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: dict[str, tuple[SuiteColumn, str]] = field(default_factory=dict)
    unrunnable: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


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
    with contextlib.ExitStack() as stack:
        stack.enter_context(local_datasets(root))
        if not selected <= set(_manager(folders, with_stock=False).all_subtasks):
            stack.enter_context(sandboxed_metrics())
            stack.enter_context(sentence_model())
        for column in suite.columns:
            for task_name in column.tasks:
                if task_name not in selected:
                    continue
                if task_name not in loaded.leaves:
                    _load(task_name, column, limit, loaded, offline=root is not None)
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


def _load(name: str, column: SuiteColumn, limit: int | None, loaded: LoadedTasks, *, offline: bool) -> None:
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
    except (ConnectionError, FileNotFoundError) as error:  # what `datasets` raises where it cannot reach the hub
        if not offline:
            raise _not_loaded(name, column, error) from error
        loaded.leaves[name] = (name,)
        reason = f"its data is not among what a data root can hold, and not on the hub from here: {error}"
        loaded.refused[name] = (column, reason.splitlines()[0][:300])
        return
    except Exception as error:  # a task file is a program of its own: whatever goes wrong in it is the task's
        raise _not_loaded(name, column, error) from error
    loaded.leaves[name] = tuple(found)
    for leaf, task in found.items():
        _configure(task, column)
        if why := _refusal(task):
            loaded.refused[leaf] = (column, why)
            loaded.unrunnable[leaf] = task
        else:
            loaded.tasks[leaf] = task
            if is_sandboxed(task) and (count := run_setup_code(task)):
                loaded.notes[leaf] = f"the data's own setup code is run before the tests of {count} question(s)"
            loaded.limits[leaf] = min((n for n in (limit, column.limit) if n is not None), default=None)


def _not_loaded(name: str, column: SuiteColumn, error: Exception) -> MoemixError:
    return MoemixError(
        f"the task {name} could not be loaded: {type(error).__name__}: {error}".splitlines()[0][:500],
        where=f"column {column.name}",
        hint="where the hub cannot be reached, give local files with --data-root DIR",
    )


def _configure(task: Any, column: SuiteColumn) -> None:
    """A column's settings in place of the task's own."""
    if column.shots is not None:
        task.set_config(key="num_fewshot", value=column.shots)
    if column.generation:
        task.set_config(key="generation_kwargs", value=column.generation, update=True)
    if column.samples is not None:
        task.set_config(key="repeats", value=column.samples)
        if task.config.filter_list is None and column.samples > 1:
            from lm_eval.filters import build_filter_ensemble

            # lm-eval's own default takes the first of several answers and drops the others.
            task._filters = [build_filter_ensemble("none", [["custom", {"filter_fn": _all_answers}]])]


def _all_answers(answers: Sequence[Any], docs: Sequence[Any]) -> Sequence[Any]:
    return answers


def _refusal(task: Any) -> str | None:
    """Why a task cannot be run here; None if it can."""
    config = task.config
    if is_sandboxed(task):
        missing = sandbox.available()
        if missing and not sandbox.unprotected():
            return f"it runs generated programs, and {missing}"
    elif (getattr(task, "UNSAFE_CODE", False) or getattr(config, "unsafe_code", False)) and not sandbox.insisted():
        return "it runs generated programs outside a sandbox"
    if config.num_fewshot and not len(list(task.fewshot_docs() or [])):
        split = task.fewshot_cfg.split or config.training_split
        return f"its few-shot examples come from the split {split!r}, which the data root lacks"
    return None


def _check_metric(task: Any, name: str, column: SuiteColumn) -> None:
    """Fail before the engine starts, not after hours, if the column's metric does not exist."""
    metrics = [name for entry in task.config.metric_list or [] for name in _metric_names(entry)]
    if metrics and column.metric not in metrics:
        raise unknown(f"metric of the task {name}", column.metric, metrics, where=f"column {column.name}")
    filters = [entry["name"] for entry in task.config.filter_list or [{"name": "none"}]]
    if column.filter not in filters:
        raise unknown(f"filter of the task {name}", column.filter, filters, where=f"column {column.name}")


def _metric_names(entry: dict[str, Any]) -> list[str]:
    """A metric is named, or is a function of the task's own, which may give several (``pass@k``)."""
    metric = entry["metric"]
    if not callable(metric):
        return [str(metric)]
    return [metric.__name__, *(f"pass@{k}" for k in entry.get("k") or ())]
