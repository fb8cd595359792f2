"""From verified submissions to what a board shows: current ones ranked, superseded and withdrawn ones as history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.submissions import BoardEntry, PinnedSuite, ShownScore, Submission
from leaderboards.board.folder import BoardFolder
from leaderboards.board.ranking import Part, Ranked, rank
from leaderboards.board.verify import Checked
from leaderboards.scores import Key

Status = Literal["current", "superseded", "withdrawn"]


@dataclass
class Standing:
    """One suite version with the submissions that were evaluated on it.

    Attributes:
        rows: positions in :attr:`Standings.checked` of the current submissions.
        keys: what scores stand on, in the order of the packed vectors.
        shares: column → result → how much it counts.
        columns: column → scores and ranks, in the order of ``rows``.
        tasks: result → mean and standard error of each row.
        fractions: results of which every score lies in [0, 1]; their intervals end there too.
        clusters: task → cluster of each question, where some share a passage or are the same.
    """

    suite: PinnedSuite
    rows: list[int]
    keys: list[Key]
    shares: dict[str, dict[Key, float]]
    columns: dict[str, Ranked] = field(default_factory=dict)
    tasks: dict[Key, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    clusters: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    fractions: set[Key] = field(default_factory=set)


@dataclass
class Standings:
    """A board's verified submissions and how they stand.

    Attributes:
        status: of each submission: current, superseded or withdrawn; with a note that says by what or why.
        refused: submissions that fail their checks, with the first reason; they are not shown.
    """

    board: BoardFolder
    checked: list[Checked]
    status: list[tuple[Status, str]]
    suites: list[Standing]
    refused: dict[str, str]

    def submission(self, row: int) -> Submission:
        found = self.checked[row].submission
        assert found is not None
        return found

    def entries(self) -> list[BoardEntry]:
        """Every submission as it is shown, in the order of ``checked``."""
        scores: list[dict[str, dict[str, ShownScore]]] = [{} for _ in self.checked]
        for standing in self.suites:
            counts = {name: _count(standing, name) for name in standing.columns}
            fractions = {name: standing.fractions >= standing.shares[name].keys() for name in standing.columns}
            for name, ranked in standing.columns.items():
                for position, row in enumerate(standing.rows):
                    shown = _shown(ranked, position, counts[name], fraction=fractions[name])
                    scores[row].setdefault(standing.suite.key, {})[name] = shown
        return [
            BoardEntry.model_construct(
                submission=self.submission(row), status=self.status[row][0], note=self.status[row][1],
                scores=scores[row], verdicts=self.checked[row].verdicts,
            )
            for row in range(len(self.checked))
        ]  # fmt: skip


def stand(board: BoardFolder, found: Sequence[Checked]) -> Standings:
    """Rank what passed its checks."""
    refused = {c.label: next(f"{v.check}: {v.detail}" for v in c.verdicts if v.verdict == "fail")
               for c in found if c.failed}  # fmt: skip
    checked = [c for c in found if not c.failed and c.submission is not None]
    status = _status(checked)
    suites = []
    for suite in board.board.suites:
        rows = [i for i, c in enumerate(checked) if status[i][0] == "current" and suite.key in c.vectors]
        suites.append(_standing(suite, checked, rows))
    return Standings(board, checked, status, suites, refused)


def _status(checked: Sequence[Checked]) -> list[tuple[Status, str]]:
    """A submission is superseded by one of the same model's that is itself not withdrawn."""
    after = {}
    for c in checked:
        if c.submission and c.submission.supersedes and c.withdrawn is None:
            after[c.submission.model, c.submission.supersedes] = c.submission.submission_id
    status: list[tuple[Status, str]] = []
    for c in checked:
        assert c.submission is not None
        later = after.get((c.submission.model, c.submission.submission_id))
        if c.withdrawn is not None:
            status.append(("withdrawn", f"{c.withdrawn.date[:10]}: {c.withdrawn.reason}"))
        else:
            status.append(("superseded", f"by {later}") if later else ("current", ""))
    return status


