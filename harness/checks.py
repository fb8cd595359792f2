"""What can be checked of a recipe before anything is trained: every problem at once, each with its place.

``moemix plan``, ``bench`` and ``train`` check first, so that a mistake shows after a second and not after hours.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path
from typing import ParamSpec, TypeVar

from harness import memory, stages
from harness.errors import MoemixError, nearest, raise_all
from harness.execution import LocalExecutor, SlurmExecutor
from harness.files import parent_that_exists
from harness.jobs import Plan
from harness.new_recipe import tiny_model
from harness.plan import make_world
from harness.recipe import CheckpointModel, FromDense, Model, Recipe, Source, Strategy, TinyModel
from harness.recipe_file import load_recipe, override, recipe_names
from harness.schema import Keys
from harness.sources import HUB_ID
from harness.store import Store

P = ParamSpec("P")
R = TypeVar("R")
_GIB = 1 << 30


def check(recipe: Recipe, store: Store, data_root: Path | None, place: Callable[[Keys], str] | None = None) -> None:
    """Check everything about a recipe that needs no training.

    ``place`` says where a key of the recipe stands; by default its dotted name.

    Raises:
        MoemixError: there is a problem, or several (:class:`harness.errors.ProblemsError`).
    """
    checks = _Checks(recipe, store, data_root, place or (lambda keys: f"recipe {recipe.name}: {'.'.join(keys)}"))
    checks.run()
    raise_all(checks.problems)


class _Checks:
    """Collects problems: each check that raises adds one."""

    def __init__(self, recipe: Recipe, store: Store, root: Path | None, place: Callable[[Keys], str]) -> None:
        self.recipe, self.store, self.root, self.place = recipe, store, root, place
        self.problems: list[MoemixError] = []
        self.checked: set[str] = set()

    def add(self, keys: Keys, message: str, hint: str | None = None) -> None:
        self.problems.append(MoemixError(message, where=self.place(keys), hint=hint))

    def attempt(self, keys: Keys, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Call a function; what it raises becomes a problem at ``keys``, and its own place part of the message."""
        try:
            return function(*args, **kwargs)
        except MoemixError as error:
            for each in getattr(error, "problems", [error]):
                message = f"{each.where}: {each.message}" if each.where else each.message
                self.add(keys, message, each.hint)
        return None

    def new(self, *parts: object) -> bool:
        """Return whether this was not checked yet: rows and models share most of a recipe."""
        key = repr(parts)
        known = key in self.checked
        self.checked.add(key)
        return not known

    def run(self) -> None:
        if self.attempt((), _writable, self.store.root) is None:
            raise_all(self.problems)
        if self.recipe.data.world:
            self.root = self.attempt(("data", "world"), make_world, self.recipe, self.store)
        labels = set[str]()
        for number, model in enumerate(self.recipe.models):
            keys: Keys = ("models", str(number))
            self.model(keys, model)
            recipe = self.attempt((*keys, "overrides"), override, self.recipe, model.overrides)
            if recipe is None:
                continue
            self.settings(recipe)
            own = (*keys, "overrides") if any(key.startswith("strategies") for key in model.overrides) else ()
            for row, strategy in enumerate(recipe.strategies):
                labels.add(strategy.label)
                self.strategy((*own, "strategies", str(row)), recipe, strategy)
        if self.recipe.baseline not in labels | {"uniform"}:  # the default may be missing: then no difference is shown
            self.add(("baseline",), f"no row is called {self.recipe.baseline!r}", nearest(self.recipe.baseline, labels))

    def strategy(self, keys: Keys, recipe: Recipe, strategy: Strategy) -> None:
        """Check a row: its overrides, its options, and the contract of a class that is not built in."""
        changed = self.attempt((*keys, "overrides"), override, recipe, strategy.overrides)
        if changed is not None and strategy.overrides:
            self.settings(changed, (*keys, "overrides"))
        if not self.new(strategy.name, strategy.options):
            return
        rule = self.attempt((*keys, "options"), stages.training().check_strategy, strategy.name, **strategy.options)
        if rule is not None and rule.trains and changed is not None:
            self.attempt(
                keys, stages.training().check_signals, rule, changed.data.sources, changed.mixing, changed.held_out
            )

    def settings(self, recipe: Recipe, keys: Keys = ()) -> None:
        """Check what a model's or a row's overrides may have changed."""
        for number, source in enumerate(recipe.data.sources):
            self.source((*keys, "data", "sources", str(number)), source)
        for number, source in enumerate(recipe.held_out):
            self.source((*keys, "held_out", str(number)), source)
        if not recipe.data.sources and self.new("no sources"):
            self.add(("data", "sources"), "`data.sources` is empty: a mixture needs sources")
        evaluation, judging = recipe.evaluation, recipe.judging
        if self.new("engine", recipe.engine, evaluation.dtype):
            self.attempt((*keys, "engine"), stages.evaluation().check_engine, recipe.engine, evaluation.dtype)
        for number, suite in enumerate(evaluation.suites):
            if self.new("suite", suite):
                self.attempt((*keys, "evaluation", "suites", str(number)), stages.evaluation().check_suite, suite)
        for number, bench in enumerate(judging.benches):
            if self.new("bench", bench):
                where = (*keys, "judging", "benches", str(number))
                self.attempt(where, stages.evaluation().check_bench, bench, self.root)
        if isinstance(judging.judge, CheckpointModel) and self.new("judge", judging.judge):
            self.model((*keys, "judging", "judge"), judging.judge)
        elif judging.judge_model and self.new("judge", judging.judge):
            self.attempt((*keys, "judging", "judge"), stages.evaluation().check_address, str(judging.judge))
        for number, judge in enumerate(judging.panel):
            if self.new("judge", judge.url):
                where = (*keys, "judging", "panel", str(number), "url")
                self.attempt(where, stages.evaluation().check_address, judge.url)
        self.columns(recipe, keys)
        self.packages(recipe, keys)

    def columns(self, recipe: Recipe, keys: Keys) -> None:
        """Check that the columns that `comparisons` names come from the suites, the benches or the held-out losses."""
        known = {"held_out", *(f"judge:{Path(bench).stem}" for bench in recipe.judging.benches)}
        for suite in recipe.evaluation.suites:
            with suppress(MoemixError):  # reported with the suite
                known |= stages.evaluation().columns(suite)
        for field in ("columns", "margins"):
            for column in getattr(recipe.comparisons, field):
                fine = column in known or column.startswith("held_out")  # of each set and unit there may be one
                if not fine and self.new("column", column):
                    self.add((*keys, "comparisons", field), f"no column is called {column!r}", nearest(column, known))

    def packages(self, recipe: Recipe, keys: Keys) -> None:
        """Name the extras that the recipe needs and this environment does not have."""
        local = isinstance(recipe.executor, LocalExecutor)
        engine = recipe.engine == "vllm" and bool(recipe.evaluation.suites or recipe.judging.benches)
        wanted = [
            (engine and local, "vllm", "serve", ("engine",)),
            (isinstance(recipe.executor, SlurmExecutor), "submitit", "slurm", ("executor",)),
            (recipe.training.lora is not None and local, "peft", "lora", ("training", "lora")),
            (recipe.launcher.strategy == "zero1" and local, "deepspeed", "deepspeed", ("launcher", "strategy")),
            *((True, name, "tracking", ("tracking",)) for name in recipe.tracking.trackers),
        ]
        for needed, package, extra, place in wanted:
            if needed and self.new("package", package) and util.find_spec(package) is None:
                self.add((*keys, *place), f"the package {package} is not installed", f"pip install 'moemix[{extra}]'")

    def source(self, keys: Keys, source: Source) -> None:
        """Check a source: files, adapters with their options, and the first rows of each file."""
        if not self.new(source):
            return
        counts: list[int | None] = []
        for number, part in enumerate(source.parts):
            where = (*keys, "parts", str(number))
            if part.hub and not HUB_ID.fullmatch(part.hub):
                self.add((*where, "hub"), f"{part.hub!r} is not a hub dataset id", "expected ORGANISATION/NAME")
            else:
                counts.append(self.attempt(where, stages.training().check_part, part, self.root, source.name))
        if len(counts) == len(source.parts) and None not in counts:
            usable, train = sum(filter(None, counts)), source.train_examples or 1
            if not usable:
                self.add((*keys, "parts"), f"source {source.name}: no row is selected", "change `options.select`")
            elif source.probe_examples + train > usable:
                key = "probe_examples" if source.probe_examples >= usable else "train_examples"
                requested = f"{source.probe_examples} probe and {train} training examples are requested"
                hint = "lower probe_examples or train_examples"
                self.add((*keys, key), f"source {source.name}: {requested}, but only {usable} exist", hint)

    def model(self, keys: Keys, model: Model) -> None:
        """Check that a model's architecture, folder, package or hub id exists, as far as no network is needed."""
        if isinstance(model, TinyModel):
            built_in = [model for name in recipe_names() for model in load_recipe(name).models]
            if model not in (tiny_model(), *built_in):  # a test checks those, and this imports torch
                self.attempt(keys, stages.training().check_tiny, model)
            for number, source in enumerate(model.pretrain.sources if model.pretrain else ()):
                self.source((*keys, "pretrain", "sources", str(number)), source)
        elif model.source.startswith("package:"):
            name = model.source.removeprefix("package:")
            if not name:
                self.add((*keys, "source"), "`package:` names no package", "expected package:NAME")
            elif not any(metadata.distributions(name=name)):
                self.add((*keys, "source"), f"the package {name} is not installed", f"pip install {name}")
        elif model.source and Path(model.source).is_dir():
            self.attempt((*keys, "source"), stages.training().check_checkpoint, Path(model.source))
        elif Path(model.source).is_file():
            self.add((*keys, "source"), f"{model.source} is a file", "expected the folder of a checkpoint")
        elif model.source.startswith(("/", ".", "~")) or "/" not in model.source or not HUB_ID.fullmatch(model.source):
            hint = "expected a checkpoint's folder, a hub id (ORGANISATION/NAME), or package:NAME"
            self.add((*keys, "source"), f"the folder {model.source} does not exist", hint)
        if isinstance(model, FromDense) and model.top_k > getattr(model, "experts", model.top_k):
            self.add(
                (*keys, "top_k"), f"`top_k` is {model.top_k}, and there are {getattr(model, 'experts', '?')} experts"
            )


def disk_shortage(plan: Plan) -> str | None:
    """Say what the disk lacks for the runs to come, where the models' sizes are known; None if there is enough."""
    needed = 0.0
    for model in plan.recipe.models:
        waiting = [p for p in plan.runs if p.model == model.name and not p.run.trained]
        size = memory.parameters(model)
        if size is not None and waiting:
            needed += memory.disk_bytes(size, waiting[0].config.training, len(waiting))
    free = shutil.disk_usage(parent_that_exists(plan.store.root)).free
    if needed <= free:
        return None
    return (
        f"the runs need about {needed / _GIB:,.0f} GiB on the disk of {plan.store.root}, and"
        f" {free / _GIB:,.0f} GiB are free: free space, give another --store, or run fewer rows or seeds at a time"
    )


def _writable(folder: Path) -> bool:
    """Raise an error if the store cannot be made or written to."""
    existing = parent_that_exists(folder)
    hint = "give a folder that you may write to: --store DIR, or MOEMIX_STORE"
    if not existing.is_dir():
        raise MoemixError("the store cannot be made here, because this is a file", where=str(existing), hint=hint)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError as error:
        raise MoemixError(f"the store cannot be written to: {error.strerror}", where=str(existing), hint=hint) from None
