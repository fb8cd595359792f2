"""Jobs and plans as data: a job is one process to start, a plan is every job of a recipe with the runs they make."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import MoemixError, nearest
from harness.execution import LocalExecutor, SlurmExecutor
from harness.launch import core_count, moemix_command
from harness.recipe import Recipe, TinyModel
from harness.records import ModelManifest, RunConfig
from harness.requests import FILE as REQUEST_FILE
from harness.requests import EvalJobRequest, JobRequest, ModelJobRequest, TrainJobRequest
from harness.store import Run, Store, create_model, create_run

Kind = Literal["model", "train", "eval", "judge", "gate-load"]


@dataclass(frozen=True)
class Job:
    """One process to start.

    Attributes:
        id: unique in the plan.
        kind: the sub-command of ``moemix`` that runs it.
        title: shown to the user while it runs.
        folder: where it works, and where its request, results and log are stored.
        after: ids of the jobs that must have succeeded first.
        request: what it is asked to do.
        run: folder of the run whose manifest stores how it ended, where the job does not store that itself.
    """

    id: str
    kind: Kind
    title: str
    folder: Path
    after: tuple[str, ...] = ()
    request: JobRequest | None = None
    run: Path | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """The command line of its process."""
        return moemix_command(self.kind, "--request", str(self.folder / REQUEST_FILE))

    @property
    def log(self) -> Path:
        """The file that collects the output of its process."""
        return self.folder / "logs" / f"{self.kind}.log"

    def prepare(self) -> None:
        """Write the files that the process reads.

        Raises:
            StageError: another process works on this run or model.
        """
        if isinstance(self.request, TrainJobRequest):
            create_run(self.request)
        elif isinstance(self.request, ModelJobRequest):
            create_model(self.request)
        if self.request is not None:
            self.request.save()

    @property
    def done(self) -> bool:
        """Whether its completion marker is there."""
        if self.kind == "model":
            manifest = self.folder / "model.json"
            return manifest.is_file() and ModelManifest.read(manifest).stage.status == "done"
        if self.kind == "train":
            return Run(self.folder).trained
        return (self.folder / "summary.json").is_file()


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan, with the folders of its evaluations (by suite) and judgings (by bench)."""

    run: Run
    config: RunConfig
    model: str
    evaluations: dict[str, Path]
    judgings: dict[str, Path] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The jobs of a recipe in a store, and the runs that they make."""

    recipe: Recipe
    store: Store
    data_root: Path | None
    jobs: tuple[Job, ...]
    runs: tuple[PlannedRun, ...]

    @property
    def executor(self) -> LocalExecutor | SlurmExecutor:
        """The recipe's executor, with the number of slots that it leaves open.

        A tiny model gains nothing from a second thread: a job on each core is faster than one on all. Only making the
        model, on which all other jobs wait, gets all cores.
        """
        executor = self.recipe.executor
        if not isinstance(executor, LocalExecutor) or executor.jobs is not None:
            return executor
        if executor.devices or not all(isinstance(model, TinyModel) for model in self.recipe.models):
            return executor.model_copy(update={"jobs": len(executor.devices) or 1})
        slots = {"model": core_count(), **executor.slots}
        return executor.model_copy(update={"jobs": core_count(), "slots": slots})

    def select(self, strategy: str, model: str | None, seed: int | None) -> PlannedRun:
        """Return the run of a strategy; model and seed are by default the first ones."""
        labels = sorted({planned.config.strategy.label for planned in self.runs})
        found = [planned for planned in self.runs if planned.config.strategy.label == strategy]
        if not found:
            raise MoemixError(f"the recipe has no strategy {strategy!r}", hint=nearest(strategy, labels))
        models, seeds = sorted({p.model for p in found}), sorted({p.config.seed for p in found})
        if model is not None and model not in models:
            raise MoemixError(f"the recipe has no model {model!r}", hint=nearest(model, models))
        if seed is not None and seed not in seeds:
            raise MoemixError(f"the recipe has no seed {seed}", hint=f"its seeds: {', '.join(map(str, seeds))}")
        wanted = (model or models[0], seeds[0] if seed is None else seed)
        return next(p for p in found if (p.model, p.config.seed) == wanted)

    def with_unsafe_code(self) -> Plan:
        """Return the plan with evaluations that run generated programs without a sandbox where none works."""

        def insist(job: Job) -> Job:
            if not isinstance(job.request, EvalJobRequest):
                return job
            return dataclasses.replace(job, request=job.request.model_copy(update={"unsafe_code": True}))

        return dataclasses.replace(self, jobs=tuple(map(insist, self.jobs)))

    def with_dependencies(self, *job_ids: str) -> tuple[Job, ...]:
        """Return jobs and everything they depend on, in order."""
        needed = set(job_ids)
        for job in reversed(self.jobs):  # every job comes after its dependencies
            if job.id in needed:
                needed.update(job.after)
        return tuple(job for job in self.jobs if job.id in needed)
