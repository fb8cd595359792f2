"""Test differences between rows, paired by question and seed, and mark cells by the result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harness.recipe import Comparisons
from harness.statistics.columns import Key
from harness.statistics.estimates import ALPHA, Estimate, Part, by_cluster, detectable, estimate, p_value
from harness.statistics.families import Family, adjust, rank_intervals, tied_groups
from harness.statistics.joint import FEWEST_SEEDS, Block, Contrast, correct
from leaderboards.scores import TaskScores
from leaderboards.table import Heading, Row, Scored, Table, Tested

Pair = tuple[str, Row, Row]  # a column's name, and two rows


@dataclass(frozen=True)
class Look:
    """One look at data that grow until the primary comparisons are decided.

    Attributes:
        level: what their corrected p-values must be below.
        decided: suite, model id, column and label of a row → its comparison with the baseline, as it was decided at
            this look or an earlier one.
        primary_only: whether no other comparison is tested, because only the primary ones are asked for.
    """

    level: float = ALPHA
    decided: dict[tuple[str, str, str, str], Tested] = field(default_factory=dict)
    primary_only: bool = False


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

    A row that does not depend on the seed pairs with each.
    """
    if not (row.compared and other.compared):
        return None
    here, there = row.scored(heading.name), other.scored(heading.name)
    if here and not row.varies:
        here = dict.fromkeys(there if other.varies else [0], next(iter(here.values())))
    if there and not other.varies:
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


# --- families -----------------------------------------------------------------------------------------


def compare_pairs(
    tables: Sequence[Table], declared: Comparisons, suite: str = "", look: Look | None = None
) -> dict[Pair, Tested]:
    """Test every pair of rows of a table in every column.

    Over all tables together, the declared comparisons are one family and all the others another. Pairs of rows with too
    few seeds belong to none: they have a difference and no verdict. A comparison that an earlier look decided keeps its
    verdict and leaves the family.
    """
    look = look or Look()
    families: dict[Pair, Family | None] = {}
    found: dict[Pair, Estimate] = {}
    decided: dict[Pair, Tested] = {}
    for table in tables:
        for heading in table.columns:
            for two in itertools.combinations([row for row in table.rows if row.cells[heading.name].score], 2):
                if look.primary_only and not (heading.primary and any(row.strategy == table.baseline for row in two)):
                    continue
                if (estimated := difference(*two, heading)) is not None:
                    found[heading.name, *two] = estimated
                    families[heading.name, *two] = family = family_of(table, heading, two, estimated, declared)
                    if family == "primary" and (test := _decided(look, suite, table, heading, two)):
                        decided[heading.name, *two] = test
    results = {key: Tested(pair, p_value(pair)) for key, pair in found.items()}
    for family in dict.fromkeys(families.values()):
        if family is not None:
            members = {key: found[key] for key in found if families[key] == family and key not in decided}
            tested = correct_family(tables, members, family)[0] if members else {}
            level = look.level if family == "primary" else ALPHA
            results |= {key: replace(test, level=level) for key, test in tested.items()}
    results |= decided
    for table in tables:
        sizes = [result.family for result in results.values() if result.family and not math.isnan(result.p_adjusted)]
        table.comparisons = {family: sizes.count(family) for family in dict.fromkeys(sorted(sizes, reverse=True))}
    return results | {(column, two, one): result.reversed() for (column, one, two), result in results.items()}


def _decided(look: Look, suite: str, table: Table, heading: Heading, pair: tuple[Row, Row]) -> Tested | None:
    """Return a comparison with the baseline as an earlier look decided it, as the first row minus the second."""
    one, two = pair
    if two.strategy == table.baseline:
        return look.decided.get((suite, table.model_id, heading.name, one.label))
    found = look.decided.get((suite, table.model_id, heading.name, two.label))
    return found.reversed() if found else None


def family_of(
    table: Table, heading: Heading, pair: tuple[Row, Row], found: Estimate, declared: Comparisons
) -> Family | None:
    """Return the family of a comparison; None if the rows have too few seeds for a verdict, or the column has none."""
    if not heading.decides:
        return None
    if all(row.checkpoint for row in pair):
        return "pairs"
    if any(row.varies for row in pair) and found.seeds < FEWEST_SEEDS:
        return None
    bases = [row.strategy == table.baseline for row in pair]
    if heading.primary and any(bases):
        other = pair[bases.index(True) - 1].strategy
        return "primary" if not declared.rows or other in declared.rows else "exploratory"
    return "exploratory"


