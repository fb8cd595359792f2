"""Check judgings, and compute what is shown of them from their judgments alone.

A board shows a judging only if it pins one of the same bench: its questions, its judge, its prompts. Every turn of
every question must then have a judgment. The judge itself is not asked again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.errors import MoemixError
from harness.files import hash_value
from harness.judging import CONVERSATIONS, JudgeSummary
from harness.schema import parse
from harness.statistics.clusters import number_clusters
from harness.statistics.estimates import Part, estimate
from leaderboards.board.submissions import PinnedJudging, Rules, ShownJudging, Submission
from leaderboards.board.untrusted import read_lines, read_record
from leaderboards.conversations import read_conversations
from leaderboards.scores import TOLERANCE

FAILED = 0.05  # share of turns that may be without a verdict, besides those of the pinned judging
_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
Row = tuple[str, str]  # question and turn


def judgings(submission: Submission, folder: Path) -> Iterator[tuple[str, JudgeSummary]]:
    """Yield the bench and the summary of each finished judging.

    Raises:
        MoemixError: a summary that is not valid.
    """
    for path in sorted(submission.files):
        if path.startswith("judge/") and path.endswith("/summary.json"):
            yield path.split("/")[1], parse(JudgeSummary, read_record(folder / path), where=path)


def pin_judging(folder: Path) -> PinnedJudging:
    """Return the pins that a finished judging stands for."""
    summary = parse(JudgeSummary, read_record(folder / "summary.json"), where=str(folder / "summary.json"))
    return _pins(summary, recompute(folder, summary))


def _pins(summary: JudgeSummary, found: RecomputedJudging) -> PinnedJudging:
    names = ("bench_hash", "mode", "baseline", "protocol", "protocol_hash", "repeats", "temperature")
    rows = sorted((*row, found.categories[row]) for row in found.asked)
    return PinnedJudging(
        title=summary.title, rows=max(1, len(rows)), failed=len(rows) - len(found.rows), row_hash=hash_value(rows),
        judges=tuple(sorted(found.judges)), tested=summary.tested,
        **{name: getattr(summary.request, name) for name in names},
    )  # fmt: skip


def check_judging(
    rules: Rules, submission: Submission, bench: str, summary: JudgeSummary, folder: Path
) -> tuple[list[str], ShownJudging | None]:
    """Return what is wrong with a judging, and what is shown of it: nothing where the board does not pin it.

    Raises:
        MoemixError: with file and line, a judgment or a conversation that is not valid.
    """
    found = recompute(folder, summary)
    faults = [text for text in (_contradiction(summary, found),) if text]
    if summary.checkpoint_hash not in (None, submission.checkpoint_hash):
        faults.append(f"the answers are of another checkpoint ({str(summary.checkpoint_hash)[:12]})")
    pinned = rules.judgings.get(bench)
    if pinned is None or faults:
        return faults, None
    if difference := pinned.mismatch(_pins(summary, found)):
        return [f"not the judging that the board pins: {difference}"], None
    failed = len(found.asked) - len(found.rows)
    if failed > pinned.failed + FAILED * pinned.rows:
        return [f"{failed} of {pinned.rows} turns have no verdict, {pinned.failed} in the pinned judging"], None
    if f"judge/{bench}/{CONVERSATIONS}" in submission.files:
        read_conversations(folder, summary.model, read_lines)
    return [], found.shown(summary.title, pinned)


@dataclass
class RecomputedJudging:
    """The result of a judging, computed from its judgments.

    Attributes:
        asked: turns of questions that were judged, with or without a verdict.
        rows: turn → its verdicts, each with the weight of its judge.
    """

    pairwise: bool
    asked: set[Row] = field(default_factory=set)
    rows: dict[Row, list[tuple[float, float]]] = field(default_factory=dict)
    categories: dict[Row, str] = field(default_factory=dict)
    judges: set[str] = field(default_factory=set)

    @property
    def average(self) -> float:
        """The mean over the turns of all questions, each the weighted mean of its verdicts; nan without any."""
        return float(np.mean([_mean(verdicts) for verdicts in self.rows.values()])) if self.rows else math.nan

    @property
    def outcomes(self) -> tuple[int, int, int] | None:
        """The numbers of pairs won, lost and tied; None for single answers."""
        every = [value for verdicts in self.rows.values() for value, _ in verdicts]
        counts = (sum(v > 0.5 for v in every), sum(v < 0.5 for v in every), every.count(0.5))
        return counts if self.pairwise else None

    def shown(self, title: str, pinned: PinnedJudging) -> ShownJudging:
        """Return average and categories with their standard errors, clustered by question, and what the judges are."""
        scores = [self._score("average", list(self.rows))]
        for category in sorted(set(self.categories.values())):
            scores.append(self._score(category, [row for row in self.rows if self.categories[row] == category]))
        tested = {name: f" ({test.figure(pinned.mode)} on known answers)" for name, test in pinned.tested.items()}
        untested = "" if pinned.protocol == "reference" else " (not tested on known answers)"
        judges = (f"{judge}{tested.get(judge.split(' (weight ')[0], untested)}" for judge in sorted(self.judges))
        return ShownJudging(title=title, judges=tuple(judges), scores=tuple(scores))

    def _score(self, name: str, rows: list[Row]) -> tuple[str, float | None, float | None, int]:
        if not rows:
            return name, None, None, 0
        values = np.array([[_mean(self.rows[row]) for row in rows]])
        found = estimate([Part(1.0, values, number_clusters(question for question, _ in rows))])
        return name, found.value, None if math.isnan(found.se) else found.se, len(rows)


def recompute(folder: Path, summary: JudgeSummary) -> RecomputedJudging:
    """Read a model's judgments, the files ``judgments-<judge>.jsonl`` in ``judge/<bench>/``.

    Raises:
        MoemixError: with file and line, a judgment that is not valid.
    """
    found = RecomputedJudging(summary.request.mode == "pairwise")
    weights = {judge.name: judge.weight for judge in summary.request.judges}
    for path in sorted(folder.glob("judgments-*.jsonl")):
        for where, line in read_lines(path):
            names = (line.get("model_1"), line.get("model_2")) if found.pairwise else (line.get("model"),)
            if summary.model not in names:
                continue
            row = (str(line.get("question_id"))[:80], str(line.get("turn"))[:20])
            found.asked.add(row)
            found.categories[row] = str(line.get("category"))[:80]
            judge = line.get("judge")
            name = str(judge[0] if isinstance(judge, list) and judge else judge)
            weight = weights.get(name, 1.0)
            found.judges.add(name[:120] if weight == 1 else f"{name[:100]} (weight {weight:g})")
            value = _pair_value(line, summary.model, where) if found.pairwise else _single_value(line, summary, where)
            if value is not None:
                found.rows.setdefault(row, []).append((value, weight))
    return found


def _mean(verdicts: list[tuple[float, float]]) -> float:
    return float(np.average([value for value, _ in verdicts], weights=[weight for _, weight in verdicts]))


def _single_value(line: dict[str, object], summary: JudgeSummary, where: str) -> float | None:
    """Return the score of a single answer, or None if the judgment failed."""
    if line.get("reason"):
        return None
    score = line.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise MoemixError("the score of a verdict is not a number", where=where)
    low, high = (0.0, 1.0) if summary.request.protocol == "reference" else (1.0, 10.0)
    if not low <= score <= high:
        raise MoemixError(f"the score {score:g} is not between {low:g} and {high:g}", where=where)
    said = _RATING.search(str(line.get("judgment"))) if summary.request.protocol == "faithful" else None
    if said is not None and float(said[1]) != score:
        raise MoemixError(f"the judgment says {said[1]}, and the score is {score:g}", where=where)
    return float(score)


def _pair_value(line: dict[str, object], model: str, where: str) -> float | None:
    """Return 1 for a pair won, 0 for one lost and ½ for a tie: what both games agree on, as FastChat counts them."""
    games = [str(line.get("g1_winner")), str(line.get("g2_winner"))]
    for game in games:
        if game not in ("model_1", "model_2", "tie", "error"):
            raise MoemixError(f"the winner of a game is {game[:40]!r}, expected model_1, model_2, tie or error",
                              where=where)  # fmt: skip
    if "error" in games:
        return None
    stated = line.get("preference")
    if isinstance(stated, float) and 0 <= stated <= 1:  # AlpacaEval's judges state one in place of a winner
        return stated if line.get("model_1") == model else 1 - stated
    if games[0] != games[1] or games[0] == "tie":
        return 0.5
    return 1.0 if line.get(games[0]) == model else 0.0


def _contradiction(summary: JudgeSummary, found: RecomputedJudging) -> str | None:
    """Return where a summary differs from its judgments, or None if it agrees with them."""
    claimed = summary.average
    if len(found.rows) != claimed.n:
        return f"there are {len(found.rows)} judged turns, and the summary claims {claimed.n}"
    if found.rows and not _close(found.average, claimed.value):
        return f"the average is {found.average:.6g} by the judgments, {claimed.value or 0.0:.6g} as claimed"
    if found.outcomes is None:
        return None
    outcomes = (summary.win, summary.loss, summary.tie)
    if found.outcomes != outcomes:
        by_judgments, by_summary = ("/".join(map(str, counts)) for counts in (found.outcomes, outcomes))
        return f"pairs won/lost/tied are {by_judgments} by the judgments, {by_summary} as claimed"
    win, _, tie = found.outcomes
    rate = (win + 0.5 * tie) / sum(found.outcomes) if sum(found.outcomes) else None
    if rate is not None and not _close(rate, summary.adjusted_win_rate):
        claimed_rate = f"{summary.adjusted_win_rate or 0.0:.6g}"
        return f"the win rate is {rate:.6g} by the judgments, {claimed_rate} as claimed"
    return None


def _close(computed: float, claimed: float | None) -> bool:
    return math.isclose(computed, claimed or 0.0, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
