"""What a judging in a submission says, and its average again from the judgments."""

from __future__ import annotations

import math
from collections.abc import Iterator
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


def judged_average(folder: Path, model: str) -> tuple[float, int]:
    """The mean over the turns of all questions, each the mean of its verdicts; and how many turns have one.

    Args:
        folder: ``judge/<bench>/`` with the ``judgments-<judge>.jsonl`` of single-answer grading.
    """
    rows: dict[tuple[Any, Any], list[float]] = {}
    for path in sorted(folder.glob("judgments-*.jsonl")):
        for where, line in read_lines(path):
            if line.get("model") != model or line.get("reason"):
                continue
            score = line.get("score")
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise MoemixError("a verdict's score is not a number", where=where)
            rows.setdefault((str(line.get("question_id")), line.get("turn")), []).append(float(score))
    means = [math.fsum(held) / len(held) for held in rows.values()]
    return (math.fsum(means) / len(means) if means else math.nan), len(means)


def contradiction(summary: JudgeSummary, folder: Path) -> str | None:
    """Where the summary's average is not that of its judgments; None if it is, or if pairs were compared."""
    if summary.request.mode != "single":
        return None
    value, rows = judged_average(folder, summary.model)
    claimed = summary.average
    if rows != claimed.n:
        return f"{rows} judged turns where the summary says {claimed.n}"
    if rows and not math.isclose(value, claimed.value or 0.0, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        return f"the average is {value:.6g} by the judgments, {claimed.value or 0.0:.6g} as claimed"
    return None
