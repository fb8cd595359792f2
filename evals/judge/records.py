"""The data of judging: questions, answers, matches, prompts, replies, verdicts, and the line of a judgment."""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field

from evals.judge.style import style_of
from harness.files import hash_value
from harness.judging import JudgeRequest

QuestionId = int | str
Answer = tuple[str, ...]  # a model's texts, one for each turn
Params = Mapping[str, float]  # temperature, max_tokens and seed of a judge's request

Line = dict[str, Any]
"""A line of a judgments file: FastChat's fields and ours (:func:`record`).

A judgment of one answer has ``model`` and ``score``. A game (one order of a pair) has ``model_1``, ``model_2``,
``game`` (1: the first model is shown first) and ``winner``. A pair has ``g1_winner``, ``g2_winner`` and further fields
of its games.
"""

# FastChat's temperatures by category; questions of other categories are answered at UNKNOWN_TEMPERATURE.
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1,
                "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0}  # fmt: skip
UNKNOWN_TEMPERATURE = 0.7
NO_ANSWER = "$ERROR$"  # FastChat writes this where an endpoint gave no answer
NEED_REFERENCE = ("math", "reasoning", "coding")  # the categories that FastChat judges with a reference answer
SIDES = {1: {"A": "model_1", "B": "model_2"}, 2: {"A": "model_2", "B": "model_1"}}  # by game


@dataclass(frozen=True)
class Question:
    """A question of one turn or more.

    Attributes:
        reference: a reference answer for each turn; empty where there is none.
        rubric: how to grade its answers, the same for all turns or one for each; empty for the general scale.
        checks: for each turn, how the reference grader recognises a right answer (:mod:`evals.judge.reference`).
        required_temperature: overrides the temperature of the category.
    """

    id: Annotated[QuestionId, Field(validation_alias="question_id")]
    category: str
    turns: Annotated[tuple[str, ...], Field(min_length=1)]
    reference: tuple[str, ...] = ()
    checks: tuple[Mapping[str, object], ...] = ()
    required_temperature: float | None = None
    rubric: str | tuple[str, ...] = ""

    def rubric_of(self, turn: int) -> str:
        """Return the rubric of a turn (1, 2, …); empty where there is none."""
        if isinstance(self.rubric, str):
            return self.rubric
        return self.rubric[turn - 1] if len(self.rubric) >= turn else ""

    @property
    def temperature(self) -> float:
        """The temperature at which a model answers the question."""
        if self.required_temperature is not None:
            return self.required_temperature
        return TEMPERATURES.get(self.category, UNKNOWN_TEMPERATURE)


@dataclass(frozen=True)
class Bench:
    """A list of questions.

    Attributes:
        title: what tables call it.
        prompts: FastChat's judge templates, if they lie beside the questions.
    """

    name: str
    title: str
    questions: tuple[Question, ...]
    prompts: Path | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of the questions with their references and rubrics."""
        fields = ("id", "category", "turns", "reference", "checks", "required_temperature")
        rubrics = {str(question.id): question.rubric for question in self.questions if question.rubric}
        rows: list[object] = [[getattr(question, name) for name in fields] for question in self.questions]
        return hash_value([*rows, rubrics] if rubrics else rows)

    def limited(self, limit: int | None) -> Bench:
        """Keep the first ``limit`` questions of every category; None keeps all."""
        if limit is None:
            return self
        taken, kept = Counter[str](), []
        for question in self.questions:
            taken[question.category] += 1
            if taken[question.category] <= limit:
                kept.append(question)
        return replace(self, questions=tuple(kept))


@dataclass(frozen=True)
class Answers:
    """All answers of a model, by question."""

    model: str
    answers: dict[QuestionId, Answer]

    @property
    def fingerprint(self) -> str:
        """Hash of the model's name and of every answer."""
        return hash_value([self.model, sorted((str(key), turns) for key, turns in self.answers.items())])


@dataclass(frozen=True)
class Match:
    """One thing to judge: one turn of a question with the answers of one or two models, for one judge.

    Attributes:
        turn: 1, 2, …; the judge of a later turn sees the earlier ones as well.
        models: one model (single-answer grading), or two in the order in which the judge sees them.
        repeat: 0, 1, … where a judge is asked several times.
        game: pairwise: 1 with the first model of the pair as A, 2 with the second as A; single: 0.
    """

    question: Question
    turn: int
    models: tuple[str, ...]
    answers: tuple[Answer, ...]
    judge: str = ""
    repeat: int = 0
    game: int = 0

    @property
    def pairwise(self) -> bool:
        """Whether two answers are compared."""
        return len(self.models) == 2

    @property
    def guided(self) -> bool:
        """Whether the prompt holds a reference answer to every turn up to this one."""
        return self.question.category in NEED_REFERENCE and len(self.question.reference) >= self.turn


