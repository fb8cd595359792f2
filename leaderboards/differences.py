"""Differences between rows, paired by question and seed, and the marks that follow from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.statistics.columns import Key
from harness.statistics.estimates import ALPHA, Estimate, Part, estimate
from harness.statistics.families import adjust
from harness.statistics.ranks import rank_intervals, tied_groups
from harness.statistics.seeds import cautious_detectable, cautious_p_value, pool_seed_variance
from leaderboards.scores import TaskScores
from leaderboards.table import Heading, Row, Scored, Table

Pair = tuple[str, Row, Row]  # a column's name, and two rows


@dataclass(frozen=True)
class Tested:
    """A difference with its p-value, alone and corrected for every pair of the table.

    Attributes:
        shared: the difference with the seed variance of all pairs of the column.
    """

    difference: Estimate
    shared: Estimate
    p: float
    p_holm: float


def parts(scored: Scored, shares: Mapping[Key, float], seeds: Sequence[int]) -> list[Part]:
    """The score vectors of a column as an estimate takes them: tasks, each seeds × questions that all seeds have."""
    found = []
    for key, share in shares.items():
        held = on_common_questions([scored[seed][key] for seed in seeds])
        found.append(Part(share, np.stack([scores.values for scores in held]), held[0].clusters))
    return found


def on_common_questions(held: Sequence[TaskScores]) -> list[TaskScores]:
    """Score vectors on the questions that all have; only where judgments failed are there others."""
    if all(scores.complete for scores in held):
        return list(held)
    common = set.intersection(*(set(scores.questions) for scores in held))
    return [scores.on(common) for scores in held]


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
    for key in heading.shares:
        both = on_common_questions([*(here[s][key] for s in seeds), *(there[s][key] for s in seeds)])
        if not len(both[0].values):
            return None
        halves = both[: len(seeds)], both[len(seeds) :]
        here, there = (
            {**side, **{s: {**side[s], key: scores} for s, scores in zip(seeds, half, strict=True)}}
            for side, half in zip((here, there), halves, strict=True)
        )
    pairs = zip(parts(here, heading.shares, seeds), parts(there, heading.shares, seeds), strict=True)
    return estimate([Part(mine.weight, mine.scores - theirs.scores, mine.clusters) for mine, theirs in pairs])


def compare_pairs(tables: Sequence[Table]) -> dict[Pair, Tested]:
    """Test every pair of rows of a table in every column, all tables as one family: the correction is over all of them.

    One family for the stars and for the ties, or a row could be both better than another and not to be told apart
    from it; and the best row is picked by looking, so every pair that might have been looked at counts.
    """
    found: dict[Pair, Estimate] = {}
    shared: dict[Pair, Estimate] = {}
    for table, heading in [(one, heading) for one in tables for heading in one.columns]:
        rows = [row for row in table.rows if row.cells[heading.name].score]
        pairs = {(heading.name, *two): difference(*two, heading) for two in itertools.combinations(rows, 2)}
        held = {pair: estimated for pair, estimated in pairs.items() if estimated is not None}
        found |= held
        shared |= _share_seed_variance(held)
    p_values = [cautious_p_value(pair, shared[key]) for key, pair in found.items()]
    tested: dict[Pair, Tested] = {}
    for (key, pair), p, p_holm in zip(found.items(), p_values, adjust(p_values), strict=True):
        column, first, second = key
        tested[key] = Tested(pair, shared[key], p, p_holm)
        tested[column, second, first] = Tested(replace(pair, value=-pair.value), shared[key], p, p_holm)
    for table in tables:
        table.comparisons = sum(not math.isnan(p) for p in p_values)
    return tested


def _share_seed_variance(found: Mapping[Pair, Estimate]) -> dict[Pair, Estimate]:
    """The pairs of one column, seed variance pooled over pairs of trained rows, and over those with an untrained one.

    A row that was never trained does not vary with the seed, so a pair with it varies less than others.
    """
    shared: dict[Pair, Estimate] = {}
    for trained in (True, False):
        pairs = [pair for pair in found if (pair[1].trained and pair[2].trained) == trained]
        rows = {row for _, first, second in pairs for row in (first, second)}
        shared |= dict(zip(pairs, pool_seed_variance([found[pair] for pair in pairs], len(rows)), strict=True))
    return shared


def show_differences(table: Table, base: Row, tested: Mapping[Pair, Tested]) -> None:
    """Fill in each cell's difference to the baseline, and what each column could have shown."""
    for heading in table.columns:
        effects = []
        for row in table.rows:
            cell = row.cells[heading.name]
            found = tested.get((heading.name, row, base))
            if found is not None:
                cell.difference, cell.p, cell.p_holm = found.difference, found.p, found.p_holm
                effects.append(cautious_detectable(found.difference, found.shared, table.comparisons))
            elif row is not base and row.compared and cell.score and base.cells[heading.name].score:
                cell.note = cell.note or f"no difference: no seed in common with {base.label}"
        known = [effect for effect in effects if not math.isnan(effect)]
        heading.detectable = float(np.median(known)) if known else math.nan


def mark_best(table: Table, tested: Mapping[Pair, Tested]) -> None:
    """Mark each column's best score and those whose difference to it is not significant; ranks and tied groups.

    Where there is no error bar to go by (one question), or no seed in common, nothing tells two rows apart.
    """
    for heading in table.columns:
        sign = 1 if heading.higher_is_better else -1
        scores = {
            row: sign * found.value for row in table.rows if (found := row.cells[heading.name].score) and row.compared
        }
        if len(scores) < 2:
            continue
        highest = max(scores.values())
        leaders = [row for row, score in scores.items() if math.isclose(score, highest, abs_tol=1e-12)]
        for row in scores:
            cell = row.cells[heading.name]
            cell.best = row in leaders
            pairs = [tested.get((heading.name, row, leader)) for leader in leaders]
            cell.tied = not cell.best and not all(pair is not None and pair.p_holm < ALPHA for pair in pairs)

        def differ(row: Row, other: Row, column: str = heading.name) -> bool:
            pair = tested.get((column, row, other))
            return pair is not None and pair.p_holm < ALPHA

        for row, ranks in rank_intervals(scores, differ).items():
            row.cells[heading.name].ranks = ranks
        ordered = sorted(scores, key=lambda row: -scores[row])
        heading.groups = [[row.label for row in group] for group in tied_groups(ordered, differ)]
