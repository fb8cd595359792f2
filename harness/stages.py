"""What the stages offer to code that may not import them, and the entry points that name it.

``harness`` imports no stage, and the stages do not import each other. Where one needs another all the same (the plan
asks which signals a strategy needs, ``moemix data check`` asks for the questions of a suite), it goes through the
protocols below. ``pyproject.toml`` names the module that implements each (group ``moemix.stages``) and the function
behind each sub-command (group ``moemix.commands``). Nothing else in the project is loaded by name.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

from harness.errors import StageError

if TYPE_CHECKING:
    import click

    from harness.jobs import Plan, PlannedRun
    from harness.recipe import Mixing, Part, Source, TinyModel
    from harness.records import Contamination

Finding = tuple[str, bool, str]
"""What was examined, whether it is all right, and the detail."""


class StrategyRules(Protocol):
    """What a plan must know of a strategy; a frozen dataclass, whose fields are the options."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]
    needs: ClassVar[str | None]
    trains: ClassVar[bool]
    updates: ClassVar[bool]
    at_start: ClassVar[frozenset[str]]


class TrainingStage(Protocol):
    """What ``trainers`` offers."""

    def load_strategy(self, name: str, /, **options: object) -> StrategyRules:
        """Return the strategy of this name with these options, or raise ``MoemixError``."""

    def check_signals(
        self, strategy: StrategyRules, sources: Sequence[Source], mixing: Mixing, targets: Sequence[Source]
    ) -> None:
        """Check that a run can measure what a strategy needs to see, or raise ``MoemixError``."""

    def check_strategy(self, name: str, /, **options: object) -> StrategyRules:
        """Return the strategy; raise ``MoemixError`` if it is unknown, has no such option or breaks the contract."""

    def check_part(self, part: Part, root: Path | None, source: str) -> int | None:
        """Return the usable rows of a part of a source if it is small; None if it was not read to its end.

        Raise ``MoemixError`` if its adapter, its files or its first rows are not valid.
        """

    def find_adapter(self, file: Path) -> str:
        """Return the adapter that reads the first rows of a file, or raise ``MoemixError``."""

    def check_tiny(self, model: TinyModel) -> None:
        """Raise ``MoemixError`` if the architecture or a field of its configuration does not exist."""

    def check_checkpoint(self, folder: Path) -> None:
        """Raise ``MoemixError`` if a folder is not a checkpoint that can be loaded; its weights are not read."""

    def strategy_code(self, name: str) -> str | None:
        """Return the hash of the file that a strategy comes from; None for a built-in one."""

    def world_id(self, name: str, seed: int) -> str:
        """Return the identity of a generated data root."""

    def count_rows(self, source: Source, root: Path | None) -> int:
        """Read the files of a source as training does, and return the number of rows."""

    def examine_sources(self, recipe: str, root: str | None, store: str | None) -> Iterable[Finding]:
        """Examine the rows of each source of a recipe as training would read them."""

    def set_threads(self, count: int) -> None:
        """Compute with so many threads from now on."""

    def warm_up(self) -> None:
        """Import what this stage's jobs need, without computing anything or starting a thread."""


class ContaminationChecker(Protocol):
    """The questions of a suite, indexed once."""

    def check(
        self, source: str, fingerprint: str, total: int, rows: Iterable[tuple[str, Sequence[str]]]
    ) -> Contamination:
        """Search the rows of a source (where each is, and its texts; about ``total`` of them) for the questions."""


class EvaluationStage(Protocol):
    """What ``evals`` offers."""

    def suite_hash(self, name: str) -> str:
        """Return the hash of everything that a suite consists of."""

    def check_suite(self, name: str) -> None:
        """Raise ``MoemixError`` if there is no such suite, or a task, metric or filter of it does not exist."""

    def columns(self, suite: str) -> set[str]:
        """Return the names of a suite's columns and averages."""

    def bench_hash(self, name: str, root: Path | None) -> str | None:
        """Return the hash of a bench's question file; None for one that comes from the hub."""

    def check_bench(self, name: str, root: Path | None) -> None:
        """Raise ``MoemixError`` if there is no such bench or its questions are not valid, unless the hub has it."""

    def check_address(self, url: str) -> None:
        """Raise ``MoemixError`` if this is not the URL of a server."""

    def suite_folders(self, suite: str) -> set[str]:
        """Return the folders of a data root that hold the benchmarks of a suite."""

    def check_engine(self, spec: str, dtype: str) -> None:
        """Raise ``MoemixError`` if there is no such engine or dtype."""

    def sandbox(self) -> tuple[bool, str]:
        """Return whether generated programs can run here, and in which sandbox, or what it lacks."""

    def examine_data_root(self, root: Path) -> list[Finding]:
        """Examine every benchmark, suite and bench that local files can serve."""

    def contamination_checker(self, suite: str, only: Sequence[str], root: Path | None) -> ContaminationChecker:
        """Index the questions of a suite (``only`` these tasks or columns; all if empty)."""

    def warm_up(self) -> None:
        """Import what this stage's jobs need, without computing anything or starting a thread."""


@dataclass(frozen=True)
class Progress:
    """How far a recipe is whose seeds are added until its primary comparisons are decided.

    Attributes:
        runs: those that the present look needs, finished or not.
        looks: the numbers of seeds of the looks up to the present one.
        open: the comparisons that were open after the last finished look; none before the first.
    """

    runs: tuple[PlannedRun, ...]
    looks: list[int]
    open: tuple[str, ...]


class ComparisonStage(Protocol):
    """What ``leaderboards`` offers."""

    def report(self, plan: Plan, folder: Path, first: int | None = None) -> tuple[str, list[Path]]:
        """Compare the runs of a plan; return the table for a terminal, and the files written into the folder.

        ``first`` is the number of seeds at the first look, if seeds are added until the comparisons are decided.
        """

    def progress(self, plan: Plan, first: int) -> Progress:
        """Return which runs a plan needs next until its primary comparisons are decided, from ``first`` seeds on."""


def training() -> TrainingStage:
    """Return the interface of ``trainers``."""
    return cast("TrainingStage", _load("moemix.stages", "training"))


def evaluation() -> EvaluationStage:
    """Return the interface of ``evals``."""
    return cast("EvaluationStage", _load("moemix.stages", "evaluation"))


def load_command(name: str) -> click.Command:
    """Return the sub-command of this name."""
    return cast("click.Command", _load("moemix.commands", name))


def comparison() -> ComparisonStage:
    """Return the interface of ``leaderboards``."""
    return cast("ComparisonStage", _load("moemix.stages", "comparison"))


@functools.cache
def _entry_points() -> metadata.EntryPoints:
    """Return the entry points of this project alone: looking through all installed packages takes long."""
    return metadata.distribution("moemix").entry_points


def _load(group: str, name: str) -> object:
    found = _entry_points().select(group=group, name=name)
    if not found:
        raise StageError(
            f"the installed package declares no {name!r} in the entry points {group}",
            hint="the installation is older than its source code: run `pip install -e .` again",
        )
    loaded: object = next(iter(found)).load()
    return loaded
