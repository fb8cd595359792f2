"""Read suites, which define the columns of the comparison table by lm-eval tasks.

A suite is a YAML file. Its columns name the metric to show and lm-eval tasks, groups or tags: lm-eval's own, those in
``evals/tasks``, or those in folders that the suite includes. Its averages are means of columns or of earlier averages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from evals.extraction import FILTERS
from harness.errors import MoemixError, nearest, raise_all, unknown
from harness.files import YamlLoader, hash_file, hash_value, parse_yaml
from harness.recipe_file import Places
from harness.schema import Strict, parse

SUITES = Path(__file__).parent
TASKS = SUITES.parent / "tasks"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.&-]*$"


class SuiteColumn(Strict):
    """One column: a task's metric, or the mean of one metric over several tasks."""

    name: str = Field(pattern=NAME)
    title: str = ""
    tasks: tuple[str, ...] = Field(min_length=1, description="lm-eval tasks, groups or tags; groups are flattened")
    shots: int | None = Field(None, ge=0, description="few-shot examples; null for the task's own setting")
    metric: str
    filter: str = Field("none", description="how the answer is read: a filter of the task, or of evals/extraction.py")
    aggregation: Literal["macro", "micro"] = Field("macro", description="tasks count equally, or by their questions")
    limit: int | None = Field(None, ge=1, description="questions per task; null for all")
    samples: int | None = Field(None, ge=1, description="answers per question, all of which the metric gets")
    generation: dict[str, Any] = Field({}, description="generation arguments in place of the task's own")


class Average(Strict):
    """The unweighted mean of columns and earlier averages."""

    name: str = Field(pattern=NAME)
    title: str = ""
    of: tuple[str, ...] = Field(min_length=1)


class Suite(Strict):
    """A suite file."""

    name: str = Field(pattern=NAME)
    description: str = ""
    include: tuple[str, ...] = Field((), description="folders of further lm-eval tasks, relative to the suite file")
    chat_template: bool = Field(False, description="wrap prompts in the tokenizer's chat template")
    columns: tuple[SuiteColumn, ...] = Field(min_length=1)
    averages: tuple[Average, ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> Suite:
        names = [column.name for column in self.columns]
        for average in self.averages:
            for part in average.of:
                if part not in names:
                    raise ValueError(
                        f"{average.name!r} averages {part!r}, which is not a column before it ({nearest(part, names)})"
                    )
            names.append(average.name)
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is used twice")
        settings: dict[str, tuple[Any, ...]] = {}
        for column in self.columns:
            for task in column.tasks:
                mine = (column.shots, column.limit, column.samples, column.generation)
                if settings.setdefault(task, mine) != mine:
                    raise ValueError(f"the task {task!r} has different shots, limits or sampling in two columns")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, groups and tags that the columns name, each once, in their order."""
        return tuple(dict.fromkeys(task for column in self.columns for task in column.tasks))


def suite_names() -> list[str]:
    """Return the names of the suites in this package."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def suite_path(name: str) -> Path:
    """Return the file of a suite: a suite of this package by name, or any ``.yaml`` file by path."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
            raise MoemixError("the suite file does not exist", where=name, hint=nearest(path.name, siblings))
        return path.resolve()
    if name not in suite_names():
        raise unknown("suite", name, suite_names())
    return SUITES / f"{name}.yaml"


def load_suite(name: str) -> Suite:
    """Load a suite by name or file.

    Raises:
        MoemixError: an unknown suite or key (with the nearest valid one), or a file that is not YAML in UTF-8.
    """
    return locate_suite(name)[0]


def locate_suite(name: str) -> tuple[Suite, Places]:
    """Return a suite as :func:`load_suite` does, and the places of its keys."""
    path = suite_path(name)
    tree, node, repeated = parse_yaml(path)
    raise_all(repeated)
    places = Places(str(path), node)
    return parse(Suite, tree, where=places), places


def task_folders(name: str) -> list[Path]:
    """Return the folders of tasks that lm-eval gets besides its own: this package's, then the suite's ``include``."""
    path = suite_path(name)
    folders = [TASKS]
    for entry in load_suite(name).include:
        folder = (path.parent / entry).resolve()
        if not folder.is_dir():
            raise MoemixError(f"`include`: {entry} is not a folder", where=str(path))
        folders.append(folder)
    return folders


def suite_hash(name: str) -> str:
    """Return a hash of a suite's settings, of its answer filters, and of all files in the folders of our own tasks.

    Titles and descriptions do not count.
    """
    suite = load_suite(name)
    tree = suite.model_dump(mode="json", exclude={"description": True, "include": True})
    for item in (*tree["columns"], *tree["averages"]):
        item.pop("title")
    for item in tree["columns"]:
        for key in ("samples", "generation"):
            if not item[key]:
                item.pop(key)  # suites had the same hash before these settings existed
    if used := {column.filter for column in suite.columns} & FILTERS.keys():
        tree["filters"] = {name: FILTERS[name] for name in sorted(used)}
    local = task_files(task_folders(name))
    folders = {local[task].parent for task in suite.tasks if task in local}
    tree["files"] = sorted([file.name, hash_file(file)] for folder in folders for file in _contents(folder))
    return hash_value(tree)


def _contents(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


class _TaskLoader(YamlLoader):
    """A loader for lm-eval's task files that does not resolve their ``!function`` tags."""


_TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def load_task_file(file: Path) -> dict[str, Any]:
    """Return what a file of lm-eval tasks says, without the functions that it names; {} if it is not a mapping."""
    tree = parse_yaml(file, _TaskLoader)[0]
    return tree if isinstance(tree, dict) else {}


def task_files(folders: list[Path]) -> dict[str, Path]:
    """Return the file of each task, group and tag that is defined below these folders, by name."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.yaml")):
            tree = load_task_file(file)
            tags = tree.get("tag") or []
            for name in (tree.get("task"), tree.get("group"), *([tags] if isinstance(tags, str) else tags)):
                if isinstance(name, str):
                    found[name] = file
    return found
