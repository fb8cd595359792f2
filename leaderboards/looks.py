"""Follow a recipe whose seeds are added until its primary comparisons are decided (``bench --until-decided``).

The looks and their levels are :mod:`harness.statistics.sequential`'s. At each look every row that has an open primary
comparison has the look's number of seeds. A row whose comparisons are all decided gets no further seeds, except that
the baseline gets them as long as any comparison is open. A decided comparison keeps its verdict and its difference, and
leaves the family.

Where things stand follows from the finished runs alone. So nothing is stored besides them, and a command that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from harness.jobs import Plan, PlannedRun
from harness.stages import Progress
from harness.statistics.joint import FEWEST_SEEDS
from harness.statistics.sequential import levels, looks
from harness.until_decided import with_most_seeds
from leaderboards.differences import Look
from leaderboards.selection import Selection, from_plan
from leaderboards.table import Comparison

Open = dict[tuple[str, str], set[str]]  # model id and label of a row → descriptions of its open comparisons


def select(plan: Plan, first: int | None = None) -> Selection:
    """Return the runs of a plan to compare; ``first`` is None unless seeds are added until all is decided."""
    return from_plan(plan) if first is None else follow(plan, first)[1]


def decided(plan: Plan) -> Selection:
    """Return the runs of a recipe with what ``bench --until-decided`` decided, without running anything."""
    return follow(with_most_seeds(plan), len(plan.recipe.seeds))[1]


def follow(plan: Plan, first: int) -> tuple[Progress, Selection]:
    """Return how far the looks of a plan are, and the runs to compare with the verdicts so far.

    The recipe has the largest number of seeds in every row, and ``first`` is their number at the first look.
    """
    seeds = plan.recipe.seeds
    counts = looks(max(first, FEWEST_SEEDS), len(seeds))
    whole = from_plan(plan)
    look, selection = Look(0.0, {}), whole  # nothing is decided before the first look
    wanted: dict[str, PlannedRun] = {}
    rows: Open | None = None
    looked: list[int] = []
    for count, level in zip(counts, levels(counts), strict=True):
        looked.append(count)
        for planned in plan.runs:
            row = planned.config.model_id, planned.config.strategy.label
            if planned.config.seed in seeds[:count] and (rows is None or row in rows):
                wanted[planned.config.id] = planned
        if rows is None:
            selection = _of(whole, wanted.values(), look)
        folders = {planned.run.folder for planned in wanted.values()}
        if not all(job.done for job in plan.jobs if job.folder in folders or job.run in folders):
            break  # what is there of a look that is not complete has no verdict
        look = Look(level, dict(look.decided))
        selection = _of(whole, wanted.values(), look)
        quick = dataclasses.replace(selection, look=dataclasses.replace(look, primary_only=True))
        rows = _decide(quick.compare(), look)
        if not rows:
            break
    opened = tuple(sorted(set[str]().union(*(rows or {}).values())))
    return Progress(tuple(wanted.values()), looked, opened), selection


def _of(selection: Selection, runs: Iterable[PlannedRun], look: Look) -> Selection:
    folders = {planned.run.folder for planned in runs}
    found = tuple(run for run in selection.runs if run.folder in folders)
    planned = {folder: config for folder, config in selection.planned.items() if folder in folders}
    return dataclasses.replace(selection, runs=found, planned=planned, look=look)


def _decide(comparisons: Iterable[Comparison], look: Look) -> Open:
    """Add what is decided now to a look, and return the rows whose comparisons are open, with the baselines'."""
    found: Open = {}
    for comparison in comparisons:
        for table in comparison.tables:
            base = next((row.label for row in table.rows if row.strategy == table.baseline), "")
            for column in table.columns:
                for row in table.rows:
                    test = row.cells[column.name].to_base
                    if test is None or test.family != "primary":
                        continue
                    if test.verdict == "undecided":
                        text = " · ".join(filter(None, (table.model, row.label, column.title)))
                        for label in (row.label, base):
                            found.setdefault((table.model_id, label), set()).add(text)
                    else:
                        look.decided.setdefault((comparison.suite, table.model_id, column.name, row.label), test)
    return found
