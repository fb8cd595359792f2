"""The runs of a preset, by the part they play; and the jobs that a table or figure needs, for the conductor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import MoemixError
from harness.plan import Job, Plan, PlannedRun, build
from harness.recipe_file import load_recipe
from harness.records import EvalSummary, GateLoads, JudgeSummary
from harness.requests import GateLoadConfig, GateLoadJobRequest
from harness.store import Store
from leaderboards.paper.presets import Preset
from leaderboards.paper.specs import Line
from leaderboards.scores import Evaluation

# What is measured on a run's checkpoint beyond its training.
SCORES, JUDGING, GATE_LOAD, BENCHMARK_LOAD = "scores", "judging", "gate load", "benchmark load"
GATE_LOAD_EXAMPLES = 100
Need = tuple[str, str, str]  # the paper's model, a strategy's label, and one of the above or "" for the training alone


@dataclass(frozen=True)
class Experiments:
    """A preset's runs in a store.

    Attributes:
        plan: None where the recipe cannot be planned here; ``problem`` then says why.
        read: evaluations that were read already: the same scores stand in many cells.
    """

    preset: Preset
    plan: Plan | None
    problem: str = ""
    read: dict[Path, Evaluation] = field(default_factory=dict, compare=False, repr=False)

    def runs(self, model: str, strategy: str) -> list[PlannedRun]:
        """The runs of a strategy on a model of the paper, one a seed."""
        if self.plan is None:
            return []
        names = self.preset.models.get(model, ())
        return [p for p in self.plan.runs if p.model in names and p.config.strategy.label == strategy]

    def why_none(self, model: str, strategy: str) -> str:
        """Why :meth:`runs` is empty."""
        if self.plan is None:
            return self.problem
        if model not in self.preset.models:
            return f"not part of preset {self.preset.name}"
        return f"no row {strategy!r} in recipe {self.preset.recipe}"

    def scores(self, planned: PlannedRun) -> Path:
        """The folder of its scores."""
        return planned.evaluations[self.preset.suite]

    def evaluation(self, planned: PlannedRun) -> Evaluation:
        """Its scores, read once."""
        folder = self.scores(planned)
        if folder not in self.read:
            self.read[folder] = Evaluation.open(folder)
        return self.read[folder]

    def judging(self, planned: PlannedRun) -> Path:
        """The folder of its judging."""
        return planned.judgings[self.preset.bench]

    def gate_load(self, planned: PlannedRun, need: str = GATE_LOAD) -> Path:
        return planned.run.folder / "gate_load" / ("benchmarks" if need == BENCHMARK_LOAD else "sources")

    def folder(self, planned: PlannedRun, need: str) -> Path:
        """Where what is needed of a run lies, finished or not."""
        if need == SCORES:
            return self.scores(planned)
        return self.judging(planned) if need == JUDGING else self.gate_load(planned, need)

    def finished(self, planned: PlannedRun, need: str) -> bool:
        """Whether it is there and is about the checkpoint that the run has now."""
        if not planned.run.trained:
            return False
        path = self.folder(planned, need) / "summary.json"
        if not path.is_file():
            return False
        held: EvalSummary | JudgeSummary | GateLoads
        if need == SCORES:
            held = EvalSummary.read(path)
        else:
            held = JudgeSummary.read(path) if need == JUDGING else GateLoads.read(path)
        return held.checkpoint_hash == planned.run.manifest.checkpoint_hash

    def jobs(self, needs: Iterable[Need]) -> tuple[Job, ...]:
        """Every job that is needed, with all it depends on, in an order in which each finds that.

        Raises:
            MoemixError: the recipe cannot be planned here, or a preset that lacks everything that is needed.
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
        run, folder = planned.run, self.folder(planned, need)
        label, train = planned.config.strategy.label, f"train:{planned.config.id}"
        config = GateLoadConfig(examples=GATE_LOAD_EXAMPLES, benchmarks=need == BENCHMARK_LOAD)
        after = (train, self._evaluation(planned)) if config.benchmarks else (train,)
        request = GateLoadJobRequest(config=config, run=run.folder, out=folder)
        title = f"measure the {need} of {label}, seed {planned.config.seed}"
        job = f"gate-load:{run.folder.name}:{folder.name}"
        return Job(job, "gate-load", title, folder, after, request, run=run.folder)


def open_experiments(preset: Preset, store: Store, data_root: Path | None, overrides: tuple[str, ...]) -> Experiments:
    """Plan a preset's recipe; where that cannot be done (no data root, say), everything is missing and says why."""
    try:
        recipe = load_recipe(preset.recipe, overrides)
        return Experiments(preset, build(recipe, store, data_root))
    except MoemixError as error:
        if overrides:
            raise  # the user's own words: worth stopping for
        return Experiments(preset, None, str(error).replace("\n", " "))


def restricted(plan: Plan, jobs: tuple[Job, ...]) -> Plan:
    """The plan with these jobs alone: what the conductor is given."""
    return dataclasses.replace(plan, jobs=jobs)


def line_needs(lines: Iterable[Line], quantities: Iterable[str]) -> list[Need]:
    """What a table's lines need for its quantities."""
    kinds = {quantity.partition(":")[0] for quantity in quantities}
    needs = [need for kind, need in (("score", SCORES), ("task", SCORES), ("suite", SCORES), ("judge", JUDGING),
                                     ("weight", "")) if kind in kinds]  # fmt: skip
    return list(dict.fromkeys((line.model, line.strategy, need) for line in lines for need in needs))
