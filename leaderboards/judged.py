"""Add a run's judging to its evaluation as a column, with score vectors clustered by question."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.errors import MoemixError
from harness.files import hash_value, read_jsonl
from harness.judging import JudgeSummary
from harness.records import Column, EvalResult
from harness.statistics.clusters import number_clusters
from harness.statistics.columns import Key
from leaderboards.scores import Evaluation, TaskScores

METRIC = "score"
PREFIX = "judge:"  # begins the name of a judging's column


@dataclass(frozen=True)
class JudgedRow:
    """A turn of a question with its score, None if every judgment of it failed."""

    question: int | str
    turn: int
    category: str
    score: float | None


def read_rows(folder: Path, model: str) -> list[JudgedRow]:
    """Read the rows of a model in ``scores.jsonl``, in the bench's order.

    Raises:
        MoemixError: with file and line, if a line is not a score.
    """
    path = folder / "scores.jsonl"
    if not path.is_file():
        raise MoemixError("the scores of a judging are missing", where=str(path))
    rows = []
    for number, line in enumerate(read_jsonl(path), 1):
        try:
            if line["model"] == model:
                score = None if line["score"] is None else float(line["score"])
                rows.append(JudgedRow(line["question_id"], int(line["turn"]), str(line["category"]), score))
        except (KeyError, TypeError, ValueError) as error:
            raise MoemixError(f"not a score of a judging: {error!r}", where=f"{path}:{number}") from None
    return rows


def with_judging(evaluation: Evaluation, folder: Path) -> tuple[Evaluation, list[str]]:
    """Return the evaluation with a judging's column, and notes for readers of the row (flags, failures).

    Raises:
        MoemixError: scores that contradict the summary.
    """
    summary = JudgeSummary.read(folder / "summary.json")
    record = evaluation.summary
    if summary.checkpoint_hash and summary.checkpoint_hash != record.checkpoint_hash:
        return evaluation, [f"judge/{folder.name} is of another checkpoint; judge it again"]
    scored = [(number, row) for number, row in enumerate(read_rows(folder, summary.model)) if row.score is not None]
    values = np.array([row.score for _, row in scored], dtype=np.float64)
    value, recorded = (float(values.mean()) if scored else None), summary.average.value
    if (value is None) != (recorded is None) or abs((value or 0.0) - (recorded or 0.0)) > 1e-6:
        raise MoemixError(
            f"the average is {value} by the scores and {recorded} by the summary", where=str(folder / "summary.json")
        )
    name = f"{PREFIX}{Path(summary.request.bench).stem}"
    clusters = number_clusters(str(row.question) for _, row in scored)
    questions = tuple((number, f"{row.question}/{row.turn}") for number, row in scored)
    scores = TaskScores(questions, values, clusters, folder / "scores.jsonl", complete=False)
    error = summary.average.stderr
    result = EvalResult(
        task=name, metric=METRIC, value=value, stderr=error, n=len(scored), shots=0, task_version=_judges(summary),
        prompt_hash=hash_value(_conditions(summary)),
    )  # fmt: skip
    column = Column(value=value, stderr=error, n=len(scored), tasks=(name,), metric=METRIC, title=_title(summary),
                    note=_trust(summary), decides=summary.qualified)  # fmt: skip
    joined = record.model_copy(
        update={"results": (*record.results, result), "columns": {**record.columns, name: column}}
    )
    samples = {**evaluation.samples, Key(name, METRIC, "none"): scores}
    remarks = [f"{summary.title}: {note}" for note in summary.notes if note.startswith("flagged") or "failed" in note]
    return replace(evaluation, summary=joined, samples=samples), remarks


def _title(summary: JudgeSummary) -> str:
    """Return the column's heading, with the names of the judges unless a reference graded."""
    if summary.request.protocol == "reference":
        return summary.title
    return f"{summary.title} ({', '.join(judge.name for judge in summary.request.judges)})"


def _trust(summary: JudgeSummary) -> str | None:
    """Say how often the judges are right where the right verdict is known; None for a fixed rule."""
    if summary.request.protocol == "reference":
        return None
    mode, texts = summary.request.mode, []
    for judge in summary.request.judges:
        tested = summary.tested.get(judge.name)
        if tested is None:
            texts.append(f"{judge.name} was not tested on known answers (`moemix judge qualify`)")
            continue
        what = f"{'' if tested.of(mode) else 'NOT '}qualified for {'pairs' if mode == 'pairwise' else 'scores'}"
        texts.append(f"{judge.name} on known answers (chance 0.5): {tested.figure(mode)}, {what}")
    return "; ".join(texts) + ("." if summary.qualified else ". No verdicts on its differences.")


def _judges(summary: JudgeSummary) -> str:
    request = summary.request
    return f"{request.protocol}, {request.repeats} × {', '.join(judge.name for judge in request.judges)}"


def _conditions(summary: JudgeSummary) -> dict[str, object]:
    """Return what must agree before two judgings can be compared: the request without the answers."""
    request = summary.request.model_dump(mode="json", exclude={"answers"})
    for judge in request["judges"]:
        judge.pop("url")
        judge.pop("checkpoint")
    return request
