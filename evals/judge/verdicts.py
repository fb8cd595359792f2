"""Judgments as the report reads them: games, pairs and scores of every judge, and people's verdicts beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.judge.journal import Journal
from evals.judge.questions import QuestionId
from evals.judge.run import journal_path, resolved_request
from evals.judge.scores import pair_outcome
from harness.errors import MoemixError
from harness.files import read_jsonl
from harness.requests import RESOLVED

HUMAN_WINNERS = {"model_a": "model_1", "model_b": "model_2", "model_1": "model_1", "model_2": "model_2"}


@dataclass(frozen=True)
class Score:
    """A judge's rating of an answer."""

    judge: str
    question: QuestionId
    turn: int
    model: str
    category: str
    repeat: int
    score: float
    length: int


@dataclass(frozen=True)
class Pair:
    """A judge's verdict over two answers.

    Attributes:
        games: the winner with the first model shown first, and with it shown second; one verdict of a person twice.
        lengths: characters of the two answers.
    """

    judge: str
    question: QuestionId
    turn: int
    models: tuple[str, str]
    category: str
    repeat: int
    games: tuple[str, str]
    lengths: tuple[int, int]

    @property
    def outcome(self) -> str:
        return pair_outcome(*self.games)

    @property
    def value(self) -> float:
        """1 where the first model wins, −1 where the second does, 0 for a tie."""
        return {"model_1": 1.0, "model_2": -1.0}.get(self.outcome, 0.0)


@dataclass
class Held:
    """Everything that a report is about."""

    scores: list[Score] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    @property
    def judges(self) -> list[str]:
        return list(self.asked)


def read_folders(folders: Iterable[Path]) -> Held:
    """The judgments in judging folders, finished or not."""
    held = Held()
    for folder in folders:
        request = resolved_request(folder)
        if request is None:
            raise MoemixError(f"no judging was found: there is no {RESOLVED}", where=str(folder))
        for judge in request.judges:
            _read(held, Journal.read(journal_path(folder, judge.name, request.mode)))
    return held


def _read(held: Held, lines: Iterator[dict[str, Any]]) -> None:
    waiting: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in lines:
        judge = line["judge"][0]
        held.asked[judge] += 1
        if line["reason"]:
            held.failed.setdefault(judge, Counter())[line["reason"]] += 1
        place = (judge, line["question_id"], line["turn"])
        if "game" not in line:
            if not line["reason"]:
                held.scores.append(
                    Score(*place, line["model"], line["category"], line["repeat"], line["score"], line["lengths"][0])
                )
            continue
        models = (line["model_1"], line["model_2"])
        kept = {key: line[key] for key in ("game", "winner", "category", "lengths")}
        other = waiting.pop((*place, models, line["repeat"]), None)
        if other is None:
            waiting[(*place, models, line["repeat"])] = kept
            continue
        games = {game["game"]: game["winner"] for game in (other, kept)}
        if "error" not in games.values():
            lengths = tuple(kept["lengths"])
            held.pairs.append(
                Pair(*place, models, kept["category"], line["repeat"], (games[1], games[2]), lengths)  # type: ignore[arg-type]
            )


def read_human(file: Path) -> tuple[list[Pair], list[Score]]:
    """People's verdicts: rows in MT-Bench's published form (``model_a``, ``model_b``, ``winner``, ``turn``, ``judge``),
    or ratings (``model``, ``score``).

    Raises:
        MoemixError: with file and line.
    """
    if not file.is_file():
        raise MoemixError("the file of human verdicts does not exist", where=str(file))
    pairs, scores = [], []
    for number, row in enumerate(read_jsonl(file), 1):
        try:
            who = row.get("judge", "human")
            name = f"human:{who[0] if isinstance(who, list) else who}"
            place: tuple[str, Any, int] = (name, row["question_id"], int(row.get("turn", 1)))
            if "score" in row:
                scores.append(Score(*place, row["model"], "", 0, float(row["score"]), 0))
                continue
            models = (row.get("model_a") or row["model_1"], row.get("model_b") or row["model_2"])
            said = str(row["winner"])
            winner = "tie" if said.startswith("tie") else HUMAN_WINNERS[said]
            pairs.append(Pair(*place, models, "", 0, (winner, winner), (0, 0)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MoemixError(
                f"not a human verdict: {error!r}",
                where=f"{file}:{number}",
                hint="expected question_id, turn, judge and model_a, model_b, winner; or model and score",
            ) from None
    return pairs, scores


def ordered(pair: Pair) -> tuple[tuple[str, str], str]:
    """A pair's models in the order of their names, and the outcome as the winner's name or ``tie``."""
    winner = {"model_1": pair.models[0], "model_2": pair.models[1]}.get(pair.outcome, "tie")
    first, second = sorted(pair.models)
    return (first, second), winner


def by_unit(pairs: Iterable[Pair]) -> dict[tuple[Any, ...], dict[str, list[str]]]:
    """(question, turn, models) → rater → its verdicts."""
    units: dict[tuple[Any, ...], dict[str, list[str]]] = {}
    for pair in pairs:
        models, winner = ordered(pair)
        units.setdefault((pair.question, pair.turn, models), {}).setdefault(pair.judge, []).append(winner)
    return units


def mean_of_others(values: Mapping[str, list[float]], judge: str) -> float | None:
    """The mean over everybody but one judge; None where there is nobody else."""
    others = [value for name, held in values.items() if name != judge for value in held]
    return sum(others) / len(others) if others else None
