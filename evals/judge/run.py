"""One judging: a bench, answers and judges in, judgments and a summary out.

<out>/request.json              what was asked, first
<out>/answers.jsonl             FastChat's answer file
<out>/judgments-<judge>.jsonl   a line for each judgment as it came, in FastChat's shape and with what was asked and how
<out>/games-<judge>.jsonl       pairwise: the single games as they came; the pairs are in judgments-<judge>.jsonl
<out>/scores.jsonl              the score of each turn of each question
<out>/transcript.html           question, answer, verdict and explanation, to read and filter
<out>/summary.json              last: a judging is finished when this is there
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evals.judge.answers import Answers
from evals.judge.asking import Work, ask_all
from evals.judge.budget import Budget, Estimate, Price, cost
from evals.judge.endpoint import Endpoint, Pace
from evals.judge.integrity import answer_flags
from evals.judge.journal import Journal
from evals.judge.matches import Task, parameters, record, task_key, tasks
from evals.judge.prompts import Prompt, Rules
from evals.judge.questions import Bench, QuestionId
from evals.judge.reference import ReferenceGrader
from evals.judge.scores import join_games
from harness.errors import MoemixError
from harness.files import write_json, write_text
from harness.progress import progress
from harness.records import JudgeRequest, JudgeSpec, JudgeSummary

# What a later attempt may mend: asked again with ``retry_failed``.
UNDELIVERED = ("rate_limited", "server_error", "timeout", "connection", "bad_reply", "empty", "no_sandbox")
SERVED_SECONDS = 1800.0  # a server of our own queues what it cannot do at once, and never hangs


@dataclass(frozen=True)
class Settings:
    """How judges are asked; nothing here changes a verdict.

    Attributes:
        concurrency: judgments under way at once.
        per_minute: requests to a judge in a minute; None for no limit.
        attempts: requests for one judgment, at the most.
        key: of the endpoints.
        max_cost: in the currency of ``price``.
        retry_failed: ask again for the judgments that the endpoint failed to give.
    """

    concurrency: int = 16
    per_minute: float | None = None
    timeout: float = 120.0
    attempts: int = 6
    key: str | None = None
    price: Price | None = None
    max_cost: float | None = None
    retry_failed: bool = False


Flags = dict[str, dict[QuestionId, set[str]]]  # model → question → flags


def claim(out: Path, request: JudgeRequest) -> JudgeSummary | None:
    """Make ``out`` this request's folder. A finished judging of it comes back; another's folder is left alone."""
    held_path = out / "request.json"
    if held_path.is_file():
        held = JudgeRequest.model_validate_json(held_path.read_text(encoding="utf-8"))
        if held != request:
            differ = [name for name in JudgeRequest.model_fields if getattr(held, name) != getattr(request, name)]
            raise MoemixError(
                f"the folder holds a judging with another {', '.join(differ)}",
                where=str(out),
                hint="choose another --out, or remove the folder",
            )
    else:
        write_json(held_path, request.model_dump(mode="json"))
    return JudgeSummary.read(out / "summary.json") if (out / "summary.json").is_file() else None


def run_judges(
    request: JudgeRequest,
    bench: Bench,
    answers: Mapping[str, Answers],
    rules: Rules,
    out: Path,
    settings: Settings,
) -> Flags:
    """Ask every judge for what is missing; the flags of the answers.

    Raises:
        MoemixError: the budget is too small for what there is to do.
        StageFailed: an endpoint is gone or refuses us, or the budget is used up; run again to resume.
    """
    flags = {model: answer_flags(held, list(bench.questions)) for model, held in answers.items()}
    budget = Budget(settings.max_cost, settings.price) if settings.max_cost is not None and settings.price else None
    journals = {judge.name: Journal(journal_path(out, judge.name, request.mode)) for judge in request.judges}
    try:
        todo: dict[str, int] = {}
        estimate = Estimate()
        for judge in request.judges:
            journal = journals[judge.name]
            if settings.retry_failed:
                journal.forget([line["key"] for line in journal.records() if line["reason"] in UNDELIVERED])
            if budget:
                for line in journal.records():
                    budget.spent += cost([line], budget.price)
            before = estimate.requests
            for _, prompt, params in _missing(request, bench, answers, rules, judge, journal):
                estimate.add(prompt, params)
            todo[judge.name] = estimate.requests - before
        if estimate.requests and request.protocol != "reference":
            print(f"judging: {estimate.words(settings.price)}", file=sys.stderr)
        if budget:
            budget.check(estimate)
        for judge in request.judges:
            if todo[judge.name]:
                _run_judge(request, bench, answers, rules, judge, journals[judge.name], out, settings,
                           flags, todo[judge.name], budget)  # fmt: skip
    finally:
        for journal in journals.values():
            journal.close()
    if request.mode == "pairwise":
        for judge in request.judges:
            _write_pairs(out, judge.name)
    return flags


def _missing(
    request: JudgeRequest,
    bench: Bench,
    answers: Mapping[str, Answers],
    rules: Rules,
    judge: JudgeSpec,
    journal: Journal,
) -> Iterator[tuple[Task, Prompt, dict[str, Any]]]:
    """The tasks of a judge that its journal lacks, in order, with their prompts and arguments."""
    only = request.model_copy(update={"judges": (judge,)})
    for task in tasks(only, bench, answers):
        prompt, params = rules.prompt(task.match), parameters(request, task.match.repeat)
        if task_key(task, prompt, params) not in journal:
            yield task, prompt, params


def _run_judge(
    request: JudgeRequest,
    bench: Bench,
    answers: Mapping[str, Answers],
    rules: Rules,
    judge: JudgeSpec,
    journal: Journal,
    out: Path,
    settings: Settings,
    flags: Flags,
    todo: int,
    budget: Budget | None,
) -> None:
    stop = threading.Event()
    with open_judge(judge, request, out, settings) as endpoint, progress(f"judge {judge.name}", todo) as bar:
        if endpoint is not None:
            endpoint.stop = stop

        def works() -> Iterator[Work]:
            for task, prompt, params in _missing(request, bench, answers, rules, judge, journal):
                yield partial(_do, task, prompt, params, endpoint, rules, flags)

        ask_all(
            works(), journal, stop, concurrency=settings.concurrency, bar=bar,
            after=budget.spend if budget else lambda line: None,
        )  # fmt: skip


def _do(
    task: Task, prompt: Prompt, params: dict[str, Any], endpoint: Endpoint | None, rules: Rules, flags: Flags
) -> dict[str, Any]:
    match = task.match
    if endpoint is None:
        assert isinstance(rules, ReferenceGrader)
        reply = rules.grade(match)
    else:
        reply = endpoint.ask(prompt.messages, params, prompt.schema)
    found = set().union(*(flags[model].get(match.question.id, set()) for model in match.models))
    return record(task, prompt, params, reply, rules, found)


@contextmanager
def open_judge(judge: JudgeSpec, request: JudgeRequest, out: Path, settings: Settings) -> Iterator[Endpoint | None]:
    """A judge's endpoint, served by us for as long as this lasts where it is a checkpoint; None for the grader."""
    if request.protocol == "reference":
        yield None
        return
    if judge.checkpoint is None:
        assert judge.url is not None
        yield Endpoint(
            judge.url, judge.name, key=settings.key, timeout=settings.timeout, attempts=settings.attempts,
            pace=Pace(settings.per_minute),
        )  # fmt: skip
        return
    from evals.engines.vllm_server import VllmEngine

    folder = out / f"serve-{safe_name(judge.name)}"
    with VllmEngine(Path(judge.checkpoint), dtype=request.dtype, seed=request.seed, folder=folder) as engine:
        yield Endpoint(f"{engine.server.url}/v1", engine.server.model, timeout=SERVED_SECONDS,
                       attempts=settings.attempts, pace=Pace(settings.per_minute))  # fmt: skip


def judge_lines(out: Path, request: JudgeRequest) -> Iterator[dict[str, Any]]:
    """The judgments of all judges, streamed: pairwise, the pairs."""
    for judge in request.judges:
        lines = Journal.read(journal_path(out, judge.name, request.mode))
        yield from join_games(lines) if request.mode == "pairwise" else lines


def journal_path(out: Path, judge: str, mode: str) -> Path:
    return out / f"{'games' if mode == 'pairwise' else 'judgments'}-{safe_name(judge)}.jsonl"


def safe_name(name: str) -> str:
    """A judge's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_") or "judge"


def _write_pairs(out: Path, judge: str) -> None:
    """FastChat's pairwise judgments, whole, from the games."""
    games = Journal.read(journal_path(out, judge, "pairwise"))
    lines = (json.dumps(pair, ensure_ascii=False) + "\n" for pair in join_games(games))
    write_text(out / f"judgments-{safe_name(judge)}.jsonl", "".join(lines))
