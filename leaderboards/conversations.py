"""Judged conversations, to be read: the questions of a judging, the answers to them, and the judgments.

Both ``moemix view`` and the pages of a board show them. The verdicts are those of ``judgments-<judge>.jsonl``, from
which the scores are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import MoemixError
from harness.judging import CONVERSATIONS

Line = Mapping[str, object]
Reader = Callable[[Path], Iterable[tuple[str, Line]]]
"""Yields place (``file:line``) and object of each line of a JSONL file."""


@dataclass(frozen=True)
class Judgment:
    """The judge, the verdict, and what the judge wrote."""

    judge: str
    verdict: str
    text: str


@dataclass
class Question:
    """A question with the answers to its turns, by model, and the judgments of the judged model's answers, by turn."""

    category: str
    turns: Sequence[str]
    answers: Mapping[str, Sequence[str]]
    judgments: dict[int, list[Judgment]] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversations:
    """A judging of one model, by question."""

    model: str
    questions: Mapping[str, Question]


def read_conversations(folder: Path, model: str, read: Reader) -> Conversations:
    """Read the conversations of a judging's folder, and the judgments of a model's answers.

    Raises:
        MoemixError: with file and line, a conversation that is not one.
    """
    questions = {}
    for where, line in read(folder / CONVERSATIONS):
        answers = line.get("answers")
        if not isinstance(answers, dict):
            raise MoemixError("`answers` must be a mapping of models", where=where)
        given = {str(name): _texts(turns, where) for name, turns in answers.items()}
        turns = _texts(line.get("turns"), where)
        questions[str(line.get("question_id"))] = Question(str(line.get("category")), turns, given)
    for path in sorted(folder.glob("judgments-*.jsonl")):
        for place, line in {str(line.get("key", place)): (place, line) for place, line in read(path)}.values():
            question = questions.get(str(line.get("question_id")))
            if question is not None and model in (line.get("model"), line.get("model_1"), line.get("model_2")):
                turn = line.get("turn")
                if not isinstance(turn, int):
                    raise MoemixError("`turn` must be a whole number", where=place)
                question.judgments.setdefault(turn, []).extend(_judgments(line, model))
    return Conversations(model, questions)


def _judgments(line: Line, model: str) -> Iterator[Judgment]:
    """Yield the judgment of an answer, or those of the two games of a pair."""
    names = line.get("judge")
    judge = str(names[0] if isinstance(names, list) and names else names)
    if "g1_winner" not in line:
        yield Judgment(judge, str(line.get("reason") or line.get("score")), str(line.get("judgment", "")))
        return
    for game in (1, 2):
        winner = str(line.get(f"g{game}_winner"))
        place = "first" if (line.get("model_1") == model) == (game == 1) else "second"
        verdict = str(line.get("reason") or line.get(winner, winner))
        yield Judgment(f"{judge}, shown {place}", verdict, str(line.get(f"g{game}_judgment", "")))


def _texts(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise MoemixError("the turns of a conversation must be a list of texts", where=where)
    return value
