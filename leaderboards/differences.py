"""Test differences between rows, paired by question and seed, and mark cells by the result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.statistics.columns import Key
from harness.statistics.estimates import ALPHA, Estimate, Part, estimate
from harness.statistics.families import adjust, rank_intervals, tied_groups
from harness.statistics.seeds import cautious_detectable, cautious_p_value, pool_seed_variance
from leaderboards.scores import TaskScores
from leaderboards.table import Heading, Row, Scored, Table

Pair = tuple[str, Row, Row]  # a column's name, and two rows


@dataclass(frozen=True)
class Tested:
    """A tested difference.

    Attributes:
        pooled: the difference with the mean seed variance of the column's pairs.
        p: p-value of the difference alone; ``p_holm`` is corrected for the family.
    """

    difference: Estimate
    pooled: Estimate
    p: float
    p_holm: float


def parts(scored: Scored, shares: Mapping[Key, float], seeds: Sequence[int]) -> list[Part]:
    """Return the tasks of a column, each with the scores of all seeds on the questions that all of them have."""
    found = []
    for key, share in shares.items():
        scores = _on_common_questions([scored[seed][key] for seed in seeds])
        found.append(Part(share, np.stack([one.values for one in scores]), scores[0].clusters))
    return found


def _on_common_questions(scores: list[TaskScores]) -> list[TaskScores]:
    """Return score vectors on the questions that all have; these differ only if judgments failed."""
    if all(one.complete for one in scores):
        return scores
    common = set.intersection(*(set(one.questions) for one in scores))
    return [one.on(common) for one in scores]


def difference(row: Row, other: Row, heading: Heading) -> Estimate | None:
    """Return ``row`` minus ``other``, paired by question and by the seeds that both have; None if nothing pairs.

    A row that was never trained is the same for every seed, so it pairs with each.
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
    found = []
    for key, share in heading.shares.items():
        both = _on_common_questions([side[seed][key] for side in (here, there) for seed in seeds])
        if not len(both[0].values):
            return None
        values = np.stack([scores.values for scores in both])
        found.append(Part(share, values[: len(seeds)] - values[len(seeds) :], both[0].clusters))
    return estimate(found)


def compare_pairs(tables: Sequence[Table]) -> dict[Pair, Tested]:
    """Test every pair of rows of a table in every column; all the tables are one family."""
    found: dict[Pair, Estimate] = {}
    pooled: dict[Pair, Estimate] = {}
    for table, heading in [(one, heading) for one in tables for heading in one.columns]:
        rows = [row for row in table.rows if row.cells[heading.name].score]
        # A row that was never trained does not vary with the seed, so its pairs vary less and are pooled apart.
        for trained in (True, False):
            pairs = [two for two in itertools.combinations(rows, 2) if all(row.trained for row in two) == trained]
            tested = {(heading.name, *two): one for two in pairs if (one := difference(*two, heading)) is not None}
            count = len({row for _, *two in tested for row in two})
            pooled |= dict(zip(tested, pool_seed_variance(list(tested.values()), count), strict=True))
            found |= tested
    p_values = [cautious_p_value(pair, pooled[key]) for key, pair in found.items()]
    results: dict[Pair, Tested] = {}
    for (key, pair), p, p_holm in zip(found.items(), p_values, adjust(p_values), strict=True):
        column, first, second = key
        results[key] = Tested(pair, pooled[key], p, p_holm)
        results[column, second, first] = replace(results[key], difference=replace(pair, value=-pair.value))
    for table in tables:
        table.comparisons = sum(not math.isnan(p) for p in p_values)
    return results


def show_differences(table: Table, base: Row, tested: Mapping[Pair, Tested]) -> None:
    """Fill in the difference of each cell to the baseline, and the detectable difference of each column."""
    for heading in table.columns:
        effects = []
        for row in table.rows:
            cell = row.cells[heading.name]
            found = tested.get((heading.name, row, base))
            if found is not None:
                cell.difference, cell.p, cell.p_holm = found.difference, found.p, found.p_holm
                effects.append(cautious_detectable(found.difference, found.pooled, table.comparisons))
            elif row is not base and row.compared and cell.score and base.cells[heading.name].score:
                cell.note = cell.note or f"no difference: no seed in common with {base.label}"
        known = [effect for effect in effects if not math.isnan(effect)]
        heading.detectable = float(np.median(known)) if known else math.nan


def mark_best(table: Table, tested: Mapping[Pair, Tested]) -> None:
    """Mark each column's best score and the scores tied with it; fill in ranks and tied groups.

    Rows without a difference (no error, or no seed in common) count as tied.
    """
    for heading in table.columns:
        sign = 1 if heading.higher_is_better else -1
        scores = {
            row: sign * found.value for row in table.rows if (found := row.cells[heading.name].score) and row.compared
        }
        if len(scores) < 2:
            continue

        def differ(row: Row, other: Row, column: str = heading.name) -> bool:
            pair = tested.get((column, row, other))
            return pair is not None and pair.p_holm < ALPHA

        highest = max(scores.values())
        leaders = [row for row, score in scores.items() if math.isclose(score, highest, abs_tol=1e-12)]
        for row, ranks in rank_intervals(scores, differ).items():
            cell = row.cells[heading.name]
            cell.ranks, cell.best = ranks, row in leaders
            cell.tied = not cell.best and not all(differ(row, leader) for leader in leaders)
        ordered = sorted(scores, key=lambda row: -scores[row])
        heading.groups = [[row.label for row in group] for group in tied_groups(ordered, differ)]
