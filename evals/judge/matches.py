"""What there is to judge: every match of a request, in a fixed order, and the line that each becomes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evals.judge.answers import Answers
from evals.judge.endpoint import Reply
from evals.judge.prompts import Match, Prompt, Rules, Verdict
from evals.judge.questions import Bench, QuestionId
from harness.files import hash_value
from harness.records import JudgeRequest

SIDES = {1: {"A": "model_1", "B": "model_2"}, 2: {"A": "model_2", "B": "model_1"}}  # by game


@dataclass(frozen=True)
class Task:
    """One judgment to be made: a match put to one judge.

    Attributes:
        game: pairwise: 1 with the first model of the pair as A, 2 with the second; single: 0.
    """

    match: Match
    judge: str
    game: int = 0

    @property
    def pair(self) -> tuple[str, ...]:
        """The models in the pair's own order."""
        return self.match.models if self.game < 2 else tuple(reversed(self.match.models))


def pairs(request: JudgeRequest) -> list[tuple[str, str]]:
    """The pairs of a pairwise request: each model against the baseline, or all pairs."""
    if request.baseline is not None:
        return [(model, request.baseline) for model in request.answers if model != request.baseline]
    return list(itertools.combinations(request.answers, 2))


def tasks(request: JudgeRequest, bench: Bench, answers: Mapping[str, Answers]) -> Iterator[Task]:
    """Every judgment of a request; where an answer is missing there is nothing to judge (:func:`unanswered`)."""
    for models, question, turn in _rows(request, bench):
        if _missing(answers, models, question.id, turn):
            continue
        held = tuple(answers[model].answers[question.id] for model in models)
        for repeat, judge in itertools.product(range(request.repeats), request.judges):
            if len(models) == 1:
                yield Task(Match(question, turn, models, held, repeat), judge.name)
            else:
                for game in (1, 2):
                    order = 1 if game == 1 else -1
                    yield Task(Match(question, turn, models[::order], held[::order], repeat), judge.name, game)


def unanswered(request: JudgeRequest, bench: Bench, answers: Mapping[str, Answers]) -> Iterator[dict[str, Any]]:
    """A line for each judgment (pairwise: pair of games) that an answer is missing for."""
    for models, question, turn in _rows(request, bench):
        if _missing(answers, models, question.id, turn):
            for repeat, judge in itertools.product(range(request.repeats), request.judges):
                line = {"question_id": question.id, "category": question.category, "turn": turn}
                line |= {"judge": [judge.name, ""], "repeat": repeat}
                named = {"model": models[0]} if len(models) == 1 else {"model_1": models[0], "model_2": models[1]}
                yield {**line, **named, "reason": "no_answer"}


def _rows(request: JudgeRequest, bench: Bench) -> Iterator[tuple[tuple[str, ...], Any, int]]:
    groups: list[tuple[str, ...]] = (
        [*pairs(request)] if request.mode == "pairwise" else [(model,) for model in request.answers]
    )
    for models, question in itertools.product(groups, bench.questions):
        for turn in range(1, len(question.turns) + 1):
            if request.protocol != "reference" or len(question.checks) >= turn:
                yield models, question, turn


def _missing(answers: Mapping[str, Answers], models: tuple[str, ...], question: QuestionId, turn: int) -> bool:
    """Whether some model has not answered a question in a turn."""
    held = [answers[model].answers.get(question) for model in models]
    return any(answer is None or len(answer.turns) < turn for answer in held)


def parameters(request: JudgeRequest, repeat: int) -> dict[str, Any]:
    """The arguments of a judge's request. FastChat sends no seed."""
    found: dict[str, Any] = {"temperature": request.temperature, "max_tokens": request.judge_max_tokens}
    if request.protocol == "strict":
        found["seed"] = request.seed + repeat
    return found


def task_key(task: Task, prompt: Prompt, params: Mapping[str, Any]) -> str:
    """What a judgment is: who was asked what, how, about whom, and for which time."""
    match = task.match
    identity = [task.judge, prompt.messages, prompt.schema, dict(params), list(match.models), match.question.id]
    return hash_value([*identity, match.turn, task.game, match.repeat])[:32]


def record(
    task: Task, prompt: Prompt, params: Mapping[str, Any], reply: Reply, rules: Rules, flags: set[str]
) -> dict[str, Any]:
    """A judgment's line: FastChat's fields (pairwise: of one game), and what was asked, how, and what came of it."""
    match = task.match
    verdict = Verdict(reason=reply.reason) if reply.reason else rules.verdict(reply.text, match)
    reason = verdict.reason
    if reason == "no_verdict" and reply.finish_reason == "length":
        reason = "cut_off"
    line: dict[str, Any] = {
        "key": task_key(task, prompt, params),
        "question_id": match.question.id,
        "category": match.question.category,
        "turn": match.turn,
        "judge": [task.judge, prompt.name],
        "protocol": rules.name,
        "repeat": match.repeat,
    }
    if match.pairwise:
        first, second = task.pair
        winner = SIDES[task.game].get(verdict.winner, verdict.winner)
        line |= {"model_1": first, "model_2": second, "game": task.game, "winner": winner}
    else:
        line |= {"model": match.models[0], "score": verdict.score}
    lengths = [len(answer.turns[match.turn - 1]) for answer in match.answers]
    return line | {
        "reason": reason,
        "lengths": lengths if task.game < 2 else lengths[::-1],
        "system_prompt": prompt.system,
        "user_prompt": prompt.user,
        "judgment": reply.text,
        "params": dict(params),
        "structured": reply.structured,
        "masked": prompt.masked,
        "flags": sorted(flags),
        "attempts": reply.attempts,
        "detail": reply.detail,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "reply_tokens": reply.reply_tokens,
        "seconds": round(reply.seconds, 3),
        "tstamp": time.time(),
    }
