"""From judgments to scores: a row for each turn of a question, means clustered by question, failures in view."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evals.judge.questions import QuestionId
from harness.records import Score
from harness.statistics.bootstrap import variance_components
from harness.statistics.clusters import number_clusters
from harness.statistics.estimates import Part, estimate

RowKey = tuple[QuestionId, int]  # question and turn


@dataclass
class Row:
    """A turn of a question: what every judge said of a model's answer, repeat by repeat."""

    category: str
    by_judge: dict[str, list[float]] = field(default_factory=dict)
    failed: int = 0

    @property
    def values(self) -> list[float]:
        return [value for values in self.by_judge.values() for value in values]

    @property
    def value(self) -> float:
        """The mean over all judgments with a verdict."""
        return math.fsum(self.values) / len(self.values)


@dataclass
class Tally:
    """Everything judged about one model; rows in the order in which their first judgments came."""

    rows: dict[RowKey, Row] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    judged: int = 0
    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, question: QuestionId, turn: int, category: str, judge: str, value: float | None, why: str) -> None:
        """Count a judgment; ``value`` is None where it failed, and ``why`` says so."""
        row = self.rows.setdefault((question, turn), Row(category))
        if value is None:
            row.failed += 1
            self.failed[why] += 1
        else:
            row.by_judge.setdefault(judge, []).append(value)
            self.judged += 1

    def scored(self) -> dict[RowKey, Row]:
        """The rows with at least one verdict."""
        return {key: row for key, row in self.rows.items() if row.by_judge}

    def score(self, *, turn: int | None = None, category: str | None = None, judge: str | None = None) -> Score:
        """The mean of the rows of a turn, a category, under one judge; all rows unless told otherwise."""
        values, clusters = [], []
        for (question, number), row in self.rows.items():
            held = row.values if judge is None else row.by_judge.get(judge, [])
            if held and turn in (None, number) and category in (None, row.category):
                values.append(math.fsum(held) / len(held))
                clusters.append(question)
        return clustered(values, clusters)

    def bounds(self, scale: tuple[float, float]) -> tuple[float, float] | None:
        """The average if the rows without any verdict all had the lowest, or all the highest, score."""
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


def pair_outcome(first: str, second: str) -> str:
    """A pair's outcome from its two games, FastChat's way: they agree on a model, or it is a tie; error if either is.

    Args:
        first, second: ``model_1``, ``model_2``, ``tie`` or ``error``.
    """
    if "error" in (first, second):
        return "error"
    return first if first == second else "tie"


def tally_single(lines: Iterable[Mapping[str, Any]]) -> dict[str, Tally]:
    """Model → what was judged of it, from the lines of single-answer grading."""
    found: dict[str, Tally] = {}
    for line in lines:
        tally = found.setdefault(line["model"], Tally())
        tally.requests += line.get("attempts", 0)
        value = None if line["reason"] else float(line["score"])
        tally.add(
            line["question_id"], line["turn"], line.get("category", ""), line["judge"][0], value, str(line["reason"])
        )
    return found


def join_games(lines: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Pairs from their games: FastChat's lines, with ours besides. A pair whose other game is not there yet waits."""
    waiting: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for line in lines:
        if "game" not in line:
            yield {**line, "g1_winner": "error", "g2_winner": "error", "attempts": 0}
            continue
        key = (line["question_id"], line["turn"], line["model_1"], line["model_2"], line["judge"][0], line["repeat"])
        if key not in waiting:
            # only what the pair needs: thousands of prompts in memory would be a lot
            waiting[key] = line
            continue
        games = {game["game"]: game for game in (waiting.pop(key), line)}
        one, two = games[1], games[2]
        yield {
            "question_id": one["question_id"],
            "category": one["category"],
            "model_1": one["model_1"],
            "model_2": one["model_2"],
            "g1_winner": one["winner"],
            "g2_winner": two["winner"],
            "judge": one["judge"],
            "keys": [one["key"], two["key"]],
            "params": one["params"],
            "g1_user_prompt": one["user_prompt"],
            "g1_judgment": one["judgment"],
            "g2_user_prompt": two["user_prompt"],
            "g2_judgment": two["judgment"],
            "turn": one["turn"],
            "repeat": one["repeat"],
            "reason": one["reason"] or two["reason"],
            "attempts": one["attempts"] + two["attempts"],
            "flags": sorted({*one["flags"], *two["flags"]}),
            **({"engine": one["engine"]} if "engine" in one else {}),
            "tstamp": max(one["tstamp"], two["tstamp"]),
        }


def tally_pairs(pairs: Iterable[Mapping[str, Any]]) -> dict[str, Tally]:
    """Model → its wins, losses and ties; a row's value is 1, 0 or ½."""
    found: dict[str, Tally] = {}
    for pair in pairs:
        outcome = pair_outcome(pair["g1_winner"], pair["g2_winner"])
        for side, other in (("model_1", "model_2"), ("model_2", "model_1")):
            tally = found.setdefault(pair[side], Tally())
            tally.requests += pair["attempts"]
            result = {side: "win", other: "loss"}.get(outcome, outcome)
            value = {"win": 1.0, "loss": 0.0, "tie": 0.5}.get(result)
            tally.add(pair["question_id"], pair["turn"], pair.get("category", ""), pair["judge"][0], value,
                      str(pair["reason"]))  # fmt: skip
            if value is not None:
                tally.outcomes[result] += 1
    return found
