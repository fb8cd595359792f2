"""Check a suite's tasks, metrics and filters by the task files alone: reading them takes no model library.

lm-eval's own index of its 14,000 files takes ten seconds and imports torch. A plan asks whether a few names exist.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import util
from pathlib import Path
from typing import Any

from evals.extraction import FILTERS
from evals.suites import SuiteColumn, load_task_file, locate_suite, suite_names, task_files, task_folders
from harness.errors import MoemixError, raise_all, unknown

_NAME = re.compile(r"""^["']?(?:task|group)["']?:[ \t]*["']?([^\s"'#\[{]+)""", re.MULTILINE)
_TAGS = re.compile(r"""^["']?tag["']?:[ \t]*(.*(?:\n[ \t]*-.*)*)""", re.MULTILINE)
_TAG = re.compile(r"""[^\s,\[\]"'#-][^\s,\[\]"'#]*""")


def check_suite(name: str) -> None:
    """Check that the tasks of a suite exist, and that they have its columns' metrics and filters.

    Raises:
        MoemixError: what :func:`evals.suites.load_suite` raises, or all tasks, metrics and filters that do not exist.
    """
    suite, places = locate_suite(name)
    if name in suite_names():  # a test checks those
        return
    known = task_files(task_folders(name))
    missing = set(suite.tasks) - known.keys()
    stock = _stock_folder() if missing else None
    if stock:
        known = stock_task_files(stock, missing) | known
    problems = list[MoemixError]()
    for number, column in enumerate(suite.columns):

        def place(*keys: str, column: str = str(number)) -> str:
            return places(("columns", column, *keys))

        for row, task in enumerate(column.tasks):
            try:
                if task in known:
                    if config := _task_config(known[task], task):
                        check_column(column, task, config, place)
                elif stock:
                    raise unknown_task(task, known, place("tasks", str(row)))
            except MoemixError as error:
                problems.append(error)
    raise_all(problems)


def unknown_task(name: str, known: Iterable[str], where: str) -> MoemixError:
    """Return the error for a task that neither lm-eval nor a folder of tasks defines."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return MoemixError(f"lm-eval has no task {name!r}", where=where, hint=f"{hint}`lm-eval ls tasks` lists its tasks")


def check_column(column: SuiteColumn, task: str, config: Mapping[str, Any], place: Callable[[str], str]) -> None:
    """Refuse a column whose metric or filter a task does not have, before the engine starts and not after hours.

    Args:
        column: the column.
        task: the task's name.
        config: the task's ``metric_list`` and ``filter_list``; a task without the former takes lm-eval's metrics.
        place: says where a key of the column stands.
    """
    metrics = [name for entry in config.get("metric_list") or [] for name in _metric_names(entry)]
    if metrics and None not in metrics and column.metric not in metrics:
        raise unknown(f"metric of the task {task}", column.metric, filter(None, metrics), where=place("metric"))
    filters = [entry.get("name") for entry in config.get("filter_list") or [{"name": "none"}]]
    if column.filter not in (*filters, *FILTERS):
        choices = (*filter(None, filters), *FILTERS)
        raise unknown(f"filter of the task {task}", column.filter, choices, where=place("filter"))


def _metric_names(entry: Mapping[str, Any]) -> list[str | None]:
    """Return the names of a metric: its own, or those of a task's function, which may give several (``pass@k``).

    Where only the file of a task is read, a function's name is not known: None.
    """
    metric = entry.get("metric")
    if not callable(metric):
        return [metric]
    return [metric.__name__, *(f"pass@{k}" for k in entry.get("k") or ())]


def _task_config(file: Path, task: str) -> dict[str, Any] | None:
    """Return a task's configuration as its file and those that it includes give it; None for a group or a tag."""
    try:
        config = _with_includes(file)
    except (MoemixError, RecursionError):
        return None  # lm-eval says what it cannot read
    entries = [entry for key in ("metric_list", "filter_list") for entry in config.get(key) or ()]
    sound = "class" not in config and all(isinstance(entry, dict) for entry in entries)
    return config if config.get("task") == task and sound else None


def _with_includes(file: Path) -> dict[str, Any]:
    config = load_task_file(file)
    included = config.pop("include", None) or []
    base: dict[str, Any] = {}
    for each in [included] if isinstance(included, str) else included:
        base |= _with_includes(file.parent / each)
    return base | config


def _stock_folder() -> Path | None:
    """Return the folder of lm-eval's own tasks, without importing it."""
    spec = util.find_spec("lm_eval")
    return Path(spec.origin).parent / "tasks" if spec and spec.origin else None


def stock_task_files(folder: Path, wanted: set[str]) -> dict[str, Path]:
    """Return the file of each task, group and tag below lm-eval's folder of tasks; stop when ``wanted`` are found.

    The folders that are called like the wanted tasks come first, so that those that exist are found in a moment.
    """
    found: dict[str, Path] = {}
    for part in sorted(folder.iterdir(), key=lambda p: (not any(t.startswith(p.name[:3]) for t in wanted), p.name)):
        for file in _config_files(part):
            text = file.read_text(encoding="utf-8", errors="replace")
            names = _NAME.findall(text) if file.suffix == ".yaml" else []
            tags = [tag for block in _TAGS.findall(text) for tag in _TAG.findall(re.sub(r"(?:^|\s)#.*", "", block))]
            for name in (*names, *tags):
                found.setdefault(name, file)
        if wanted <= found.keys():
            break
    return found


def _config_files(folder: Path) -> Iterator[Path]:
    """Yield the YAML files below a folder, and those without an ending, which they include."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (Path(parent, name) for name in sorted(files) if Path(name).suffix in ("", ".yaml"))
