"""The runs of a preset, by their part in the paper, and the jobs that a table or figure needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import MoemixError
from harness.jobs import Job, Plan, PlannedRun
from harness.plan import build
from harness.recipe import Comparisons
from harness.recipe_file import load_recipe
from harness.requests import GateLoadConfig, GateLoadJobRequest
from harness.store import Store
from leaderboards.members import open_member
from leaderboards.paper.presets import Preset
from leaderboards.paper.specs import Line
from leaderboards.table import Member

# What is measured on a run's checkpoint after its training.
SCORES, JUDGING, GATE_LOAD, BENCHMARK_LOAD = "scores", "judging", "gate load", "benchmark load"
GATE_LOAD_EXAMPLES = 100
Need = tuple[str, str, str]  # the paper's model, a strategy's label, and one of the above or "" for the training alone


@dataclass(frozen=True)
class Experiments:
    """A preset's runs in a store.

    Attributes:
        plan: None where the recipe cannot be planned here; ``problem`` then says why.
        opened: runs whose records were read already: the same scores stand in many cells.
    """

    preset: Preset
    plan: Plan | None
    problem: str = ""
    opened: dict[Path, Member] = field(default_factory=dict, compare=False, repr=False)

    @property
    def comparisons(self) -> Comparisons:
        """Return the margins of the recipe; the defaults where it cannot be planned."""
        return self.plan.recipe.comparisons if self.plan else Comparisons()

    def runs(self, model: str, strategy: str) -> list[PlannedRun]:
        """Return the runs of a strategy on a model of the paper, one for each seed."""
        if self.plan is None:
            return []
        names = self.preset.models.get(model, ())
        return [p for p in self.plan.runs if p.model in names and p.config.strategy.label == strategy]

    def members(self, model: str, strategy: str) -> list[Member]:
        """Return these runs with their evaluation and judging, each read once."""
        return [self.member(planned) for planned in self.runs(model, strategy)]

    def member(self, planned: PlannedRun) -> Member:
        """Return a run with its evaluation and judging, read once."""
        run, run_id = planned.run, planned.config.id
        if run.folder not in self.opened:
            judgings = {self.preset.bench: {run_id: self.judging(planned)}}
            scores = {run_id: self.scores(planned)}
            self.opened[run.folder] = open_member(run, scores, {run.folder: planned.config}, judgings)
        return self.opened[run.folder]

    def why_none(self, model: str, strategy: str) -> str:
        """Say why :meth:`runs` is empty."""
        if self.plan is None:
            return self.problem
        if model not in self.preset.models:
            return f"not part of preset {self.preset.name}"
        return f"no row {strategy!r} in recipe {self.preset.recipe}"

    def scores(self, planned: PlannedRun) -> Path:
        """Return the folder of a run's evaluation."""
        return planned.evaluations[self.preset.suite]

    def judging(self, planned: PlannedRun) -> Path:
        """Return the folder of a run's judging."""
        return planned.judgings[self.preset.bench]

    def gate_load(self, planned: PlannedRun, need: str = GATE_LOAD) -> Path:
        """Return the folder of a run's measured gate load, of its sources or of the benchmarks."""
        return planned.run.folder / "gate_load" / ("benchmarks" if need == BENCHMARK_LOAD else "sources")

    def jobs(self, needs: Iterable[Need]) -> tuple[Job, ...]:
        """Return every job that is needed with all its dependencies, each after those that it depends on.

        Raises:
            MoemixError: the recipe cannot be planned here.
        """
        if self.plan is None:
            raise MoemixError(self.problem, where=f"preset {self.preset.name}")
        wanted: dict[str, None] = {}
        extra: dict[str, Job] = {}
        for model, strategy, need in needs:
            for planned in self.runs(model, strategy):
                wanted[f"train:{planned.config.id}"] = None
                if need in (SCORES, BENCHMARK_LOAD):
                    wanted[self._evaluation(planned)] = None
                if need == JUDGING:
                    wanted[f"judge:{planned.run.folder.name}:{self.preset.bench}"] = None
                if need in (GATE_LOAD, BENCHMARK_LOAD):
                    job = self._measuring(planned, need)
                    extra[job.id] = job
        known = {job.id for job_id in wanted for job in self.plan.with_dependencies(job_id)}
        planned_jobs = [job for job in self.plan.jobs if job.id in known]
        return (*planned_jobs, *extra.values())

    def _evaluation(self, planned: PlannedRun) -> str:
        return f"eval:{planned.run.folder.name}:{self.preset.suite}"

    def _measuring(self, planned: PlannedRun, need: str) -> Job:
        run, folder = planned.run, self.gate_load(planned, need)
        label, train = planned.config.strategy.label, f"train:{planned.config.id}"
        config = GateLoadConfig(examples=GATE_LOAD_EXAMPLES, benchmarks=need == BENCHMARK_LOAD)
        after = (train, self._evaluation(planned)) if config.benchmarks else (train,)
        request = GateLoadJobRequest(config=config, run=run.folder, out=folder)
        title = f"measure the {need} of {label}, seed {planned.config.seed}"
        job = f"gate-load:{run.folder.name}:{folder.name}"
        return Job(job, "gate-load", title, folder, after, request, run=run.folder)


def open_experiments(preset: Preset, store: Store, data_root: Path | None, overrides: tuple[str, ...]) -> Experiments:
    """Plan a preset's recipe. If that fails (without a data root, say), everything is missing with that reason.

    Raises:
        MoemixError: the recipe cannot be planned, and the user changed it by ``overrides``.
    """
    try:
        recipe = load_recipe(preset.recipe, overrides)
        return Experiments(preset, build(recipe, store, data_root))
    except MoemixError as error:
        if overrides:
            raise
        return Experiments(preset, None, str(error).replace("\n", " "))


def line_needs(lines: Iterable[Line], kinds: Iterable[str]) -> list[Need]:
    """Return what a table's lines need for its kinds of quantities; judgings stand beside an evaluation."""
    by_kind = {"score": (SCORES,), "task": (SCORES,), "suite": (SCORES,), "judge": (SCORES, JUDGING), "weight": ("",)}
    needs = dict.fromkeys(need for kind in kinds for need in by_kind.get(kind, ()))
    return list(dict.fromkeys((line.model, line.strategy, need) for line in lines for need in needs))
