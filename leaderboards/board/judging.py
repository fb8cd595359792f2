"""Recompute a judging in a submission from its judgments, and compare it with what its summary claims."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MoemixError
from harness.recipe_file import parse
from harness.records import JudgeSummary
from harness.submissions import Submission
from leaderboards.board.untrusted import read_lines, read_record
from leaderboards.scores import TOLERANCE


def judgings(submission: Submission, folder: Path) -> Iterator[tuple[str, JudgeSummary]]:
    """Yield the bench and the summary of each finished judging.

    Raises:
        MoemixError: a summary that is not valid.
    """
    for path in sorted(submission.files):
        if path.startswith("judge/") and path.endswith("/summary.json"):
            yield path.split("/")[1], parse(JudgeSummary, read_record(folder / path), where=path)


@dataclass(frozen=True)
class RecomputedJudging:
    """The result of a judging, computed from its judgments.

    Attributes:
        average: mean over the turns of all questions, each the mean of its verdicts; nan without any.
        rows: number of turns that have a verdict.
        outcomes: number of pairs won, lost and tied; None for single answers.
    """

    average: float
    rows: int
    outcomes: tuple[int, int, int] | None = None

    @property
    def win_rate(self) -> float | None:
        """The share of pairs that were won, a tie counting half."""
        if self.outcomes is None or not sum(self.outcomes):
            return None
        win, _, tie = self.outcomes
        return (win + 0.5 * tie) / sum(self.outcomes)


def recompute(folder: Path, model: str, *, pairwise: bool) -> RecomputedJudging:
    """Recompute a model's result from the files ``judgments-<judge>.jsonl`` in ``judge/<bench>/``.

    Raises:
        MoemixError: with file and line, a judgment that is not valid.
    """
    value_of = _pair_value if pairwise else _single_value
    rows: dict[tuple[str, object], list[float]] = {}
    for path in sorted(folder.glob("judgments-*.jsonl")):
        for where, line in read_lines(path):
            value = value_of(line, model, where)
            if value is not None:
                rows.setdefault((str(line.get("question_id")), str(line.get("turn"))), []).append(value)
    means = [math.fsum(values) / len(values) for values in rows.values()]
    every = [value for values in rows.values() for value in values]
    outcomes = (every.count(1.0), every.count(0.0), every.count(0.5)) if pairwise else None
    return RecomputedJudging(math.fsum(means) / len(means) if means else math.nan, len(means), outcomes)


def _single_value(line: dict[str, object], model: str, where: str) -> float | None:
    """Return the score of a single answer, or None if the judgment failed or concerns another model."""
    if line.get("model") != model or line.get("reason"):
        return None
    score = line.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise MoemixError("the score of a verdict is not a number", where=where)
    return float(score)


def _pair_value(line: dict[str, object], model: str, where: str) -> float | None:
    """Return 1 for a pair won, 0 for one lost and ½ for a tie: what both games agree on, as FastChat counts them."""
    if model not in (line.get("model_1"), line.get("model_2")):
        return None
    games = [str(line.get("g1_winner")), str(line.get("g2_winner"))]
    for game in games:
        if game not in ("model_1", "model_2", "tie", "error"):
            raise MoemixError(f"the winner of a game is {game[:40]!r}, expected model_1, model_2, tie or error",
                              where=where)  # fmt: skip
    if "error" in games:
        return None
    if games[0] != games[1] or games[0] == "tie":
        return 0.5
    return 1.0 if line.get(games[0]) == model else 0.0


def contradiction(summary: JudgeSummary, folder: Path) -> str | None:
    """Return where a summary differs from its judgments, or None if it agrees with them."""
    result = recompute(folder, summary.model, pairwise=summary.request.mode == "pairwise")
    claimed = summary.average
    if result.rows != claimed.n:
        return f"there are {result.rows} judged turns, and the summary claims {claimed.n}"
    if result.rows and not _close(result.average, claimed.value):
        return f"the average is {result.average:.6g} by the judgments, {claimed.value or 0.0:.6g} as claimed"
    if result.outcomes is None:
        return None
    outcomes = (summary.win, summary.loss, summary.tie)
    if result.outcomes != outcomes:
        by_judgments, by_summary = ("/".join(map(str, counts)) for counts in (result.outcomes, outcomes))
        return f"pairs won/lost/tied are {by_judgments} by the judgments, {by_summary} as claimed"
    if result.win_rate is not None and not _close(result.win_rate, summary.adjusted_win_rate):
        rate = f"{summary.adjusted_win_rate or 0.0:.6g}"
        return f"the win rate is {result.win_rate:.6g} by the judgments, {rate} as claimed"
    return None


def _close(computed: float, claimed: float | None) -> bool:
    return math.isclose(computed, claimed or 0.0, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
