"""Run a judging: ask every judge for the judgments that are missing.

A judging's folder has these files:

<out>/request.json              the request, first
<out>/resolved.json             the request with the hash of everything that it reads
<out>/answers.jsonl             FastChat's answer file
<out>/judgments-<judge>.jsonl   one line for each judgment, in FastChat's shape, with prompt, arguments and reply
<out>/games-<judge>.jsonl       pairwise: the single games; judgments-<judge>.jsonl has the pairs
<out>/scores.jsonl              the score of each turn of each question
<out>/transcript.html           questions, answers, verdicts and explanations, to read and filter
<out>/summary.json              last: a judging is finished when this exists
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from threading import Event

from evals.judge.budget import Budget, Estimate, cost_of
from evals.judge.integrity import answer_flags
from evals.judge.journal import Journal, journal_path, resolved_request, write_pairs
from evals.judge.judges import Judge, Settings, ask_all, open_judge
from evals.judge.records import Judging, Line, Match, Params, Prompt
from evals.judge.reference import ReferenceGrader
from evals.judge.summary import Flags
from evals.judge.tasks import match_key, matches, parameters, record
from harness.errors import MoemixError
from harness.files import write_json
from harness.judging import JudgeRequest, JudgeSpec, JudgeSummary
from harness.progress import progress
from harness.requests import RESOLVED

logger = logging.getLogger("moemix.evals")

# Failures that may not occur again: these judgments are repeated with ``retry_failed``.
TRANSIENT = ("rate_limited", "server_error", "timeout", "connection", "bad_reply", "empty", "no_sandbox")


def claim(out: Path, request: JudgeRequest) -> JudgeSummary | None:
    """Make ``out`` the folder of this request, and return the summary if it is finished.

    Raises:
        MoemixError: the folder has the judging of another request.
    """
    stored = resolved_request(out)
    if stored is None:
        write_json(out / RESOLVED, request.model_dump(mode="json"))
    elif stored != request:
        different = [name for name in JudgeRequest.model_fields if getattr(stored, name) != getattr(request, name)]
        raise MoemixError(
            f"the folder holds a judging with another {', '.join(different)}",
            where=str(out),
            hint="choose another --out, or remove the folder",
        )
    return JudgeSummary.read(out / "summary.json") if (out / "summary.json").is_file() else None


def run_judges(judging: Judging, settings: Settings) -> Flags:
    """Ask every judge for the judgments that are missing, and return the flags of the answers.

    Raises:
        MoemixError: the estimate exceeds the budget.
        StageFailed: an endpoint is gone or refuses all requests, or the budget is used up; run again to resume.
    """
    questions = judging.bench.questions
    flags = {model: answer_flags(answers, questions) for model, answers in judging.answers.items()}
    run = _Run(judging, settings, flags)
    try:
        missing = run.plan()
        for judge in judging.request.judges:
            if missing[judge.name]:
                run.ask(judge, missing[judge.name])
    finally:
        for journal in run.journals.values():
            journal.close()
    if judging.request.mode == "pairwise":
        for judge in judging.request.judges:
            write_pairs(judging.out, judge.name)
    return flags


class _Run:
    """The state that the judgments of one run share.

    Attributes:
        journals: judge → the file of its judgments.
        attempts: key → requests sent earlier for a failed judgment that is repeated.
    """

    def __init__(self, judging: Judging, settings: Settings, flags: Flags) -> None:
        self.judging, self.settings, self.flags = judging, settings, flags
        self.request = judging.request
        self.journals = {
            judge.name: Journal(journal_path(judging.out, judge.name, self.request.mode))
            for judge in self.request.judges
        }  # fmt: skip
        self.attempts: dict[str, int] = {}
        self.budget: Budget | None = None
        if settings.max_cost is not None and settings.price is not None:
            self.budget = Budget(settings.max_cost, settings.price)

    def plan(self) -> dict[str, int]:
        """Return how many judgments each judge has to make; log the estimate and check it against the budget."""
        missing: dict[str, int] = {}
        estimate = Estimate()
        for judge, journal in self.journals.items():
            before = estimate.requests
            for line in journal.records():
                if self.budget:
                    self.budget.spent += cost_of(line, self.budget.price)
                if self.settings.retry_failed and line["reason"] in TRANSIENT:
                    self.attempts[line["key"]] = line["attempts"]
            journal.forget(self.attempts)
            for _, prompt, params in self._missing(judge):
                estimate.add(prompt, params)
            missing[judge] = estimate.requests - before
        if estimate.requests and self.request.protocol != "reference":
            logger.info("judging: %s", estimate.as_text(self.settings.price))
        if self.budget:
            self.budget.check(estimate)
        return missing

    def _missing(self, judge: str) -> Iterator[tuple[Match, Prompt, Params]]:
        """Yield the matches of a judge that its file lacks, with their prompts and arguments."""
        for match in matches(self.judging, judge):
            prompt, params = self.judging.protocol.prompt(match), parameters(self.request, match.repeat)
            if match_key(match, prompt, params) not in self.journals[judge]:
                yield match, prompt, params

    def ask(self, spec: JudgeSpec, missing: int) -> None:
        """Have a judge (or the reference grader) make its missing judgments."""
        opened: AbstractContextManager[Judge | None] = nullcontext()
        if self.request.protocol != "reference":
            opened = open_judge(spec, self.request, self.judging.out, self.settings)
        with opened as judge, progress(f"judge {spec.name}", missing) as bar:
            works = (partial(self._judge, judge, *needed) for needed in self._missing(spec.name))
            after = self.budget.spend if self.budget else lambda line: None
            ask_all(works, self.journals[spec.name], bar, concurrency=self.settings.concurrency, after=after)

    def _judge(self, judge: Judge | None, match: Match, prompt: Prompt, params: Params, stop: Event) -> Line:
        """Make one judgment and return its line."""
        protocol = self.judging.protocol
        if isinstance(protocol, ReferenceGrader) or judge is None:
            reply, engine = ReferenceGrader().grade(match), None
        else:
            reply, engine = judge.ask(prompt, params, stop), judge.engine
        flags = set[str]().union(*(self.flags[model].get(match.question.id, set()) for model in match.models))
        line = record(match, prompt, params, reply, protocol, flags)
        line["attempts"] += self.attempts.get(line["key"], 0)
        return line | ({"engine": engine} if engine else {})
