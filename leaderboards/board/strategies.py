"""Compare mixing strategies on a board: each one's difference to the baseline, with all training seeds together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.records import RunManifest
from harness.schema import parse
from harness.statistics.columns import Key
from harness.statistics.estimates import FRACTION_DIFFERENCE, UNBOUNDED, Estimate, Floats, Ints, Part, estimate
from harness.statistics.families import Verdict, verdict
from harness.statistics.joint import FEWEST_SEEDS, Block, Contrast, by_cluster, correct
from leaderboards.board.pairs import shortened
from leaderboards.board.standings import Standing, Standings, values_of
from leaderboards.board.untrusted import read_record

BASELINE = "uniform"
Data = dict[str, object]
Seeds = dict[int, int]  # seed → position in the standing's rows
Place = tuple[int, int, int]  # group, column and row (strategy), by their positions


def strategy_data(standings: Standings, standing: Standing) -> Iterator[Data]:
    """Yield each model, recipe and owner with its strategies: scores and differences in every column.

    Differences are paired by question and by the seeds that a strategy shares with the baseline. Verdicts are corrected
    for all differences of the suite version together: a board declares no primary columns, as a recipe does.
    """
    found: dict[tuple[str, str, str], dict[str, Seeds]] = {}
    for at, row in enumerate(standing.rows):
        submission = standings.submission(row)
        if submission.strategy and submission.seed is not None:
            family = (submission.base_model or "", submission.recipe or "", submission.owner or "")
            found.setdefault(family, {}).setdefault(submission.strategy, {}).setdefault(submission.seed, at)
    groups = [
        (family, dict(sorted(strategies.items(), key=lambda one: (one[0] != BASELINE, one[0]))))
        for family, strategies in sorted(found.items())
        if BASELINE in strategies and len(strategies) > 1
    ]
    rows = [list(strategies.values()) for _, strategies in groups]
    differences = {
        (g, c, r): one
        for g, held in enumerate(rows)
        for c, column in enumerate(standing.columns)
        for r in range(1, len(held))
        if (one := _difference(standings, standing, column, held[r], held[0])) is not None
    }
    verdicts = _verdicts(standings, standing, rows, differences)
    for g, ((model, recipe, owner), strategies) in enumerate(groups):
        submissions = [[standing.rows[at] for at in held.values()] for held in rows[g]]
        yield {
            "model": model, "recipe": recipe, "owner": owner, "strategies": list(strategies),
            "seeds": [len(held) for held in rows[g]],
            "ids": [[standings.submission(row).submission_id for row in held] for held in submissions],
            "seconds": [_seconds(standings, held) for held in submissions],
            "columns": {
                column: _column(standings, standing, column, rows[g],
                                [differences.get((g, c, r)) for r in range(len(rows[g]))])
                | {"s": [verdicts.get((g, c, r)) for r in range(len(rows[g]))]}
                for c, column in enumerate(standing.columns)
            },
        }  # fmt: skip


def _seconds(standings: Standings, rows: Sequence[int]) -> float | None:
    """Return the mean time of training, with the search for the strategy's options; None if a run does not say it."""
    seconds = []
    for row in rows:
        path = standings.folder(row) / "run.json"
        if "run.json" not in standings.submission(row).files:
            return None
        manifest = parse(RunManifest, read_record(path), where=str(path))
        if manifest.result is None:
            return None
        spent = manifest.config.strategy.spent
        seconds.append(manifest.result.seconds + (spent.seconds if spent else 0.0))
    return round(sum(seconds) / len(seconds), 1)


def _difference(standings: Standings, standing: Standing, column: str, held: Seeds, base: Seeds) -> Estimate | None:
    """Estimate the difference to the baseline over the seeds that both have; None without any."""
    shared = sorted(held.keys() & base.keys())
    if not shared:
        return None
    return _estimate(standings, standing, column, {s: held[s] for s in shared}, {s: base[s] for s in shared})


def _verdicts(
    standings: Standings, standing: Standing, groups: Sequence[Sequence[Seeds]], found: Mapping[Place, Estimate]
) -> dict[Place, Verdict]:
    """Return the verdicts on the differences that have enough seeds."""
    tested = {place: one for place, one in found.items() if one.seeds >= FEWEST_SEEDS and not math.isnan(one.se)}
    if not tested:
        return {}
    numbers = sorted({place[0] for place in tested})
    blocks = [_block(standings, standing, groups[number]) for number in numbers]
    contrasts = [Contrast(numbers.index(g), c, r, 0, one) for (g, c, r), one in tested.items()]
    p = correct(blocks, contrasts, [0.0] * len(contrasts)).adjusted
    better = standing.suite.higher_is_better
    return {place: verdict(one.value, float(adjusted), higher_is_better=better)
            for (place, one), adjusted in zip(tested.items(), p, strict=True)}  # fmt: skip


def _block(standings: Standings, standing: Standing, rows: Sequence[Seeds]) -> Block:
    """Return the scores of strategies by column and seed, and what each cluster of questions contributes to them."""
    seeds, size = sorted({seed for held in rows for seed in held}), (len(rows), len(standing.columns))
    scores = np.full((*size, len(seeds)), np.nan)
    questions: dict[Key, Floats] = {}
    for r, held in enumerate(rows):
        places = [seeds.index(seed) for seed in held]
        for c, column in enumerate(standing.columns):
            scores[r, c, places] = 0.0
            for key, share in standing.shares[column].items():
                values = _scores(standings, standing, key, held)
                clusters = _clusters(standing, key, values)
                scores[r, c, places] += share * values.mean(axis=1)
                piece = questions.setdefault(key, np.zeros((*size, int(clusters.max()) + 1)))
                piece[r, c] = share * by_cluster(values.mean(axis=0), clusters)
    return Block(scores, np.ones(len(rows), dtype=bool), np.concatenate(list(questions.values()), axis=2))


def _scores(standings: Standings, standing: Standing, key: Key, held: Seeds) -> Floats:
    """Return the scores f64[S, n] of a strategy's seeds in a task result."""
    return np.stack([values_of(standings.checked[standing.rows[at]], standing.suite.key, key) for at in held.values()])


def _clusters(standing: Standing, key: Key, scores: Floats) -> Ints:
    return standing.clusters.get(key.task, np.arange(scores.shape[1]))


def _column(
    standings: Standings, standing: Standing, column: str, rows: Sequence[Seeds],
    differences: Sequence[Estimate | None],
) -> Data:  # fmt: skip
    """Return scores and differences of strategies in a column."""
    recorded = set(standing.as_recorded(column))
    scores = [_estimate(standings, standing, column, held) for held in rows]
    bounds = FRACTION_DIFFERENCE if standing.columns[column].fraction else UNBOUNDED
    ends = [found.interval(bounds) if found else (np.nan, np.nan) for found in differences]
    return {
        "v": shortened(np.array([found.value for found in scores])),
        "r": [not recorded.isdisjoint(held.values()) for held in rows],
        "d": shortened(np.array([found.value if found else np.nan for found in differences])),
        "l": shortened(np.array([low for low, _ in ends])),
        "u": shortened(np.array([high for _, high in ends])),
    }


def _estimate(
    standings: Standings, standing: Standing, column: str, rows: Seeds, base: Seeds | None = None
) -> Estimate:
    """Estimate a column's score over seeds, or the difference to the same seeds of ``base``."""
    parts = []
    for key, share in standing.shares[column].items():
        scores = _scores(standings, standing, key, rows)
        if base is not None:
            scores = scores - _scores(standings, standing, key, base)
        parts.append(Part(share, scores, _clusters(standing, key, scores)))
    return estimate(parts)
