"""Rank a board's verified submissions: current ones by their scores; superseded and withdrawn ones as history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.statistics.columns import Key, column_weights
from harness.statistics.ranking import RankedColumn, Ranking, TaskMatrix, rank
from leaderboards.board.checked import Checked
from leaderboards.board.folder import BoardFolder
from leaderboards.board.submissions import BoardEntry, PinnedSuite, ShownScore, Submission

UNCONFIRMED = "†"  # marks a score that nothing here confirms
Status = Literal["current", "superseded", "withdrawn"]


@dataclass
class Standing:
    """One suite version with the current submissions that were evaluated on it.

    Attributes:
        rows: positions in :attr:`Standings.checked` of these submissions. Everything that a ranking says of row i is
            about ``rows[i]``.
        keys: task results, in the order of the packed score vectors.
        shares: column → task result → its weight.
        ranking: scores with intervals of columns and tasks; ranks and verdicts in columns. Empty without submissions.
        clusters: task → i64[n], the cluster of each question, for tasks in which some questions share a cluster.
        unconfirmed: task result → positions in ``rows`` whose score nothing here confirms (its programs were not run).
    """

    suite: PinnedSuite
    rows: list[int]
    keys: list[Key]
    shares: dict[str, dict[Key, float]]
    ranking: Ranking[Key] = field(default_factory=lambda: Ranking({}, {}, 0, {}, {}))
    clusters: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    unconfirmed: dict[Key, list[int]] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, RankedColumn]:
        """The ranked columns by name."""
        return self.ranking.columns

    def title(self, column: str) -> str:
        """Return what tables call a column."""
        return self.suite.columns[column].title or column

    def questions(self, column: str) -> int:
        """Return the number of questions behind a column."""
        return sum(self.suite.tasks[key.task].questions for key in self.shares[column])

    def as_recorded(self, column: str) -> list[int]:
        """Return the positions in ``rows`` whose score in a column is, in part, as recorded and not confirmed here."""
        return sorted({at for key in self.shares[column] for at in self.unconfirmed.get(key, ())})

    def order(self, column: str | None = None) -> list[int]:
        """Return the positions in ``rows``, best score first, by a column or else by the suite's main column."""
        if not self.rows:
            return []
        values = self.columns[column or self.suite.main].values
        order: list[int] = np.argsort(-values if self.suite.higher_is_better else values, kind="stable").tolist()
        return order


@dataclass
class Standings:
    """A board's verified submissions and their places.

    Attributes:
        status: status of each submission with a note that says what superseded it, or why it was withdrawn.
        refused: submissions that failed a check, with the first reason; they are not shown.
    """

    board: BoardFolder
    checked: list[Checked]
    status: list[tuple[Status, str]]
    suites: list[Standing]
    refused: dict[str, str]

    def submission(self, row: int) -> Submission:
        """Return a submission by its position in ``checked``."""
        found = self.checked[row].submission
        assert found is not None
        return found

    def folder(self, row: int) -> Path:
        """Return a submission's folder by its position in ``checked``."""
        return self.board.path / "submissions" / self.checked[row].label

    def entries(self) -> list[BoardEntry]:
        """Return every submission as it is shown, in the order of ``checked``."""
        scores: list[dict[str, dict[str, ShownScore]]] = [{} for _ in self.checked]
        for standing in self.suites:
            for name, ranked in standing.columns.items():
                n = standing.questions(name)
                recorded = set(standing.as_recorded(name))
                for position, row in enumerate(standing.rows):
                    shown = _shown(ranked, position, n, position in recorded)
                    scores[row].setdefault(standing.suite.key, {})[name] = shown
        return [
            BoardEntry.model_construct(
                submission=self.submission(row), status=self.status[row][0], note=self.status[row][1],
                arrived=_arrived(self.checked[row]),
                badges=badges(self.checked[row]), scores=scores[row], verdicts=self.checked[row].verdicts,
            )
            for row in range(len(self.checked))
        ]  # fmt: skip


def rank_submissions(board: BoardFolder, found: Sequence[Checked]) -> Standings:
    """Rank the submissions that passed their checks."""
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
    """Return each submission's status; only a submission that is not withdrawn supersedes one of the same model."""
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
    keys = list(dict.fromkeys(key for weights in shares.values() for key in weights))
    standing = Standing(suite, rows, keys, shares)
    if not rows:
        return standing
    shared = checked[rows[0]].repeats.get(suite.key, {})
    standing.clusters = {task: np.array(clusters) for task, clusters in shared.items()}
    tasks = {}
    for key in keys:
        clusters = standing.clusters.get(key.task, np.arange(suite.tasks[key.task].questions))
        tasks[key] = TaskMatrix(np.stack([values_of(checked[row], suite.key, key) for row in rows]), clusters)
    for at, row in enumerate(rows):
        for evaluated, *result in checked[row].as_recorded:
            if evaluated == suite.key:
                standing.unconfirmed.setdefault(Key(*result), []).append(at)
    standing.ranking = rank(tasks, shares, higher_is_better=suite.higher_is_better)
    return standing


def values_of(checked: Checked, suite: str, key: Key) -> NDArray[np.float64]:
    """Return the scores f64[n] of a submission in a task result."""
    return next(vector.values for vector in checked.vectors[suite] if vector.key == key)


def suite_shares(suite: PinnedSuite) -> dict[str, dict[Key, float]]:
    """Return column → weight of each task result, by the pins alone; columns that contain themselves are left out."""
    shares = {}
    for name in suite.columns:
        try:
            shares[name] = column_weights(suite.columns, name, lambda key: suite.tasks[key.task].questions)
        except MoemixError:
            continue
    return shares


def badges(checked: Checked) -> tuple[str, ...]:
    """Return what was confirmed of a submission beyond its texts."""
    return tuple(badge for badge, check in (("executed", "execution"), ("replayed", "replay"))
                 if checked.outcome(check) == "pass")  # fmt: skip


def _arrived(checked: Checked) -> str:
    assert checked.submission is not None
    return checked.arrived or checked.submission.created


def day(checked: Checked) -> str:
    """Return the day on which a submission came into the repository; before that, the day that it states."""
    return _arrived(checked)[:10]


def _shown(ranked: RankedColumn, position: int, n: int, as_recorded: bool) -> ShownScore:
    numbers = (ranked.values, ranked.se, ranked.lower, ranked.upper)
    value, *error = (float(array[position]) for array in numbers)
    stderr, lower, upper = error if math.isfinite(error[0]) else (None, None, None)
    return ShownScore.model_construct(
        value=value, stderr=stderr, lower=lower, upper=upper, n=n,
        rank=int(ranked.best[position]), rank_worst=int(ranked.worst[position]),
        as_recorded=as_recorded,
    )  # fmt: skip


def rank_text(column: RankedColumn, position: int) -> str:
    """Return a rank interval as a reader sees it: ``3`` or ``3–7``."""
    best, worst = int(column.best[position]), int(column.worst[position])
    return f"{best}" if best == worst else f"{best}–{worst}"
