"""Answers to a bench: asked of a checkpoint's engine, or read from a FastChat answer file, and written as one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.cache import ResponseCache
from evals.engines.chat import ChatReply, ChatRequest, chat
from evals.judge.questions import Question, QuestionId
from harness.errors import MoemixError
from harness.files import hash_value, read_jsonl, write_text
from harness.progress import progress

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

MAX_TOKENS = 1024  # FastChat's limit of a turn


@dataclass(frozen=True)
class Answer:
    """A model's answer to a question, a text for each turn.

    Attributes:
        finish_reasons: how each turn ended (``stop``, ``length``); empty where the file does not say.
    """

    turns: tuple[str, ...]
    finish_reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """A model's answers, by question."""

    model: str
    answers: dict[QuestionId, Answer]

    @property
    def fingerprint(self) -> str:
        return hash_value([self.model, sorted((str(key), a.turns) for key, a in self.answers.items())])


def read_answers(file: Path) -> Answers:
    """A FastChat answer file; the first choice of every question, as FastChat judges it.

    The model's name is that of the rows (``model_id``); FastChat takes the file's.

    Raises:
        MoemixError: with file and line.
    """
    if not file.is_file():
        raise MoemixError("the answer file does not exist", where=str(file))
    found: dict[QuestionId, Answer] = {}
    names: dict[str, None] = {}
    for number, row in enumerate(read_jsonl(file), 1):
        where = f"{file}:{number}"
        try:
            identity, choice = row["question_id"], row["choices"][0]
            turns = choice["turns"]
        except (KeyError, IndexError, TypeError) as error:
            raise MoemixError(
                f"not a FastChat answer ({type(error).__name__}: {error})",
                where=where,
                hint='expected {"question_id": 81, "model_id": "…", "choices": [{"index": 0, "turns": ["…", "…"]}]}',
            ) from None
        if not isinstance(turns, list) or not all(isinstance(text, str) for text in turns):
            raise MoemixError("`choices[0].turns` is a list of texts", where=where)
        if identity in found:
            raise MoemixError(f"question {identity} is answered twice", where=where)
        found[identity] = Answer(tuple(turns), tuple(choice.get("finish_reasons") or ()))
        names[str(row.get("model_id") or file.stem)] = None
    if not found:
        raise MoemixError("there is no answer in it", where=str(file))
    if len(names) > 1:
        raise MoemixError(f"the answers of several models: {', '.join(names)}", where=str(file))
    return Answers(next(iter(names)), found)


def ask(
    questions: Iterable[Question],
    lm: TemplateLM,
    cache: ResponseCache,
    *,
    seed: int,
    max_tokens: int,
    template: str | None = None,
) -> dict[QuestionId, list[ChatReply]]:
    """Ask a model every question, each turn of all questions together; the second follows the model's own first.

    Args:
        cache: keeps each answer as it comes, so nothing finished is asked again.
    """
    questions = list(questions)
    replies: dict[QuestionId, list[ChatReply]] = {question.id: [] for question in questions}
    turns = max(len(question.turns) for question in questions)
    with progress("answers", sum(len(question.turns) for question in questions)) as bar:
        for turn in range(turns):
            waiting: dict[str, list[QuestionId]] = {}
            requests: dict[str, ChatRequest] = {}
            for question in (q for q in questions if len(q.turns) > turn):
                request = _request(question, replies[question.id], turn, seed, max_tokens)
                key = cache.key("chat", (*request.messages, request.temperature, seed, max_tokens, template))
                requests[key] = request
                waiting.setdefault(key, []).append(question.id)
            for key, held in cache.find(waiting).items():
                for identity in waiting.pop(key):
                    replies[identity].append(ChatReply(**held))
                    bar.advance()
            keys = {id(requests[key]): key for key in waiting}

            def keep(
                request: ChatRequest, reply: ChatReply, keys: Any = keys, waiting: dict[str, Any] = waiting
            ) -> None:
                key = keys[id(request)]
                cache.put(key, vars(reply))
                for identity in waiting[key]:
                    replies[identity].append(reply)
                    bar.advance()

            if waiting:
                chat(lm, [requests[key] for key in waiting], keep, template=template)
    return replies


def _request(question: Question, before: list[ChatReply], turn: int, seed: int, max_tokens: int) -> ChatRequest:
    messages = []
    for number in range(turn):
        messages += [
            {"role": "user", "content": question.turns[number]},
            {"role": "assistant", "content": before[number].text},
        ]
    messages.append({"role": "user", "content": question.turns[turn]})
    return ChatRequest(tuple(messages), question.temperature, seed, max_tokens)


def write_answers(
    file: Path, model: str, questions: Iterable[Question], replies: dict[QuestionId, list[ChatReply]], seed: int
) -> Answers:
    """FastChat's answer file, whole, with finish reasons, tokens, temperature and seed besides."""
    lines, answers = [], {}
    for question in questions:
        turns = replies[question.id]
        answer = Answer(tuple(reply.text for reply in turns), tuple(reply.finish_reason for reply in turns))
        answers[question.id] = answer
        choice = {
            "index": 0,
            "turns": list(answer.turns),
            "finish_reasons": list(answer.finish_reasons),
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
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(file, "".join(lines))
    return Answers(model, answers)
