"""One judging: a bench, answers and judges in, judgments and a summary out.

<out>/request.json              what was asked, first
<out>/resolved.json             the same with the hash of everything that is read
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
from harness.files import read_json, write_json, write_text
from harness.progress import progress
from harness.records import JudgeRequest, JudgeSpec, JudgeSummary
from harness.requests import FILE, RESOLVED

# What a later attempt may mend: asked again with ``retry_failed``.
MENDABLE = ("rate_limited", "server_error", "timeout", "connection", "bad_reply", "empty", "no_sandbox")
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
    held = resolved_request(out)
    if held is not None:
        if held != request:
            differ = [name for name in JudgeRequest.model_fields if getattr(held, name) != getattr(request, name)]
            raise MoemixError(
                f"the folder holds a judging with another {', '.join(differ)}",
                where=str(out),
                hint="choose another --out, or remove the folder",
            )
    else:
        write_json(out / RESOLVED, request.model_dump(mode="json"))
    return JudgeSummary.read(out / "summary.json") if (out / "summary.json").is_file() else None


def resolved_request(folder: Path) -> JudgeRequest | None:
    """Return what the judging in a folder was asked for, files replaced by their hashes; None if none has begun."""
    for path in (folder / RESOLVED, folder / FILE):  # version 0.1 stored it as request.json
        tree = read_json(path) if path.is_file() else {}
        if "bench_hash" in tree:
            return JudgeRequest.model_validate(tree)
    return None


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
    judging = _Judging(request, bench, answers, rules, out, settings, flags)
    journals = {judge.name: Journal(journal_path(out, judge.name, request.mode)) for judge in request.judges}
    try:
        todo = judging.plan(journals)
        for judge in request.judges:
            if todo[judge.name]:
                judging.ask(judge, journals[judge.name], todo[judge.name])
    finally:
        for journal in journals.values():
            journal.close()
    if request.mode == "pairwise":
        for judge in request.judges:
            _write_pairs(out, judge.name)
    return flags


class _Judging:
    """What the judgments of one request share."""

    def __init__(
        self,
        request: JudgeRequest,
        bench: Bench,
        answers: Mapping[str, Answers],
        rules: Rules,
        out: Path,
        settings: Settings,
        flags: Flags,
    ) -> None:
        self.request, self.bench, self.answers, self.rules = request, bench, answers, rules
        self.out, self.settings, self.flags = out, settings, flags
        self.sent: dict[str, int] = {}  # requests already sent for judgments that are asked for again
        self.budget: Budget | None = None
        if settings.max_cost is not None and settings.price is not None:
            self.budget = Budget(settings.max_cost, settings.price)

    def plan(self, journals: Mapping[str, Journal]) -> dict[str, int]:
        """How many judgments each judge still has to give; told, and held against the budget."""
        todo: dict[str, int] = {}
        estimate = Estimate()
        for judge in self.request.judges:
            journal, before = journals[judge.name], estimate.requests
            for line in journal.records():
                if self.budget:
                    self.budget.spent += cost([line], self.budget.price)
                if self.settings.retry_failed and line["reason"] in MENDABLE:
                    self.sent[line["key"]] = line["attempts"]
            journal.forget(self.sent)
            for _, prompt, params in self.missing(judge, journal):
                estimate.add(prompt, params)
            todo[judge.name] = estimate.requests - before
        if estimate.requests and self.request.protocol != "reference":
            print(f"judging: {estimate.words(self.settings.price)}", file=sys.stderr)
        if self.budget:
            self.budget.check(estimate)
        return todo

    def missing(self, judge: JudgeSpec, journal: Journal) -> Iterator[tuple[Task, Prompt, dict[str, Any]]]:
        """The tasks of a judge that its journal lacks, in order, with their prompts and arguments."""
        only = self.request.model_copy(update={"judges": (judge,)})
        for task in tasks(only, self.bench, self.answers):
            prompt, params = self.rules.prompt(task.match), parameters(self.request, task.match.repeat)
            if task_key(task, prompt, params) not in journal:
                yield task, prompt, params

    def ask(self, judge: JudgeSpec, journal: Journal, todo: int) -> None:
        """Have a judge give what is missing."""
        stop = threading.Event()
        with (
            open_judge(judge, self.request, self.out, self.settings) as endpoint,
            progress(f"judge {judge.name}", todo) as bar,
        ):
            if endpoint is not None:
                endpoint.stop = stop

            def works() -> Iterator[Work]:
                for task, prompt, params in self.missing(judge, journal):
                    yield partial(self.judge, task, prompt, params, endpoint)

            after = self.budget.spend if self.budget else lambda line: None
            ask_all(works(), journal, stop, concurrency=self.settings.concurrency, bar=bar, after=after)

    def judge(self, task: Task, prompt: Prompt, params: dict[str, Any], endpoint: Endpoint | None) -> dict[str, Any]:
        """One judgment's line."""
        match = task.match
        if endpoint is None:
            assert isinstance(self.rules, ReferenceGrader)
            reply = self.rules.grade(match)
        else:
            reply = endpoint.ask(prompt.messages, params, prompt.schema)
        found = set().union(*(self.flags[model].get(match.question.id, set()) for model in match.models))
        line = record(task, prompt, params, reply, self.rules, found)
        line["attempts"] += self.sent.get(line["key"], 0)
        if endpoint is not None and endpoint.engine:
            line["engine"] = endpoint.engine
        return line


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
        endpoint = Endpoint(f"{engine.server.url}/v1", engine.server.model, timeout=SERVED_SECONDS,
                            attempts=settings.attempts, pace=Pace(settings.per_minute))  # fmt: skip
        endpoint.engine = engine.describe()
        yield endpoint


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
