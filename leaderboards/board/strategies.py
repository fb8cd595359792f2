"""Compare mixing strategies on a board: each one's difference to the baseline, with all training seeds together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.statistics.estimates import FRACTION_DIFFERENCE, UNBOUNDED, Estimate, Part, estimate
from leaderboards.board.pairs import shortened
from leaderboards.board.standings import Standing, Standings, values_of

BASELINE = "uniform"
Data = dict[str, object]
Seeds = dict[int, int]  # seed → position in the standing's rows


def strategy_data(standings: Standings, standing: Standing) -> Iterator[Data]:
    """Yield each model, recipe and owner with its strategies: scores and differences in every column.

    Differences are paired by question and by the seeds that a strategy shares with the baseline.
    """
    groups: dict[tuple[str, str, str], dict[str, Seeds]] = {}
    for at, row in enumerate(standing.rows):
        submission = standings.submission(row)
        if submission.strategy and submission.seed is not None:
            family = (submission.base_model or "", submission.recipe or "", submission.owner or "")
            groups.setdefault(family, {}).setdefault(submission.strategy, {}).setdefault(submission.seed, at)
    for (model, recipe, owner), strategies in sorted(groups.items()):
        if BASELINE in strategies and len(strategies) > 1:
            names = sorted(strategies, key=lambda name: (name != BASELINE, name))
            yield {
                "model": model, "recipe": recipe, "owner": owner, "strategies": names,
                "seeds": [len(strategies[name]) for name in names],
                "shared": [len(strategies[name].keys() & strategies[BASELINE].keys()) for name in names],
                "ids": [[standings.submission(standing.rows[at]).submission_id for at in strategies[name].values()]
                        for name in names],
                "columns": {column: _column(standings, standing, column, [strategies[name] for name in names])
                            for column in standing.columns},
            }  # fmt: skip


def _column(standings: Standings, standing: Standing, column: str, rows: Sequence[Seeds]) -> Data:
    """Return scores and differences of strategies in a column; the first strategy is the baseline."""
    base, fraction = rows[0], standing.columns[column].fraction
    recorded = set(standing.as_recorded(column))
    scores = [_estimate(standings, standing, column, held) for held in rows]
    differences: list[Estimate | None] = []
    for held in rows:
        shared = sorted(held.keys() & base.keys()) if held is not base else []
        differences.append(
            _estimate(standings, standing, column, {s: held[s] for s in shared}, {s: base[s] for s in shared})
            if shared
            else None
        )
    bounds = FRACTION_DIFFERENCE if fraction else UNBOUNDED
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
) -> Estimate:  # fmt: skip
    """Estimate a column's score over seeds, or the difference to the same seeds of ``base``."""
    parts = []
    for key, share in standing.shares[column].items():
        values, others = (
            [values_of(standings.checked[standing.rows[at]], standing.suite.key, key) for at in (held or {}).values()]
            for held in (rows, base)
        )
        scores = np.stack(values) - (np.stack(others) if others else 0.0)
        parts.append(Part(share, scores, standing.clusters.get(key.task, np.arange(scores.shape[1]))))
    return estimate(parts)
