"""Let a checkpoint answer the questions of a bench, and write FastChat's answer file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evals.cache import ResponseCache, open_cache
from evals.engines.chat import ChatReply, ChatRequest, chat
from evals.judge.journal import write_jsonl
from evals.judge.questions import read_answers
from evals.judge.records import Answers, Question, QuestionId
from harness.files import hash_value, read_json, write_json
from harness.judging import JudgeRequest
from harness.progress import progress

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

Replies = dict[QuestionId, list[ChatReply]]  # the reply to each turn


def answer_bench(
    checkpoint: Path, model: str, request: JudgeRequest, questions: Sequence[Question], template: str | None, out: Path
) -> tuple[Answers, dict[str, object]]:
    """Return a checkpoint's answers, from ``answers.jsonl`` if it exists, and the engine's description of itself.

    The hash of the checkpoint is ``request.answers[model]``; ``template`` replaces the checkpoint's chat template.
    """
    file, description = out / "answers.jsonl", out / "engine.json"
    if file.is_file() and description.is_file():
        return read_answers(file), read_json(description)
    from evals.engines.choose import check_unchanged, open_engine

    with open_engine(str(request.engine), checkpoint, dtype=request.dtype, seed=request.seed, folder=out) as engine:
        described = engine.describe()
        cache = open_cache({"checkpoint": request.answers[model], "engine": described})
        replies = ask(
            questions, engine.lm(), cache, seed=request.seed, max_tokens=request.max_tokens, template=template
        )
        check_unchanged(engine, cache)
        cache.close()
    write_json(description, described)
    return write_answers(file, model, questions, replies, request.seed), described


def ask(
    questions: Sequence[Question],
    lm: TemplateLM,
    cache: ResponseCache,
    *,
    seed: int,
    max_tokens: int,
    template: str | None = None,
) -> Replies:
    """Ask a model every question: the first turns together, then the second turns after the model's own first replies.

    The cache keeps each reply as it arrives; a reply in it is not asked for again.
    """
    replies: Replies = {question.id: [] for question in questions}
    with progress("answers", sum(len(question.turns) for question in questions)) as bar:
        for turn in range(max(len(question.turns) for question in questions)):
            requests: dict[str, ChatRequest] = {}  # cache key → request
            waiting: dict[str, list[QuestionId]] = {}  # cache key → the questions that it answers
            for question in (q for q in questions if len(q.turns) > turn):
                request = _request(question, replies[question.id], turn, seed, max_tokens)
                key = cache.key("chat", (*request.messages, request.temperature, seed, max_tokens, template))
                requests[key] = request
                waiting.setdefault(key, []).append(question.id)

            def add(key: str, reply: ChatReply, waiting: dict[str, list[QuestionId]] = waiting) -> None:
                for identity in waiting[key]:
                    replies[identity].append(reply)
                    bar.advance()

            for key, stored in cache.find(waiting).items():
                del requests[key]
                add(key, ChatReply(**stored))
            keys = {id(request): key for key, request in requests.items()}

            def keep(request: ChatRequest, reply: ChatReply, keys: dict[int, str] = keys) -> None:
                cache.put(keys[id(request)], vars(reply))
                add(keys[id(request)], reply)

            if requests:
                chat(lm, list(requests.values()), keep, template=template)
    return replies


def _request(question: Question, before: list[ChatReply], turn: int, seed: int, max_tokens: int) -> ChatRequest:
    messages = []
    for asked, reply in zip(question.turns[:turn], before, strict=True):
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply.text}]
    messages.append({"role": "user", "content": question.turns[turn]})
    return ChatRequest(tuple(messages), question.temperature, seed, max_tokens)


def write_answers(file: Path, model: str, questions: Iterable[Question], replies: Replies, seed: int) -> Answers:
    """Write FastChat's answer file, with finish reasons, token counts, temperature and seed; return the answers."""
    rows, answers = [], {}
    for question in questions:
        turns = replies[question.id]
        answers[question.id] = tuple(reply.text for reply in turns)
        choice = {
            "index": 0,
            "turns": [reply.text for reply in turns],
            "finish_reasons": [reply.finish_reason for reply in turns],
            "tokens": [reply.answer_tokens for reply in turns],
            "prompt_cut": [reply.prompt_cut for reply in turns],
        }
        row = {
            "question_id": question.id,
            "answer_id": hash_value([model, question.id, choice["turns"]])[:22],
            "model_id": model,
            "choices": [choice],
            "temperature": question.temperature,
            "seed": seed,
            "tstamp": time.time(),
        }
        rows.append(row)
    write_jsonl(file, rows)
    return Answers(model, answers)
