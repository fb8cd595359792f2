"""What a judging in a submission says, and its average again from the judgments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MoemixError
from harness.recipe_file import parse
from harness.records import JudgeSummary
from harness.submissions import Submission
from leaderboards.board.untrusted import read_lines, read_record
from leaderboards.scores import TOLERANCE


def judgings(submission: Submission, folder: Path) -> Iterator[tuple[str, JudgeSummary]]:
    """Bench and summary of each finished judging.

    Raises:
        MoemixError: a summary that is none.
    """
    for path in sorted(submission.files):
        if path.startswith("judge/") and path.endswith("/summary.json"):
            yield path.split("/")[1], parse(JudgeSummary, read_record(folder / path), where=path)


@dataclass(frozen=True)
class Again:
    """A judging computed again from its judgments.

    Attributes:
        average: the mean over the turns of all questions, each the mean of its verdicts; nan without any.
        rows: how many turns have a verdict.
        outcomes: pairs won, lost and tied; None for single answers.
    """

    average: float
    rows: int
    outcomes: tuple[int, int, int] | None = None

    @property
    def win_rate(self) -> float | None:
        """Wins and half of the ties among the pairs."""
        if self.outcomes is None or not sum(self.outcomes):
            return None
        win, _, tie = self.outcomes
        return (win + 0.5 * tie) / sum(self.outcomes)


def judged_again(folder: Path, model: str, *, pairwise: bool) -> Again:
    """What ``judgments-<judge>.jsonl`` say of a model.

    Args:
        folder: ``judge/<bench>/``.
    """
    rows: dict[tuple[Any, Any], list[float]] = {}
    for path in sorted(folder.glob("judgments-*.jsonl")):
        for where, line in read_lines(path):
            value = _pair_value(line, model, where) if pairwise else _single_value(line, model, where)
            if value is not None:
                rows.setdefault((str(line.get("question_id")), line.get("turn")), []).append(value)
    means = [math.fsum(held) / len(held) for held in rows.values()]
    every = [value for held in rows.values() for value in held]
    outcomes = (every.count(1.0), every.count(0.0), every.count(0.5)) if pairwise else None
    return Again(math.fsum(means) / len(means) if means else math.nan, len(means), outcomes)


def _single_value(line: dict[str, Any], model: str, where: str) -> float | None:
    if line.get("model") != model or line.get("reason"):
        return None
    score = line.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise MoemixError("a verdict's score is not a number", where=where)
    return float(score)


def _pair_value(line: dict[str, Any], model: str, where: str) -> float | None:
    """1 for a pair won, 0 for one lost, ½ for a tie: what both games agree on, as FastChat counts them."""
    if model not in (line.get("model_1"), line.get("model_2")):
        return None
    games = (line.get("g1_winner"), line.get("g2_winner"))
    for game in games:
        if game not in ("model_1", "model_2", "tie", "error"):
            raise MoemixError(f"a game was won by {str(game)[:40]!r}", where=where)
    if "error" in games:
        return None
    if games[0] != games[1] or games[0] == "tie":
        return 0.5
    return 1.0 if line.get(str(games[0])) == model else 0.0


def contradiction(summary: JudgeSummary, folder: Path) -> str | None:
    """Where the summary is not that of its judgments; None if it is."""
    again = judged_again(folder, summary.model, pairwise=summary.request.mode == "pairwise")
    claimed = summary.average
    if again.rows != claimed.n:
        return f"{again.rows} judged turns where the summary says {claimed.n}"
    if again.rows and not _alike(again.average, claimed.value):
        return f"the average is {again.average:.6g} by the judgments, {claimed.value or 0.0:.6g} as claimed"
    if again.outcomes is None:
        return None
    if again.outcomes != (summary.win, summary.loss, summary.tie):
        told = "/".join(map(str, (summary.win, summary.loss, summary.tie)))
        return f"pairs won/lost/tied are {'/'.join(map(str, again.outcomes))} by the judgments, {told} as claimed"
    if again.win_rate is not None and not _alike(again.win_rate, summary.adjusted_win_rate):
        told = f"{summary.adjusted_win_rate or 0.0:.6g}"
        return f"the win rate is {again.win_rate:.6g} by the judgments, {told} as claimed"
    return None


def _alike(computed: float, claimed: float | None) -> bool:
    return math.isclose(computed, claimed or 0.0, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
