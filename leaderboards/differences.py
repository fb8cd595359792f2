"""Differences between rows, paired by question and seed, and the marks that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from leaderboards.scores import Key
from leaderboards.statistics import ALPHA, Estimate, Part, detectable, estimate, holm, p_value
from leaderboards.table import Cell, Heading, Row, Scored, Table


def parts(scored: Scored, shares: Mapping[Key, float], seeds: Sequence[int]) -> list[Part]:
    """The score vectors of a column as an estimate takes them: tasks, each seeds × questions."""
    return [
        Part(share, np.stack([scored[seed][key].values for seed in seeds]), scored[seeds[0]][key].clusters)
        for key, share in shares.items()
    ]


def difference(row: Row, other: Row, heading: Heading) -> Estimate | None:
    """``row`` minus ``other``, paired by question and by the seeds that both have; None where nothing pairs.

    A row that was never trained is the same under every seed, so it pairs with each.
    """
    if not (row.compared and other.compared):
        return None
    here, there = row.scored(heading.name), other.scored(heading.name)
    if here and not row.trained:
        here = dict.fromkeys(there, next(iter(here.values())))
    elif there and not other.trained:
        there = dict.fromkeys(here, next(iter(there.values())))
    seeds = sorted(here.keys() & there.keys())
    if not seeds:
        return None
    pairs = zip(parts(here, heading.shares, seeds), parts(there, heading.shares, seeds), strict=True)
    return estimate([Part(mine.weight, mine.scores - theirs.scores, mine.clusters) for mine, theirs in pairs])


def take_differences(table: Table, base: Row) -> None:
    """Fill in each cell's difference to the baseline, its p-values, and what each column could have shown."""
    cells: list[Cell] = []
    for heading in table.columns:
        for row in table.rows:
            cell = row.cells[heading.name]
            if row is base or not row.compared or cell.score is None or base.cells[heading.name].score is None:
                continue
            cell.difference = difference(row, base, heading)
            if cell.difference is None:
                cell.note = cell.note or f"no difference: no seed in common with {base.label}"
            else:
                cell.p = p_value(cell.difference)
                cells.append(cell)
    for cell, adjusted in zip(cells, holm([cell.p for cell in cells]), strict=True):
        cell.p_holm = adjusted
    table.comparisons = sum(not math.isnan(cell.p) for cell in cells)
    for heading in table.columns:
        effects = [detectable(cell.difference, table.comparisons) for cell in table.cells(heading) if cell.difference]
        known = [effect for effect in effects if not math.isnan(effect)]
        heading.detectable = float(np.median(known)) if known else math.nan


def mark_best(table: Table) -> None:
    """Mark each column's best score, and those whose difference to it is not significant.

    The best is picked by looking, so the family that Holm's correction is over holds every pair of rows in every
    column, not only the pairs with the best.
    """
    tests: list[tuple[Cell, float]] = []
    pairs = 0
    for heading in table.columns:
        sign = 1 if heading.higher_is_better else -1
        scores = [(row, sign * cell.score.value) for row in table.rows if (cell := row.cells[heading.name]).score]
        scores = [(row, score) for row, score in scores if row.compared]
        if len(scores) < 2:
            continue
        pairs += math.comb(len(scores), 2)
        highest = max(score for _, score in scores)
        leaders = [row for row, score in scores if math.isclose(score, highest, abs_tol=1e-12)]
        for row, _ in scores:
            cell = row.cells[heading.name]
            if row in leaders:
                cell.best = True
            else:
                tests.append((cell, max(_p_of_none(difference(row, leader, heading)) for leader in leaders)))
    for (cell, _), adjusted in zip(tests, holm([p for _, p in tests], comparisons=pairs), strict=True):
        cell.tied = adjusted >= ALPHA


def _p_of_none(found: Estimate | None) -> float:
    """The p-value of a difference. Where there is no error bar to go by nothing tells two rows apart: 1."""
    p = math.nan if found is None else p_value(found)
    return 1.0 if math.isnan(p) else p
