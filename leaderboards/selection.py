"""Select the runs to compare and their evaluations: from run folders, or from a recipe's plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import MoemixError, unknown
from harness.jobs import Plan
from harness.recipe import Comparisons
from harness.records import RunConfig
from harness.requests import eval_request
from harness.store import Run
from leaderboards.comparison import compare
from leaderboards.differences import Look
from leaderboards.measures import CONTINUOUS
from leaderboards.members import View
from leaderboards.table import Comparison

Folders = dict[str, dict[str, Path]]  # suite or bench → run id → folder, finished or not


@dataclass(frozen=True)
class Selection:
    """The runs to compare, in the order of their rows, with the folders of their evaluations and judgings.

    Attributes:
        baseline: label of the row to which differences are taken.
        planned: folder → configuration of the runs of a plan, some of which may not have started.
        declared: the primary comparisons and the margins.
        checkpoints: whether every run is compared as a checkpoint of its own.
        look: the level of the primary comparisons, and what is decided already.
    """

    runs: tuple[Run, ...]
    evaluations: Folders
    baseline: str
    planned: dict[Path, RunConfig] = field(default_factory=dict)
    judgings: Folders = field(default_factory=dict)
    declared: Comparisons = field(default_factory=Comparisons)
    checkpoints: bool = False
    look: Look | None = None

    def compare(self, suite: str | None = None) -> list[Comparison]:
        """Return a comparison for each suite and one of each further measure, or that of the named suite.

        Raises:
            MoemixError: no run was evaluated on that suite; and as :func:`leaderboards.comparison.compare`.
        """
        if suite is not None and suite not in self.evaluations:
            raise unknown("suite", suite, self.evaluations, where="these runs")
        names = [suite] if suite is not None else list(self.evaluations) or [""]  # "": nothing is evaluated yet
        views: list[tuple[str, View]] = [(name, "scores") for name in names]
        views[0] = names[0], "scores and loss"  # the mean held-out loss and judgings stand beside the first suite, once
        if suite is None and not (self.look and self.look.primary_only):
            folders = self.evaluations.get(names[0], {}).values()
            if any(run.held_out.is_file() for run in self.runs):
                views.append((names[0], "held-out losses"))
            if any((folder / CONTINUOUS).is_file() for folder in folders):
                views.append((names[0], "continuous forms"))
        return [
            compare(
                self.runs, self.evaluations.get(name, {}), self.baseline,
                name if view.startswith("scores") else view, self.planned,
                self.judgings if view == "scores and loss" else {}, view, self.declared, checkpoints=self.checkpoints,
                look=self.look,
            )
            for name, view in views
        ]  # fmt: skip


def from_plan(plan: Plan) -> Selection:
    """Select every run that a recipe plans, finished or not, in the recipe's order."""
    evaluations: Folders = {}
    judgings: Folders = {}
    for planned in plan.runs:
        for folders, found in ((planned.evaluations, evaluations), (planned.judgings, judgings)):
            for name, folder in folders.items():
                found.setdefault(name, {})[planned.config.id] = folder
    configs = {planned.run.folder: planned.config for planned in plan.runs}
    runs = tuple(planned.run for planned in plan.runs)
    return Selection(runs, evaluations, plan.recipe.baseline, configs, judgings, plan.recipe.comparisons)


def from_folders(folders: Iterable[Path], baseline: str) -> Selection:
    """Select run folders, or folders of run folders. Suites are the evaluations in them, by folder name.

    Raises:
        MoemixError: a folder that holds no run.
    """
    runs = [run for folder in folders for run in _runs_in(folder)]
    ids = {run.manifest.run_id: run.folder for run in runs}
    suites = dict.fromkeys(
        folder.name
        for run in runs
        for folder in sorted((run.folder / "evals").glob("*"))
        if eval_request(folder) is not None
    )
    evaluations = {suite: {run_id: folder / "evals" / suite for run_id, folder in ids.items()} for suite in suites}
    judgings: Folders = {}
    for run_id, folder in ids.items():
        for summary in sorted((folder / "judge").glob("*/summary.json")):
            judgings.setdefault(summary.parent.name, {})[run_id] = summary.parent
    return Selection(tuple(runs), evaluations, baseline, judgings=judgings)


def joined(selections: Sequence[Selection]) -> Selection:
    """Join selections, with the first one's baseline, comparisons and look. A run that is in several is kept once."""
    runs = {run.folder.resolve(): run for selection in selections for run in selection.runs}
    planned = {folder: config for selection in selections for folder, config in selection.planned.items()}
    evaluations: Folders = {}
    judgings: Folders = {}
    for selection in selections:
        for suite, by_run in selection.evaluations.items():
            evaluations.setdefault(suite, {}).update(by_run)
        for bench, by_run in selection.judgings.items():
            judgings.setdefault(bench, {}).update(by_run)
    return replace(
        selections[0], runs=tuple(runs.values()), evaluations=evaluations, planned=planned, judgings=judgings
    )


def _runs_in(folder: Path) -> list[Run]:
    runs = [Run(path.parent) for path in (folder / "run.json", *sorted(folder.glob("*/run.json"))) if path.is_file()]
    if not runs:
        raise MoemixError("no run found: there is no run.json in the folder or one level below", where=str(folder))
    return runs[:1] if (folder / "run.json").is_file() else runs
