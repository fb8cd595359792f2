"""The plan: every job that a recipe needs, each after its dependencies.

strategies × models × seeds → make models → train runs → evaluate checkpoints → judge their answers. Planning writes
nothing except a generated data root (``data.world``), because the contents of the data identify a run.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib import metadata
from pathlib import Path

from harness import stages
from harness.errors import MoemixError, StageError
from harness.execution import Launcher
from harness.jobs import Job, Kind, Plan, PlannedRun
from harness.judging import JudgeConfig, JudgeSpec
from harness.launch import run_moemix
from harness.recipe import CheckpointModel, FromDense, Mixing, Model, Recipe, Source, Strategy, TinyModel, Training
from harness.recipe_file import override
from harness.records import EvalRequest, ModelConfig, RunConfig
from harness.requests import EvalJobRequest, JobRequest, JudgeJobRequest, ModelJobRequest, TrainJobRequest
from harness.sources import fingerprint
from harness.store import Run, Store, checkpoint_hash


def make_world(recipe: Recipe, store: Store) -> Path:
    """Return the generated data root that a recipe names, after it was generated once by a process of its own."""
    return world_folder(str(recipe.data.world), recipe.data.seed, store.cache)


def world_folder(world: str, seed: int, cache: Path) -> Path:
    """Return the folder of a generated data root in a cache; it is generated if it is not there."""
    folder = cache / "worlds" / stages.training().world_id(world, seed)
    made = (folder / "world.json").is_file()
    if not made and run_moemix("data", "make", world, "--out", str(folder), "--seed", str(seed)):
        raise StageError(f"making the data of world {world!r} failed", where=str(folder))
    return folder


def build(recipe: Recipe, store: Store, data_root: Path | None) -> Plan:
    """Plan every job of a recipe. Generates its data root, if it names one, and starts nothing else."""
    root = make_world(recipe, store) if recipe.data.world else data_root
    return _Builder(recipe, store, root).plan()


def training_job(
    recipe: Recipe, strategy: str, model: str | None, seed: int | None, store: Store, data_root: Path | None
) -> tuple[Plan, Job]:
    """Plan a recipe, and return the plan with the job that trains one strategy.

    The strategy is the label of a row, or the name of any strategy; model and seed are by default the first ones.
    """
    recipe, row = with_row(recipe, strategy)
    plan = build(recipe, store, data_root)
    folder = plan.select(row.label, model, seed).run.folder
    return plan, next(job for job in plan.jobs if job.kind == "train" and job.folder == folder)


def with_row(recipe: Recipe, strategy: str) -> tuple[Recipe, Strategy]:
    """Return the row with this label or name, and the recipe; a strategy without a row gets one."""
    row = next((row for row in recipe.strategies if strategy in (row.label, row.name)), None)
    if row is not None:
        return recipe, row
    row = Strategy(name=strategy)
    return recipe.model_copy(update={"strategies": (*recipe.strategies, row)}), row


def _checkpoint_fingerprint(source: str) -> dict[str, str]:
    """Return the hash or version behind a reference to a checkpoint. A hub id has its revision already."""
    if source.startswith("package:"):
        try:
            return {"package": metadata.version(source.removeprefix("package:"))}
        except metadata.PackageNotFoundError:
            raise MoemixError(f"the package of {source!r} is not installed") from None
    return {"checkpoint": checkpoint_hash(Path(source))} if Path(source).is_dir() else {}


class _Builder:
    """Collects jobs: each is added after everything it depends on."""

    def __init__(self, recipe: Recipe, store: Store, root: Path | None) -> None:
        self.recipe, self.store, self.root = recipe, store, root
        self.jobs: dict[str, Job] = {}
        self.planned: dict[str, PlannedRun] = {}
        self.known: dict[str, str] = {}
        self.suite_hash = functools.cache(stages.evaluation().suite_hash)  # the same for all runs of the plan
        self.bench_hash = functools.cache(stages.evaluation().bench_hash)
        self.strategy_code = functools.cache(stages.training().strategy_code)

    def plan(self) -> Plan:
        if not self.recipe.data.sources:
            raise MoemixError("`data.sources` is empty: a mixture needs sources", where=f"recipe {self.recipe.name}")
        for model in self.recipe.models:
            recipe = override(self.recipe, model.overrides)
            for strategy in recipe.strategies:
                for seed in override(recipe, strategy.overrides).seeds:
                    self._run(recipe, model, strategy, seed)
        return Plan(self.recipe, self.store, self.root, tuple(self.jobs.values()), tuple(self.planned.values()))

    def _fingerprints(self, sources: tuple[Source, ...]) -> dict[str, str]:
        for source in sources:
            if (key := source.model_dump_json()) not in self.known:
                self.known[key] = fingerprint(source, self.root)
        return {source.name: self.known[source.model_dump_json()] for source in sources}

    def _model(self, recipe: Recipe, model: Model) -> tuple[str, Path]:
        """Add the job that makes a model; return its job id and checkpoint folder."""
        sources = recipe.data.sources
        if isinstance(model, TinyModel):
            sources = model.pretrain.sources if model.pretrain else sources
        elif not (isinstance(model, FromDense) and model.reads_sources):
            sources = ()
        fingerprints = {} if isinstance(model, TinyModel) else _checkpoint_fingerprint(model.source)
        fingerprints |= self._fingerprints(sources)
        model = model.model_copy(update={"overrides": {}})
        config = ModelConfig(model=model, sources=sources, fingerprints=fingerprints)
        folder = self.store.model_folder(config)
        job_id = f"model:{config.id}"
        if job_id not in self.jobs:
            request = ModelJobRequest(config=config, out=folder, data_root=self.root)
            self.jobs[job_id] = Job(job_id, "model", f"make model {model.name}", folder, request=request)
        return job_id, folder / "checkpoint"

    def _run(self, base: Recipe, model: Model, strategy: Strategy, seed: int) -> PlannedRun:
        """Add the jobs of a run of ``base`` (the recipe for this model), after those of a run that it needs."""
        recipe = override(base, strategy.overrides)
        rule = stages.training().load_strategy(strategy.name, **strategy.options)
        after, reference = [], None
        if rule.needs:
            reference = self._run(base, model, self._strategy(base, rule.needs, wanted_by=strategy.label), seed)
            after.append(f"train:{reference.config.id}")
        model_job, checkpoint = self._model(base, model)
        # A source that this run leaves out is one on which its loss is wanted all the more.
        names = {source.name for source in recipe.data.sources}
        left_out = tuple(s for s in base.data.sources if s.name not in names and s.probe_examples)
        held_out = (*left_out, *recipe.held_out)
        if rule.trains:
            stages.training().check_signals(rule, recipe.data.sources, recipe.mixing, held_out)
        config = RunConfig(
            model_id=model_job.removeprefix("model:"),
            strategy=strategy.model_copy(update={"options": dataclasses.asdict(rule), "overrides": {}}),
            seed=seed if rule.trains else base.seeds[0],
            sources=recipe.data.sources,
            data_seed=recipe.data.seed,
            fingerprints=self._fingerprints((*recipe.data.sources, *held_out)),
            # An untrained run sees only held-out examples, which must be cut as they are for the others.
            training=recipe.training if rule.trains else Training(max_length=recipe.training.max_length),
            mixing=recipe.mixing if rule.updates or rule.at_start else Mixing(),
            strategy_code=self.strategy_code(strategy.name),
            reference=reference.config.id if reference else None,
            held_out=held_out,
            held_out_every=recipe.evaluation.every if rule.trains else None,
        )
        if config.id not in self.planned:
            run = self.store.run(recipe.name, config)
            train_job = f"train:{config.id}"
            request = TrainJobRequest(
                config=config,
                recipe=recipe.name,
                out=run.folder,
                base_checkpoint=checkpoint,
                reference_run=reference.run.folder if reference else None,
                data_root=self.root,
                tracking=recipe.tracking,
                launcher=recipe.launcher if rule.trains else Launcher(),
            )
            title = f"train {strategy.label} on {model.name}, seed {config.seed}"
            self.jobs[train_job] = Job(train_job, "train", title, run.folder, (model_job, *after), request)
            evaluations = {
                suite: self._evaluation(base, run, train_job, suite, strategy) for suite in recipe.evaluation.suites
            }
            judgings = {bench: self._judging(base, run, train_job, bench, strategy) for bench in recipe.judging.benches}
            self.planned[config.id] = PlannedRun(run, config, model.name, evaluations, judgings)
        return self.planned[config.id]

    def _strategy(self, recipe: Recipe, name: str, *, wanted_by: str) -> Strategy:
        """Return the recipe's row for a strategy that another one needs; of several, the one labelled by its name."""
        rows = [row for row in recipe.strategies if row.name == name]
        rows = [row for row in rows if row.label == name] or rows
        if len(rows) > 1:
            raise MoemixError(
                f"strategy {wanted_by!r} needs a finished {name!r} run, and the recipe has several",
                where=f"recipe {recipe.name}",
                hint=f"labels: {', '.join(row.label for row in rows)}",
            )
        return rows[0] if rows else Strategy(name=name)

    def _evaluation(self, recipe: Recipe, run: Run, train_job: str, suite: str, strategy: Strategy) -> Path:
        """Add the job that scores a run's checkpoint on a suite; return the folder of its results."""
        evaluation = recipe.evaluation
        config = EvalRequest(
            suite=suite,
            suite_hash=self.suite_hash(suite),
            limit=evaluation.limit,
            engine=recipe.engine,
            engine_args=recipe.engine_args,
            dtype=evaluation.dtype,
            seed=evaluation.seed,
        )
        folder = run.eval_folder(config)
        request = EvalJobRequest(
            config=config, out=folder, checkpoint=run.checkpoint, data_root=self.root, tracking=recipe.tracking
        )
        self._add("eval", f"evaluate {strategy.label} on {suite}", run, suite, (train_job,), request)
        return folder

    def _judging(self, recipe: Recipe, run: Run, train_job: str, bench: str, strategy: Strategy) -> Path:
        """Add the job that answers and judges a bench, and the job that makes the judge; return the results' folder."""
        judging, evaluation = recipe.judging, recipe.evaluation
        after, judges, checkpoints = [train_job], [], []
        if isinstance(judging.judge, CheckpointModel):
            judge_job, checkpoint = self._model(recipe, judging.judge)
            after.append(judge_job)
            checkpoints.append(checkpoint)
            judges.append(JudgeSpec(name=checkpoint.parent.name))
        elif judging.judge_model is not None:
            judges.append(JudgeSpec(name=judging.judge_model, url=judging.judge))
        judges += [JudgeSpec(name=one.name, url=one.url, weight=one.weight) for one in judging.panel]
        keys = tuple(one.key_env or "-" for one in judging.panel) if any(one.key_env for one in judging.panel) else ()
        config = JudgeConfig(
            bench=bench,
            bench_content=self.bench_hash(bench, self.root),
            protocol=judging.protocol,
            judges=tuple(judges),
            repeats=judging.repeats,
            temperature=judging.judge_temperature,
            judge_max_tokens=judging.judge_max_tokens,
            limit=judging.limit,
            engine=recipe.engine,
            dtype=evaluation.dtype,
            seed=evaluation.seed,
            max_tokens=judging.max_tokens,
        )
        folder = run.judge_folder(config)
        request = JudgeJobRequest(
            config=config,
            out=folder,
            data_root=self.root,
            checkpoint=run.checkpoint,
            model_name=run.folder.name,
            judge_checkpoints=tuple(checkpoints),
            judge_key_env=keys,
            qualification=self.store.judge_tests(config) if judging.require else None,
            require=judging.require,
            concurrency=judging.concurrency,
        )
        self._add("judge", f"judge {strategy.label} on {bench}", run, bench, tuple(after), request)
        return folder

    def _add(self, kind: Kind, title: str, run: Run, name: str, after: tuple[str, ...], request: JobRequest) -> None:
        """Add a job that works on the checkpoint of a run."""
        job_id = f"{kind}:{run.folder.name}:{name}"
        self.jobs[job_id] = Job(job_id, kind, title, request.out, after, request, run=run.folder)