def _standing(suite: PinnedSuite, checked: Sequence[Checked], rows: list[int]) -> Standing:
    shares = suite_shares(suite)
    keys = list(dict.fromkeys(key for held in shares.values() for key in held))
    standing = Standing(suite, rows, keys, shares)
    if not rows:
        return standing
    scores = {key: np.stack([_values(checked[row], suite.key, key) for row in rows]) for key in keys}
    repeats = checked[rows[0]].repeats.get(suite.key, {})
    standing.clusters = {task: np.array(clusters) for task, clusters in repeats.items()}
    for name, held in shares.items():
        parts = [Part(share, scores[key], _clusters(standing, key)) for key, share in held.items()]
        standing.columns[name] = rank(parts, higher_is_better=suite.higher_is_better)
    for key in keys:
        values = scores[key]
        if values.min() >= 0 and values.max() <= 1:
            standing.fractions.add(key)
        spread = values.std(axis=1, ddof=1) if values.shape[1] > 1 else np.full(len(values), np.nan)
        standing.tasks[key] = (values.mean(axis=1), spread / math.sqrt(values.shape[1]))
    return standing


def _clusters(standing: Standing, key: Key) -> NDArray[np.int64]:
    return standing.clusters.get(key.task, np.arange(standing.suite.tasks[key.task].questions))


def _values(checked: Checked, suite: str, key: Key) -> NDArray[np.float64]:
    return next(vector.values for vector in checked.vectors[suite] if vector.key == key)


def suite_shares(suite: PinnedSuite) -> dict[str, dict[Key, float]]:
    """Column → how much each result counts in it, by the pins alone."""
    shares: dict[str, dict[Key, float]] = {}
    waiting = dict(suite.columns)
    while waiting:
        ready = [name for name, column in waiting.items() if all(part in shares for part in column.columns)]
        for name in ready:
            column = waiting.pop(name)
            if column.tasks:
                sizes = [suite.tasks[t].questions if column.aggregation == "micro" else 1 for t in column.tasks]
                shares[name] = {
                    Key(task, column.metric or "", column.filter): size / sum(sizes)
                    for task, size in zip(column.tasks, sizes, strict=True)
                }
                continue
            merged: dict[Key, float] = {}
            for part in column.columns:
                for key, share in shares[part].items():
                    merged[key] = merged.get(key, 0.0) + share / len(column.columns)
            shares[name] = merged
        if not ready:
            break  # pins that name each other in a ring: such columns have no meaning and are not shown
    return {name: shares[name] for name in suite.columns if name in shares}


def _count(standing: Standing, column: str) -> int:
    return sum(standing.suite.tasks[key.task].questions for key in standing.shares[column])


def _shown(ranked: Ranked, position: int, n: int, *, fraction: bool) -> ShownScore:
    value, se, half = (float(a[position]) for a in (ranked.values, ranked.se, ranked.half))
    known = math.isfinite(se)
    lower, upper = (max(value - half, 0.0), min(value + half, 1.0)) if fraction else (value - half, value + half)
    return ShownScore.model_construct(
        value=value, stderr=se if known else None, lower=lower if known else None,
        upper=upper if known else None, n=n,
        rank=int(ranked.best[position]), rank_worst=int(ranked.worst[position]),
    )  # fmt: skip


def ordered(standing: Standing, column: str | None = None) -> list[int]:
    """Positions in a standing's rows, best score first."""
    if not standing.rows:
        return []
    values = standing.columns[column or standing.suite.main].values
    return [int(i) for i in np.argsort(-values if standing.suite.higher_is_better else values, kind="stable")]


def newest(standings: Standings) -> Mapping[str, Standing]:
    """Suite name → its newest version's standing."""
    return {standing.suite.name: standing for standing in standings.suites}
