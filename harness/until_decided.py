"""Add seeds only where a primary comparison is still open (``moemix bench --until-decided``)."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from harness import stages
from harness.conductor import conduct
from harness.errors import MoemixError
from harness.jobs import Plan, PlannedRun
from harness.plan import build
from harness.process import Outcome
from harness.recipe_file import override

logger = logging.getLogger("moemix.harness")


def with_most_seeds(plan: Plan) -> Plan:
    """Plan the same recipe with as many seeds in every row as it may get.

    Raises:
        MoemixError: a model or a row of the recipe has seeds of its own.
    """
    recipe = plan.recipe
    own = [f"models.{model.name}" for model in recipe.models if "seeds" in model.overrides]
    own += [
        f"strategies.{row.label}"
        for model in recipe.models
        for row in override(recipe, model.overrides).strategies
        if "seeds" in row.overrides
    ]
    if own:
        where = f"{own[0]}.overrides.seeds"
        raise MoemixError("`--until-decided` needs the same seeds for all models and rows", where=where)
    more = (seed for seed in range(len(recipe.seeds) + recipe.comparisons.most_seeds) if seed not in recipe.seeds)
    missing = max(recipe.comparisons.most_seeds - len(recipe.seeds), 0)
    seeds = (*recipe.seeds, *(next(more) for _ in range(missing)))
    return build(recipe.model_copy(update={"seeds": seeds}), plan.store, plan.data_root)


def conduct_until_decided(plan: Plan, first: int, budget: float | None = None) -> Outcome:
    """Run what each look needs, until every primary comparison is decided or the seeds or the budget are used up.

    The plan is that of :func:`with_most_seeds`, ``first`` the number of seeds at the first look, and the budget the
    hours that the jobs of all runs may take, one after the other.
    """
    outcome = Outcome()
    while True:
        progress = stages.comparison().progress(plan, first)
        folders = {planned.run.folder for planned in progress.runs}
        wanted = plan.with_dependencies(*(job.id for job in plan.jobs if job.run in folders or job.folder in folders))
        ended = all(job.done for job in wanted)
        if len(progress.looks) > 1 or ended:
            logger.info("%s", _situation(progress, ended=ended))
        if ended:
            return outcome
        if budget is not None and (text := _over_budget(progress.runs, budget)):
            logger.info("%s", text)
            return outcome
        outcome = conduct(plan, wanted)
        if outcome.failed or outcome.blocked:
            return outcome


def _situation(progress: stages.Progress, *, ended: bool) -> str:
    seeds = progress.looks[-1]
    if ended and not progress.open:
        return f"decided: every primary comparison has a verdict with at most {seeds} seeds"
    left = f"{len(progress.open)} primary comparisons are open: {'; '.join(progress.open)}"
    return f"{left}. {'No more seeds are allowed' if ended else f'Look {len(progress.looks)}: {seeds} seeds'}"


def _over_budget(runs: Iterable[PlannedRun], budget: float) -> str | None:
    """Say that the runs that are missing would exceed the budget, by the mean of those that are finished."""
    hours, missing = [], 0
    for planned in runs:
        if planned.run.trained:
            hours.append(sum(stage.seconds or 0.0 for stage in planned.run.manifest.stages.values()) / 3600)
        else:
            missing += 1
    need = sum(hours) + missing * float(np.mean(hours)) if hours else 0.0
    if need <= budget:
        return None
    return f"stopped: {missing} more runs would make {need:.2f} hours of jobs in all, and the budget is {budget:g}"
