"""From judgments to scores: a row for each turn of a question, and means that count failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from evals.judge.records import Line, QuestionId, pair_outcome
from harness.judging import Score
from harness.statistics.bootstrap import variance_components
from harness.statistics.clusters import number_clusters
from harness.statistics.estimates import Part, estimate

RowKey = tuple[QuestionId, int]  # question and turn


@dataclass
class Row:
    """All judgments of a model's answer to one turn of a question."""

    category: str
    by_judge: dict[str, list[float]] = field(default_factory=dict)
    failed: int = 0

    @property
    def values(self) -> list[float]:
        """The values of all judgments with a verdict."""
        return [value for values in self.by_judge.values() for value in values]

    @property
    def value(self) -> float:
        """The mean over all judgments with a verdict."""
        return math.fsum(self.values) / len(self.values)


@dataclass
class Tally:
    """All judgments of one model; rows are in the order of their first judgments.

    Attributes:
        failed: reason → number of failed judgments.
        requests: requests sent to judges.
        outcomes: pairwise: numbers of ``win``, ``loss`` and ``tie``.
    """

    rows: dict[RowKey, Row] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    judged: int = 0
    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, line: Line, value: float | None) -> None:
        """Count a judgment; ``value`` is None where it failed."""
        row = self.rows.setdefault((line["question_id"], line["turn"]), Row(line.get("category", "")))
        self.requests += line.get("attempts", 0)
        if value is None:
            row.failed += 1
            self.failed[str(line["reason"])] += 1
        else:
            row.by_judge.setdefault(line["judge"][0], []).append(value)
            self.judged += 1

    def scored(self) -> dict[RowKey, Row]:
        """Return the rows with at least one verdict."""
        return {key: row for key, row in self.rows.items() if row.by_judge}

    def score(self, *, turn: int | None = None, category: str | None = None, judge: str | None = None) -> Score:
        """Return the mean of the rows, or of those of one turn, one category or one judge."""
        values, questions = [], []
        for (question, number), row in self.rows.items():
            chosen = row.values if judge is None else row.by_judge.get(judge, [])
            if chosen and turn in (None, number) and category in (None, row.category):
                values.append(math.fsum(chosen) / len(chosen))
                questions.append(question)
        return clustered(values, questions)

    def bounds(self, scale: tuple[float, float]) -> tuple[float, float] | None:
        """Return the average if all rows without a verdict had the lowest, or the highest, score; None without rows."""
        if not self.rows:
            return None
        known = [row.value for row in self.scored().values()]
        missing = len(self.rows) - len(known)
        low, high = (math.fsum([*known, *[end] * missing]) / len(self.rows) for end in scale)
        return low, high


def clustered(values: Sequence[float], questions: Sequence[QuestionId]) -> Score:
    """Return the mean of one value per row with its standard error; the turns of a question are one cluster."""
    if not values:
        return Score(value=None, stderr=None, n=0)
    found = estimate([Part(1.0, np.array([values], dtype=np.float64), number_clusters(questions))])
    mean = math.fsum(values) / len(values)  # exact, whatever the order of the judgments
    return Score(value=mean, stderr=None if math.isnan(found.se) else found.se, n=len(values))


def components(tally: Tally) -> dict[str, float | None]:
    """Return the variance of a score between the turns of questions, and between repeated judgments of one answer.

    ``judge_stderr`` is the part of the average's standard error that more judgments would remove. Repeats by one judge
    and the judges of a panel count alike. Every value is None if nothing was judged twice.
    """
    found = variance_components([row.values for row in tally.scored().values()])
    if found is None:
        return {"question": None, "judge": None, "judge_stderr": None}
    return {"question": found.between, "judge": found.within, "judge_stderr": found.repeat_se}


def tally_single(lines: Iterable[Line]) -> dict[str, Tally]:
    """Count the judgments of single answers by model."""
    tallies: dict[str, Tally] = {}
    for line in lines:
        tally = tallies.setdefault(line["model"], Tally())
        tally.add(line, None if line["reason"] else float(line["score"]))
    return tallies


def tally_pairs(pairs: Iterable[Line]) -> dict[str, Tally]:
    """Count wins, losses and ties by model; the value of a row is 1, 0 or ½."""
    tallies: dict[str, Tally] = {}
    for pair in pairs:
        outcome = pair_outcome(pair["g1_winner"], pair["g2_winner"])
        for model, mine, other in (
            (pair["model_1"], "model_1", "model_2"),
            (pair["model_2"], "model_2", "model_1"),
        ):
            tally = tallies.setdefault(model, Tally())
            result = {mine: "win", other: "loss"}.get(outcome, outcome)
            value = {"win": 1.0, "loss": 0.0, "tie": 0.5}.get(result)
            tally.add(pair, value)
            if value is not None:
                tally.outcomes[result] += 1
    return tallies
