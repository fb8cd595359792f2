"""What a judge is asked: a match (answers to one turn of one question) in, a prompt out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from evals.judge.answers import Answer
from evals.judge.questions import NEED_REFERENCE, Question


@dataclass(frozen=True)
class Match:
    """One thing to be judged.

    Attributes:
        turn: 1 or 2; the second is judged with the first in view.
        models: one model (single-answer grading), or two in the order in which the judge sees them.
        repeat: 0, 1, … where the judge is asked several times.
    """

    question: Question
    turn: int
    models: tuple[str, ...]
    answers: tuple[Answer, ...]
    repeat: int = 0

    @property
    def pairwise(self) -> bool:
        return len(self.models) == 2

    @property
    def guided(self) -> bool:
        """Whether a reference answer of every turn up to this one goes into the prompt."""
        question = self.question
        return question.category in NEED_REFERENCE and len(question.reference) >= self.turn


@dataclass(frozen=True)
class Prompt:
    """A judge's prompt.

    Attributes:
        name: of the template.
        schema: JSON schema of the reply, asked for where the server supports it.
        masked: passages of the answers that pose as verdicts or instructions and were left out of the prompt.
    """

    name: str
    system: str
    user: str
    schema: dict[str, Any] | None = None
    masked: int = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]


@dataclass(frozen=True)
class Verdict:
    """What a reply says.

    Attributes:
        score: single-answer grading: the rating, −1 where there is none.
        winner: pairwise: ``A``, ``B``, ``tie`` or ``error``.
        reason: why there is no verdict; None where there is one.
    """

    score: float = -1
    winner: str = "error"
    reason: str | None = None


class Rules(Protocol):
    """``faithful`` or ``strict``."""

    name: str

    def prompt(self, match: Match) -> Prompt: ...

    def verdict(self, reply: str, match: Match) -> Verdict: ...

    @property
    def fingerprint(self) -> str:
        """Hash of its templates and rules."""
        ...
