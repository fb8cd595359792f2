"""The matches that a request needs, in a fixed order, and the line that each judgment becomes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from evals.judge.records import Answer, Judging, JudgingProtocol, Line, Match, Params, Prompt, Question, Reply, Verdict
from harness.files import hash_value
from harness.judging import JudgeRequest

SIDES = {1: {"A": "model_1", "B": "model_2"}, 2: {"A": "model_2", "B": "model_1"}}  # by game


def matches(judging: Judging, judge: str) -> Iterator[Match]:
    """Yield everything that one judge judges. Turns with a missing answer are left out (see :func:`unanswered`)."""
    for models, question, turn, answers in _turns(judging):
        for repeat in range(judging.request.repeats if answers else 0):
            if len(models) == 1:
                yield Match(question, turn, models, answers, judge, repeat)
            else:
                yield Match(question, turn, models, answers, judge, repeat, 1)
                yield Match(question, turn, models[::-1], answers[::-1], judge, repeat, 2)


def unanswered(judging: Judging) -> Iterator[Line]:
    """Yield a failed line for each judgment (pairwise: pair of games) that lacks an answer."""
    for models, question, turn, answers in _turns(judging):
        if not answers:
            line: Line = {"question_id": question.id, "category": question.category, "turn": turn, "attempts": 0}
            line |= {"model": models[0], "model_1": models[0], "model_2": models[-1], "reason": "no_answer"}
            line |= {"g1_winner": "error", "g2_winner": "error"}
            for repeat, judge in itertools.product(range(judging.request.repeats), judging.request.judges):
                yield line | {"judge": [judge.name, ""], "repeat": repeat}


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
            given = tuple(answer for answer in answers if answer and len(answer.turns) >= turn)
            if request.protocol != "reference" or len(question.checks) >= turn:
                yield models, question, turn, given if len(given) == len(models) else ()


def parameters(request: JudgeRequest, repeat: int) -> Params:
    """Return the sampling arguments of a judgment. FastChat sends no seed."""
    seed = {"seed": request.seed + repeat} if request.protocol == "strict" else {}
    return {"temperature": request.temperature, "max_tokens": request.judge_max_tokens, **seed}


def match_key(match: Match, prompt: Prompt, params: Params) -> str:
    """Return the identity of a judgment: hash of judge, prompt, arguments, models, turn, game and repeat."""
    identity = [match.judge, prompt.messages, prompt.schema, params, list(match.models), match.question.id]
    return hash_value([*identity, match.turn, match.game, match.repeat])[:32]


def record(
    match: Match, prompt: Prompt, params: Params, reply: Reply, protocol: JudgingProtocol, flags: set[str]
) -> Line:
    """Return the line of a judgment (pairwise: of one game), with the request, the reply and the verdict."""
    verdict = Verdict(reason=reply.reason) if reply.reason else protocol.verdict(reply.judgment, match)
    cut_off = verdict.reason == "no_verdict" and reply.finish_reason == "length"
    line: Line = {
        "key": match_key(match, prompt, params),
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
        line |= {"model_1": first, "model_2": second, "game": match.game, "winner": winner}
    else:
        line |= {"model": match.models[0], "score": verdict.score}
    return line | {
        **vars(reply),
        "reason": "cut_off" if cut_off else verdict.reason,
        "lengths": [len(answer.turns[match.turn - 1]) for answer in match.answers[::forward]],
        "system_prompt": prompt.system,
        "user_prompt": prompt.user,
        "params": params,
        "masked": prompt.masked,
        "flags": sorted(flags),
        "seconds": round(reply.seconds, 3),
        "tstamp": time.time(),
    }