def correct_family(
    tables: Sequence[Table],
    found: Mapping[Pair, Estimate],
    family: Family,
    numbers: Sequence[tuple[Block, Estimate, float]] = (),
) -> tuple[dict[Pair, Tested], list[Tested]]:
    """Test a family of differences between the rows of tables; return their tests, and those of the numbers.

    The family ``pairs`` is corrected by Holm's method, any other by its joint distribution. ``numbers`` are members
    that are no pairs of rows, each with its margin (:func:`numbers_over_seeds`).
    """
    headings = {(heading.name, row): heading for table in tables for heading in table.columns for row in table.rows}
    here = {key: headings[key[:2]] for key in found}
    if family == "pairs":
        p = [p_value(pair) for pair in found.values()]
        return {
            key: Tested(
                pair, alone, family, corrected, margin=here[key].margin, higher_is_better=here[key].higher_is_better,
                detectable=detectable(pair, len(p)),
            )
            for (key, pair), alone, corrected in zip(found.items(), p, adjust(p), strict=True)
        }, []  # fmt: skip
    blocks: list[Block] = []
    places: dict[tuple[str, Row], tuple[int, int, int]] = {}
    for number, table in enumerate(tables):
        rows = sorted((row for row in table.rows if row.compared), key=lambda row: row.label)
        columns = sorted(table.columns, key=lambda heading: heading.name)
        blocks.append(_block(rows, columns))
        places |= {(c.name, row): (number, j, i) for j, c in enumerate(columns) for i, row in enumerate(rows)}
    # The draws depend on the order of the tests, so the order must not depend on that of the rows.
    found_at = {key: (*places[key[0], key[1]], places[key[0], key[2]][2]) for key in found}
    keys = sorted(found, key=found_at.__getitem__)
    contrasts = [Contrast(*found_at[key], found[key]) for key in keys]
    contrasts += [Contrast(len(blocks) + i, 0, 0, 1, estimated) for i, (_, estimated, _) in enumerate(numbers)]
    margins = [here[key].margin for key in keys] + [margin for *_, margin in numbers]
    higher = [here[key].higher_is_better for key in keys] + [True for _ in numbers]
    tested = correct([*blocks, *(block for block, *_ in numbers)], contrasts, margins)
    results = [
        Tested(
            tested.estimates[at], float(tested.p[at]), family, float(tested.adjusted[at]), float(tested.equal[at]),
            margins[at], higher[at], tested.detectable(at),
        )
        for at in range(len(contrasts))
    ]  # fmt: skip
    return dict(zip(keys, results, strict=False)), results[len(keys) :]


def _block(rows: Sequence[Row], columns: Sequence[Heading]) -> Block:
    """Return the scores of rows by seed, and what each cluster of questions contributes to them."""
    seeds = sorted({seed for row in rows if row.varies for seed in row.seeds}) or [0]
    scores = np.full((len(rows), len(columns), len(seeds)), np.nan)
    means: dict[Key, dict[tuple[int, int], tuple[TaskScores, float]]] = {}  # task → (row, column) → scores, share
    for i, row in enumerate(rows):
        for j, heading in enumerate(columns):
            scored = row.scored(heading.name)
            if not scored:
                continue
            held = parts(scored, heading.shares, list(scored))
            by_seed = sum(part.weight * part.scores.mean(axis=1) for part in held)
            for seed, score in zip(scored, by_seed, strict=True):
                scores[i, j, seeds.index(seed) if row.varies else slice(None)] = score
            for key, share in heading.shares.items():
                both = _on_common_questions([one[key] for one in scored.values()])
                mean = replace(both[0], values=np.mean([one.values for one in both], axis=0))
                means.setdefault(key, {})[i, j] = mean, share
    questions = [np.zeros((len(rows), len(columns), 0))]
    for held_by in means.values():
        common = _on_common_questions([one for one, _ in held_by.values()])
        if not len(common[0].values):
            continue
        piece = np.zeros((len(rows), len(columns), int(common[0].clusters.max()) + 1))
        for (place, (_, share)), one in zip(held_by.items(), common, strict=True):
            piece[place] = share * by_cluster(one.values, one.clusters)
        questions.append(piece)
    return Block(scores, np.array([row.varies for row in rows], dtype=bool), np.concatenate(questions, axis=2))


# --- cells --------------------------------------------------------------------------------------------


def show_differences(table: Table, tested: Mapping[Pair, Tested]) -> None:
    """Fill in the difference of each cell to the baseline, and the detectable difference of each column."""
    base = table.base
    if base is None:
        return
    for heading in table.columns:
        effects = []
        for row in table.rows:
            cell = row.cells[heading.name]
            cell.to_base = tested.get((heading.name, row, base))
            if cell.to_base is not None:
                effects.append(cell.to_base.detectable)
            elif row is not base and row.compared and cell.score and base.cells[heading.name].score:
                cell.note = cell.note or f"no difference: no seed in common with {base.label}"
        known = [effect for effect in effects if not math.isnan(effect)]
        heading.detectable = float(np.median(known)) if known else math.nan


def mark_best(table: Table, tested: Mapping[Pair, Tested]) -> None:
    """Mark each column's best score and the scores tied with it; fill in ranks and tied groups.

    A row is tied with the best, or has a rank, only if its pairs have verdicts.
    """
    for heading in table.columns:
        sign = 1 if heading.higher_is_better else -1
        scores = {
            row: sign * found.value for row in table.rows if (found := row.cells[heading.name].score) and row.compared
        }
        if len(scores) < 2:
            continue

        def pair(row: Row, other: Row, column: str = heading.name) -> Tested | None:
            found = tested.get((column, row, other))
            return found if found and not math.isnan(found.p_adjusted) else None

        def differ(row: Row, other: Row) -> bool:
            found = pair(row, other)
            return found is not None and found.significant

        highest = max(scores.values())
        leaders = [row for row, score in scores.items() if math.isclose(score, highest, abs_tol=1e-12)]
        for row in scores:
            cell = row.cells[heading.name]
            cell.best = row in leaders
            against = [test for leader in leaders if (test := pair(row, leader))]
            cell.tied = not cell.best and bool(against) and not all(test.significant for test in against)
        if any(pair(*two) for two in itertools.combinations(scores, 2)):
            for row, ranks in rank_intervals(scores, differ).items():
                row.cells[heading.name].ranks = ranks
            ordered = sorted(scores, key=lambda row: -scores[row])
            heading.groups = [[row.label for row in group] for group in tied_groups(ordered, differ)]