@dataclass(frozen=True)
class Prompt:
    """A judge's prompt.

    Attributes:
        name: name of the template.
        schema: JSON schema of the reply, for servers that can enforce one.
        masked: number of passages replaced because they pose as verdicts or as instructions to the judge.
    """

    name: str
    system: str
    user: str
    schema: dict[str, object] | None = None
    masked: int = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]


@dataclass(frozen=True)
class Task:
    """A match, and the request that puts it to its judge."""

    match: Match
    prompt: Prompt
    params: Params

    @functools.cached_property
    def key(self) -> str:
        """Hash of everything that identifies the judgment."""
        match, prompt = self.match, self.prompt
        identity = [match.judge, prompt.messages, prompt.schema, self.params, match.models, match.question.id]
        return hash_value([*identity, match.turn, match.game, match.repeat])[:32]


@dataclass(frozen=True)
class Reply:
    """What a judge replied, or why there is no reply; its fields are fields of the judgment's line.

    Attributes:
        judgment: the text of the reply; empty where there is none.
        reason: None, or why there is no reply: ``rate_limited``, ``server_error``, ``timeout``, ``connection``,
            ``bad_reply`` (not the expected JSON), ``empty``, ``refused`` (by a content filter), ``rejected`` (the
            server does not accept the request), ``forbidden`` (it does not serve this request to us), ``cut_off`` (only
            thoughts), ``no_sandbox`` (the program cannot be run on this machine).
        structured: whether the server was asked to enforce a schema.
        prompt_tokens: tokens of the prompts of all attempts, as the server counts them.
        reply_tokens: tokens of the replies to all attempts.
        omitted: what the server does not accept and was left out of the request: ``temperature``, ``seed``,
            ``response_format``, or ``system`` for the role, whose message then begins the user's.
        token_limit: the limit of the reply, if it is known; shorter than was asked for where the context is short.
    """

    judgment: str = ""
    reason: str | None = None
    structured: bool = False
    attempts: int = 1
    detail: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    reply_tokens: int = 0
    seconds: float = 0.0
    omitted: tuple[str, ...] = ()
    token_limit: int | None = None


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


class JudgingProtocol(Protocol):
    """How a match becomes a prompt and a reply becomes a verdict: ``faithful``, ``strict`` or ``reference``."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Hash of its templates and rules."""

    def prompt(self, match: Match) -> Prompt:
        """Return the prompt that puts a match to a judge."""

    def verdict(self, reply: str, match: Match) -> Verdict:
        """Parse a judge's reply."""


@dataclass(frozen=True)
class Judging:
    """One judging: what is judged, by which rules, and where the results are written.

    Attributes:
        answers: the answers of every model of the request.
        flags: model → question → flags of the answer (:func:`evals.judge.integrity.answer_flags`).
        out: the judging's folder.
    """

    request: JudgeRequest
    bench: Bench
    answers: Mapping[str, Answers]
    flags: Mapping[str, Mapping[QuestionId, set[str]]]
    protocol: JudgingProtocol
    out: Path


def tasks(judging: Judging, judge: str) -> Iterator[Task]:
    """Yield everything that one judge judges. Turns without an answer are left out (see :func:`unanswered`)."""
    request = judging.request
    for match in _matches(judging, judge):
        params = {"temperature": request.temperature, "max_tokens": request.judge_max_tokens}
        if request.protocol == "strict":  # FastChat sends no seed
            params["seed"] = request.seed + match.repeat
        yield Task(match, judging.protocol.prompt(match), params)


def unanswered(judging: Judging) -> Iterator[Line]:
    """Yield a failed line for each judgment (pairwise: pair of games) that lacks an answer."""
    for models, question, turn, answers in _turns(judging):
        if not answers:
            line: Line = {"question_id": question.id, "category": question.category, "turn": turn, "attempts": 0}
            line |= {"model": models[0], "model_1": models[0], "model_2": models[-1], "reason": "no_answer"}
            line |= {"g1_winner": "error", "g2_winner": "error"}
            for repeat, judge in itertools.product(range(judging.request.repeats), judging.request.judges):
                yield line | {"judge": [judge.name, ""], "repeat": repeat}


def _matches(judging: Judging, judge: str) -> Iterator[Match]:
    for models, question, turn, answers in _turns(judging):
        for repeat in range(judging.request.repeats if answers else 0):
            if len(models) == 1:
                yield Match(question, turn, models, answers, judge, repeat)
            else:
                yield Match(question, turn, models, answers, judge, repeat, 1)
                yield Match(question, turn, models[::-1], answers[::-1], judge, repeat, 2)


