"""Load a suite's tasks: find them, set their shots and options, and refuse those that cannot run honestly here."""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evals import sandbox
from evals.code_eval import is_sandboxed, run_setup_code, sandboxed_metrics
from evals.data_root import local_datasets, sentence_model
from evals.extraction import FILTERS, add_filter
from evals.suite_check import check_column, unknown_task
from evals.suites import Suite, SuiteColumn, task_folders
from harness.errors import MoemixError, unknown

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


@dataclass
class LoadedTasks:
    """A suite's tasks on this machine.

    Attributes:
        manager: lm-eval's task manager, which knows them.
        tasks: the lm-eval tasks to run, by name, groups flattened.
        limits: task → questions to ask; None for all.
        leaves: each name in the suite's ``tasks`` → the tasks that it stands for.
        refused: task → the column that wants it, and why it cannot run.
        unrunnable: of the refused tasks, those that were loaded.
        notes: task → what a reader must know about its numbers.
    """

    manager: TaskManager
    tasks: dict[str, Task] = field(default_factory=dict)
    limits: dict[str, int | None] = field(default_factory=dict)
    leaves: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: dict[str, tuple[SuiteColumn, str]] = field(default_factory=dict)
    unrunnable: dict[str, Task] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def load_tasks(suite: Suite, name: str, *, only: Sequence[str], limit: float | None, root: Path | None) -> LoadedTasks:
    """Load a suite's tasks, or the selection ``only``, with lm-eval's own task manager.

    ``limit`` is a number of questions per task, or a share of them, in addition to the columns' own limits.

    Raises:
        MoemixError: an unknown task, metric or filter, or a task that cannot be loaded.
    """
    _compile_templates_once()
    selected = _selected(suite, only)
    folders = tuple(str(folder) for folder in task_folders(name))
    manager = _manager(folders, with_stock=False)
    stock = not selected <= set(manager.all_subtasks)
    loaded = LoadedTasks(_manager(folders, with_stock=True) if stock else manager)
    with contextlib.ExitStack() as stack:
        stack.enter_context(local_datasets(root))
        if stock:
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
                        config = vars(loaded.tasks[leaf].config)
                        check_column(column, leaf, config, f"column {column.name}: `{{}}`".format)
                        if column.filter in FILTERS:
                            add_filter(loaded.tasks[leaf], column.filter, keep_all=(column.samples or 1) > 1)
    return loaded


@functools.cache
def _compile_templates_once() -> None:
    """Keep the templates that lm-eval would compile again for every question and example: half of its time."""
    from lm_eval.utils import env

    env.from_string = functools.lru_cache(maxsize=1024)(env.from_string)


@functools.cache
def _manager(folders: tuple[str, ...], *, with_stock: bool) -> TaskManager:
    """Make lm-eval's task manager. lm-eval has thousands of task files, and reading their names takes ten seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(folders), include_defaults=with_stock)


def _selected(suite: Suite, only: Sequence[str]) -> set[str]:
    """Return the names of tasks that a selection of tasks and columns stands for."""
    if not only:
        return set(suite.tasks)
    names = {column.name: column.tasks for column in suite.columns}
    names |= {task: (task,) for task in suite.tasks}
    for name in only:
        if name not in names:
            raise unknown("task", name, names, where="--tasks")
    return {task for name in only for task in names[name]}


def _load(name: str, column: SuiteColumn, limit: float | None, loaded: LoadedTasks, *, offline: bool) -> None:
    manager = loaded.manager
    if name not in manager.all_tasks:
        raise unknown_task(name, manager.all_tasks, f"column {column.name}")
    try:
        with _stock_seed():
            tasks = manager.load([name])["tasks"]
    except MoemixError:
        raise
    except Exception as error:  # a task file is a program of its own: whatever goes wrong in it is the task's
        # `datasets` raises the first two where it cannot reach the hub
        if offline and isinstance(error, ConnectionError | FileNotFoundError):
            loaded.leaves[name] = (name,)
            reason = f"its data is not in the data root, and the hub cannot be reached: {error}"
            loaded.refused[name] = (column, reason.splitlines()[0][:300])
            return
        raise MoemixError(
            f"the task {name} could not be loaded: {type(error).__name__}: {error}".splitlines()[0][:500],
            where=f"column {column.name}",
            hint="pip install 'moemix[ifeval,math]'"
            if isinstance(error, ModuleNotFoundError)
            else "where the hub cannot be reached, give local files with --data-root DIR",
        ) from error
    loaded.leaves[name] = tuple(tasks)
    for leaf, task in tasks.items():
        _configure(task, column)
        if refusal := _refusal(task):
            loaded.refused[leaf] = (column, refusal)
            loaded.unrunnable[leaf] = task
            continue
        loaded.tasks[leaf] = task
        share = isinstance(limit, float) and limit < 1
        most = math.ceil(limit * len(task.eval_docs)) if share and limit else limit
        loaded.limits[leaf] = min((int(n) for n in (most, column.limit) if n is not None), default=None)
        if is_sandboxed(task) and (count := run_setup_code(task)):
            loaded.notes[leaf] = f"the data's own setup code is run before the tests of {count} question(s)"


@contextlib.contextmanager
def _stock_seed() -> Iterator[None]:
    """Give tasks that shuffle while they load, as GPQA does its choices, the seed that the ``lm_eval`` command sets."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def _configure(task: Task, column: SuiteColumn) -> None:
    """Put a column's settings in place of the task's own."""
    if column.shots is not None:
        task.set_config(key="num_fewshot", value=column.shots)
    if column.generation and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value=column.generation, update=True)
    if column.samples is not None:
        task.set_config(key="repeats", value=column.samples)
        if task.config.filter_list is None and column.samples > 1:
            from lm_eval.filters import build_filter_ensemble

            # lm-eval's own default takes the first of several answers and drops the others.
            task._filters = [build_filter_ensemble("none", [["custom", {"filter_fn": lambda answers, docs: answers}]])]


def _refusal(task: Task) -> str | None:
    """Return why a task cannot run here; None if it can."""
    config = task.config
    if is_sandboxed(task):
        if (missing := sandbox.available()) and not sandbox.unsafe_code_allowed():
            return f"it runs generated programs, and {missing}"
    elif not sandbox.unsafe_code_allowed() and (
        getattr(task, "UNSAFE_CODE", False) or getattr(config, "unsafe_code", False)
    ):
        return "it runs generated programs outside a sandbox"
    if config.num_fewshot and not len(list(task.fewshot_docs() or [])):
        split = task.fewshot_cfg.split or config.training_split
        return f"its few-shot examples come from the split {split!r}, which the data root lacks"
    return None
