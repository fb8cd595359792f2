"""Which runs to compare, and where each one's evaluations lie: from run folders, or from a recipe's plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import MoemixError, unknown
from harness.plan import Plan
from harness.records import RunConfig
from harness.requests import eval_request
from harness.store import Run
from leaderboards.comparison import compare
from leaderboards.table import Comparison


@dataclass(frozen=True)
class Selection:
    """What to compare.

    Attributes:
        runs: in the order of their rows.
        evaluations: suite → run id → folder of the evaluation, present or still to come.
        baseline: label of the row that differences are taken to.
        planned: folder → configuration of the runs of a plan, some of which may not have started.
        judgings: bench → run id → folder of the judging, present or still to come.
    """

    runs: tuple[Run, ...]
    evaluations: dict[str, dict[str, Path]]
    baseline: str
    planned: dict[Path, RunConfig] = field(default_factory=dict)
    judgings: dict[str, dict[str, Path]] = field(default_factory=dict)

    def compare(self, suite: str | None = None) -> list[Comparison]:
        """A comparison per suite, or of the one that is named.

        Raises:
            MoemixError: no run was evaluated on that suite; and as :func:`leaderboards.comparison.compare`.
        """
        if suite is not None and suite not in self.evaluations:
            raise unknown("suite", suite, self.evaluations, where="these runs")
        names = [suite] if suite is not None else list(self.evaluations) or [""]  # "": nothing is evaluated yet
        folders = [self.evaluations.get(name, {}) for name in names]
        return [  # judgings stand beside the first suite, once
            compare(self.runs, held, self.baseline, name, self.planned, self.judgings if number == 0 else {})
            for number, (name, held) in enumerate(zip(names, folders, strict=True))
        ]


def from_plan(plan: Plan) -> Selection:
    """Every run that a recipe plans, finished or not, in the recipe's order."""
    evaluations: dict[str, dict[str, Path]] = {}
    for planned in plan.runs:
        for suite, folder in planned.evaluations.items():
            evaluations.setdefault(suite, {})[planned.config.id] = folder
    judgings: dict[str, dict[str, Path]] = {}
    for planned in plan.runs:
        for bench, folder in planned.judgings.items():
            judgings.setdefault(bench, {})[planned.config.id] = folder
    configs = {planned.run.folder: planned.config for planned in plan.runs}
    return Selection(tuple(planned.run for planned in plan.runs), evaluations, plan.recipe.baseline, configs, judgings)


def from_folders(folders: Iterable[Path], baseline: str) -> Selection:
    """Run folders, or folders of run folders. Suites are the evaluations that lie in them, by folder name.

    Raises:
        MoemixError: a folder that holds no run.
    """
    runs = [run for folder in folders for run in _runs_in(folder)]
    evaluations: dict[str, dict[str, Path]] = {}
    for run in runs:
        for folder in sorted((run.folder / "evals").glob("*")):
            if eval_request(folder) is not None:
                evaluations.setdefault(folder.name, {})
    for suite, by_run in evaluations.items():
        by_run.update({run.manifest.run_id: run.folder / "evals" / suite for run in runs})
    judgings: dict[str, dict[str, Path]] = {}
    for run in runs:
        for folder in sorted((run.folder / "judge").glob("*/summary.json")):
            judgings.setdefault(folder.parent.name, {})[run.manifest.run_id] = folder.parent
    return Selection(tuple(runs), evaluations, baseline, judgings=judgings)


def joined(selections: Sequence[Selection]) -> Selection:
    """Several selections as one; the first one's baseline. A run that comes twice is kept once."""
    runs = {run.folder.resolve(): run for selection in selections for run in selection.runs}
    evaluations: dict[str, dict[str, Path]] = {}
    for selection in selections:
        for suite, by_run in selection.evaluations.items():
            evaluations.setdefault(suite, {}).update(by_run)
    judgings: dict[str, dict[str, Path]] = {}
    for selection in selections:
        for bench, by_run in selection.judgings.items():
            judgings.setdefault(bench, {}).update(by_run)
    planned = {folder: config for selection in selections for folder, config in selection.planned.items()}
    return Selection(tuple(runs.values()), evaluations, selections[0].baseline, planned, judgings)


def _runs_in(folder: Path) -> list[Run]:
    if (folder / "run.json").is_file():
        return [Run(folder)]
    runs = [Run(path.parent) for path in sorted(folder.glob("*/run.json"))]
    if not runs:
        raise MoemixError("no run lies here: there is no run.json in it or below it", where=str(folder))
    return runs