def _turns(judging: Judging) -> Iterator[tuple[tuple[str, ...], Question, int, tuple[Answer, ...]]]:
    """Yield models, question, turn and answers of everything to judge; no answers where one is missing.

    The models are judged alone, each against the baseline, or in all pairs.
    """
    request = judging.request
    groups: list[tuple[str, ...]] = [(model,) for model in request.answers]
    if request.mode == "pairwise" and request.baseline is not None:
        groups = [(model, request.baseline) for model in request.answers if model != request.baseline]
    elif request.mode == "pairwise":
        groups = [*itertools.combinations(request.answers, 2)]
    for models, question in itertools.product(groups, judging.bench.questions):
        answers = [judging.answers[model].answers.get(question.id) for model in models]
        for turn in range(1, len(question.turns) + 1):
            given = tuple(answer for answer in answers if answer and len(answer) >= turn and _whole(answer[:turn]))
            if request.protocol != "reference" or len(question.checks) >= turn:
                yield models, question, turn, given if len(given) == len(models) else ()


def _whole(answer: Answer) -> bool:
    """Return whether no turn is the mark with which FastChat stands in for an answer that it did not get."""
    return not any(text.strip() == NO_ANSWER for text in answer)


def record(task: Task, reply: Reply, judging: Judging) -> Line:
    """Return the line of a judgment (pairwise: of one game), with the request, the reply and the verdict."""
    match, prompt, protocol = task.match, task.prompt, judging.protocol
    said = without_thoughts(reply.judgment)
    if reply.reason or said is None:
        verdict = Verdict(reason=reply.reason or "cut_off")
    else:
        verdict = protocol.verdict(said, match)
    cut_off = verdict.reason == "no_verdict" and reply.finish_reason == "length"
    line: Line = {
        "key": task.key,
        "question_id": match.question.id,
        "category": match.question.category,
        "turn": match.turn,
        "judge": [match.judge, prompt.name],
        "protocol": protocol.name,
        "repeat": match.repeat,
    }
    forward = -1 if match.game == 2 else 1  # the line names the models in the order of the pair
    if match.pairwise:
        first, second = match.models[::forward]
        winner = SIDES[match.game].get(verdict.winner, verdict.winner)
        styles = [style_of(answer[match.turn - 1]) for answer in match.answers[::forward]]
        line |= {"model_1": first, "model_2": second, "game": match.game, "winner": winner, "styles": styles}
    else:
        line |= {"model": match.models[0], "score": verdict.score}
    return line | {
        **vars(reply),
        "reason": "cut_off" if cut_off else verdict.reason,
        "lengths": [len(answer[match.turn - 1]) for answer in match.answers[::forward]],
        "system_prompt": prompt.system,
        "user_prompt": prompt.user,
        "params": task.params,
        "masked": prompt.masked,
        "flags": sorted(set().union(*(judging.flags[model].get(match.question.id, ()) for model in match.models))),
        "seconds": round(reply.seconds, 3),
        "tstamp": time.time(),
    }


_THOUGHTS = re.compile(
    r"\s*(?:<(think|thinking|thought|thoughts|reasoning|reflection)>|\[(THINK)\]|<\|channel\|>(analysis)<\|message\|>"
    r"|<\|(?:begin_of_thought|START_THINKING)\|>)", re.IGNORECASE,
)  # fmt: skip
_END_OF_THOUGHTS = re.compile(
    r"</(?:think|thinking|thought|thoughts|reasoning|reflection)>|\[/THINK\]|<\|channel\|>final<\|message\|>"
    r"|<\|(?:end_of_thought|END_THINKING)\|>", re.IGNORECASE,
)  # fmt: skip


def without_thoughts(reply: str) -> str | None:
    """Return what a reasoning judge says after its thoughts; None if it never came to their end.

    Some servers send the thoughts without the mark that opens them.
    """
    while _THOUGHTS.match(reply):
        end = _END_OF_THOUGHTS.search(reply)
        if end is None:
            return None
        reply = reply[end.end() :]
    if not reply.lstrip().startswith(("{", "`")) and (ends := [*_END_OF_THOUGHTS.finditer(reply)]):
        reply = reply[ends[-1].end() :] if reply[ends[-1].end() :].strip() else reply
    return reply


def pair_outcome(first: str, second: str) -> str:
    """Return the outcome of two games as FastChat does: ``model_1`` or ``model_2`` if it won both, else ``tie``.

    An ``error`` in either game makes the outcome ``error``.
    """
    if "error" in (first, second):
        return "error"
    return first if first == second else "tie"
