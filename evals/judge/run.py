"""One judging from its request: load what it needs, answer, have every judge make what is missing, and summarise.

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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from threading import Event

from evals.addresses import is_loopback
from evals.judge.answers import answer_bench
from evals.judge.faithful import Faithful
from evals.judge.integrity import answer_flags
from evals.judge.journal import Journal, claim, journal_path, write_conversations, write_pairs
from evals.judge.judges import Budget, Estimate, Judge, Settings, ask_all, cost_of, judge_address, open_judge
from evals.judge.questions import PROMPTS, load_bench, match_ids, read_answers
from evals.judge.records import Answers, Bench, Judging, JudgingProtocol, Line, Task, record, tasks
from evals.judge.reference import NAME, ReferenceGrader, validate_checks
from evals.judge.scores import summarise, title
from evals.judge.strict import Strict
from evals.judge.transcript import write_transcript
from harness.checkpoint_argument import checkpoint_name
from harness.errors import MoemixError
from harness.files import hash_file
from harness.judging import JudgeConfig, JudgeRequest, JudgeSettings, JudgeSpec, JudgeSummary, JudgeTest
from harness.progress import duration, progress
from harness.requests import FILE, JudgeJobRequest
from harness.store import checkpoint_hash, exclusive
from harness.store import data_root as find_data_root

logger = logging.getLogger("moemix.evals")

# Failures that may not occur again: these judgments are repeated with ``retry_failed``.
TRANSIENT = ("rate_limited", "server_error", "timeout", "connection", "bad_reply", "empty", "forbidden", "no_sandbox")
_JUDGE_OPTIONS = "give --judge-model and --judge-url, or --judge-checkpoint"
_SETTINGS = JudgeSettings.model_fields.keys()
Confirm = Callable[[str], None]


def request_from(
    *,
    bench: str | None,
    judge_url: Sequence[str],
    judge_model: Sequence[str],
    judge_checkpoint: Sequence[Path],
    judge_weight: Sequence[float],
    judge_temperature: float,
    data_root: str | None,
    checkpoint: Path | None,
    **options: object,
) -> JudgeJobRequest:
    """Build the request that the command's options describe; the other options are fields of the same name."""
    options.pop("yes", None)  # for the command alone
    fields = {name: options.pop(name) for name in JudgeConfig.model_fields.keys() & options.keys()}
    config = {
        **fields,
        "bench": bench or "mt_bench",
        "judges": _judges(judge_url, judge_model, judge_checkpoint, judge_weight),
        "temperature": judge_temperature,
        "engine": fields["engine"] if checkpoint else None,
    }
    job = {"config": config, "checkpoint": checkpoint, "judge_checkpoints": judge_checkpoint, **options}
    return JudgeJobRequest.model_validate({**job, "data_root": find_data_root(data_root)})


def judge_request(
    job: JudgeJobRequest,
    confirm: Confirm | None = None,
    *,
    opened: Mapping[str, Judge] | None = None,
    tests: Mapping[str, JudgeTest] | None = None,
) -> JudgeSummary:
    """Answer a bench, judge the answers and summarise. The same request again resumes, or returns the summary.

    Args:
        job: the request.
        confirm: called with the estimate before anything is sent that has a price, or goes to another machine; raises
            to stop.
        opened: judges that are open already, by name.
        tests: judge → what its test says, for the summary (:func:`evals.judge.qualify.judge_tested`).

    Raises:
        MoemixError: the request is invalid, or its folder holds another judging.
        StageError: an engine or an endpoint failed; run again to resume.
    """
    started = time.monotonic()
    if bool(job.checkpoint) == bool(job.answers):
        raise MoemixError("give either a CHECKPOINT that answers, or --answers FILE")
    if job.max_cost is not None and job.price is None:
        raise MoemixError("a budget needs prices", where="--max-cost", hint="give --price IN,OUT for a million tokens")
    whole = load_bench(job.config.bench, job.data_root, job.references)
    bench = whole.limited(job.config.limit)
    protocol = _protocol(job, whole)
    answers = _answers(job, bench)
    model = job.model_name or (checkpoint_name(job.checkpoint) if job.checkpoint else "")
    if job.checkpoint and model in answers:
        raise MoemixError(f"the baseline has the name {model!r} too", hint="give another --model-name")
    fingerprint = checkpoint_hash(job.checkpoint) if job.checkpoint else None
    mine = {model: fingerprint} if fingerprint else {}
    request = _request(job, bench, protocol, mine | {name: given.fingerprint for name, given in answers.items()})
    settings = Settings.of(job)
    with exclusive(job.out):
        finished = claim(job.out, request)
        if finished is not None and not job.retry_failed:
            if tests and finished.tested != tests:
                finished = finished.model_copy(update={"tested": dict(tests)})
                finished.write(job.out / "summary.json")
            logger.info("%s: already judged in %s (remove the folder to judge again)", bench.name, job.out)
            return finished
        if not (job.out / FILE).is_file():
            job.save()
        (job.out / "summary.json").unlink(missing_ok=True)
        engine: dict[str, object] = {}
        if job.checkpoint:
            template = job.chat_template.read_text(encoding="utf-8") if job.chat_template else None
            given, engine = answer_bench(job.checkpoint, model, request, bench.questions, template, job.out)
            answers = {model: given, **answers}
        flags = {model: answer_flags(given, bench.questions) for model, given in answers.items()}
        judging = Judging(request, bench, answers, flags, protocol, job.out)
        write_conversations(judging)
        run_judges(judging, settings, confirm, opened or {})
        write_transcript(judging, title(request, bench))
        summary = summarise(
            judging, price=settings.price, seconds=time.monotonic() - started,
            checkpoint=str(job.checkpoint) if job.checkpoint else None, checkpoint_hash=fingerprint, engine=engine,
            tested=tests,
        )  # fmt: skip
    logger.info("%s: judged in %s", bench.name, duration(summary.seconds))
    return summary


def _request(job: JudgeJobRequest, bench: Bench, protocol: JudgingProtocol, answers: dict[str, str]) -> JudgeRequest:
    """Return the request with the hash of everything that it reads."""
    config = job.config
    baseline = read_answers(job.baseline).model if job.baseline else None
    settings = config.model_dump(include=_SETTINGS - {"bench", "judges", "repeats"})
    resolved = {
        "bench": bench.name,
        "bench_hash": bench.fingerprint,
        "answers": answers,
        "baseline": baseline,
        "protocol": protocol.name,
        "protocol_hash": protocol.fingerprint,
        "judges": tuple(judges_of(job)) or (JudgeSpec(name=NAME),),
        "repeats": config.repeats if config.judges else 1,
        "chat_template": hash_file(job.chat_template) if job.chat_template else None,
    }
    return JudgeRequest.model_validate(settings | resolved)


def _protocol(job: JudgeJobRequest, bench: Bench) -> JudgingProtocol:
    if not job.config.judges:
        if job.config.mode == "pairwise":
            raise MoemixError("the reference grader grades single answers; pairwise needs a judge", hint=_JUDGE_OPTIONS)
        checked = [question for question in bench.questions if question.checks]
        if not checked:
            raise MoemixError(f"no answer to {bench.name} can be checked without a judge", hint=_JUDGE_OPTIONS)
        for question in checked:
            validate_checks(question.checks, f"{bench.name}, question {question.id}")
        return ReferenceGrader()
    if job.config.protocol == "strict":
        return protocol_of(job, None)
    for question in bench.questions:
        if len(question.turns) > 2 or question.rubric:
            what = "a rubric" if question.rubric else f"{len(question.turns)} turns"
            raise MoemixError(f"FastChat's templates have no place for {what}",
                              where=f"{bench.name}, question {question.id}", hint="use --protocol strict")  # fmt: skip
    return protocol_of(job, bench.prompts)


def protocol_of(job: JudgeJobRequest, prompts: Path | None) -> JudgingProtocol:
    """Return the protocol that a judge is asked by; ``prompts`` are templates that lie beside the bench.

    Raises:
        MoemixError: the protocol needs templates, and there are none.
    """
    if job.config.protocol == "strict":
        return Strict(job.config.judge_max_tokens)
    templates = job.judge_prompts or prompts
    if templates is None:
        message = "`faithful` needs FastChat's judge templates, which are not part of this project"
        raise MoemixError(message, hint=f"give --judge-prompts FILE, or a data root with mt_bench/{PROMPTS}")
    return Faithful(templates)


def _judges(
    urls: Sequence[str], names: Sequence[str], checkpoints: Sequence[Path], weights: Sequence[float]
) -> tuple[JudgeSpec, ...]:
    """Return the panel: names at one address or each at its own, and checkpoints that we serve."""
    if len(urls) > 1 and len(urls) != len(names):
        raise MoemixError(f"{len(urls)} --judge-url for {len(names)} --judge-model", hint="give one, or one for each")
    if names and not urls:
        raise MoemixError("--judge-model needs --judge-url", hint="or serve a judge with --judge-checkpoint DIR")
    if urls and not names:
        raise MoemixError("--judge-url needs --judge-model", hint="give the name that the server knows the judge by")
    addresses = list(urls) * len(names) if len(urls) == 1 else list(urls)
    judges = [JudgeSpec(name=name, url=judge_address(url)) for name, url in zip(names, addresses, strict=True)]
    judges += [JudgeSpec(name=checkpoint_name(folder)) for folder in checkpoints]
    all_names = [judge.name for judge in judges]
    if repeated := sorted({name for name in all_names if all_names.count(name) > 1}):
        raise MoemixError(f"two judges have the name {repeated[0]!r}", hint="use --repeats to ask one judge again")
    if weights and len(weights) != len(judges):
        raise MoemixError(f"{len(weights)} --judge-weight for {len(judges)} judges", hint="give one for each judge")
    each = weights or (1.0,) * len(judges)
    return tuple(judge.model_copy(update={"weight": weight}) for judge, weight in zip(judges, each, strict=True))


def judges_of(job: JudgeJobRequest) -> Iterator[JudgeSpec]:
    """Yield a request's judges, with the normal form of their address, or with folder and hash of their checkpoint."""
    folders = iter(job.judge_checkpoints)
    for judge in job.config.judges:
        if judge.url is not None:
            yield judge.model_copy(update={"url": judge_address(judge.url)})
        else:
            folder = next(folders)
            yield judge.model_copy(update={"checkpoint": str(folder), "checkpoint_hash": checkpoint_hash(folder)})


def _answers(job: JudgeJobRequest, bench: Bench) -> dict[str, Answers]:
    """Return the answers of every file, by model; the baseline's last."""
    if job.model_name and len(job.answers) > 1:
        raise MoemixError("--model-name names one model", hint="several --answers files have the names inside them")
    pairwise = job.config.mode == "pairwise"
    if job.baseline and not pairwise:
        raise MoemixError("--baseline is for --mode pairwise")
    if pairwise and not job.baseline and len(job.answers) < 2:
        raise MoemixError("pairwise needs a --baseline FILE, or several --answers files for all pairs")
    answers: dict[str, Answers] = {}
    for file in [*job.answers, *([job.baseline] if job.baseline else [])]:
        given = match_ids(read_answers(file), bench, file)
        if job.model_name and file in job.answers:
            given = Answers(job.model_name, given.answers)
        if given.model in answers:
            raise MoemixError(f"two files have answers of {given.model!r}", where=str(file))
        answers[given.model] = given
    return answers


# --- asking the judges ------------------------------------------------------------------------------


def run_judges(
    judging: Judging, settings: Settings, confirm: Confirm | None = None, opened: Mapping[str, Judge] | None = None
) -> None:
    """Ask every judge for the judgments that are missing; ``confirm`` is as in :func:`judge_request`.

    Raises:
        MoemixError: the estimate exceeds the budget.
        StageError: an endpoint is gone or refuses all requests, or the budget is used up; run again to resume.
    """
    run = _Run(judging, settings, opened or {})
    try:
        missing = run.plan(confirm)
        for judge in judging.request.judges:
            if missing[judge.name]:
                run.ask(judge, missing[judge.name])
    finally:
        for journal in run.journals.values():
            journal.close()
    if judging.request.mode == "pairwise":
        for judge in judging.request.judges:
            write_pairs(judging.out, judge.name)


class _Run:
    """The state that the judgments of one run share.

    Attributes:
        opened: judge → the open judge, of those that somebody else opened and closes.
        journals: judge → the file of its judgments.
        earlier: key → the failed judgment that is repeated; its requests and tokens count on.
    """

    def __init__(self, judging: Judging, settings: Settings, opened: Mapping[str, Judge]) -> None:
        self.judging, self.settings, self.request, self.opened = judging, settings, judging.request, opened
        paths = {judge.name: journal_path(judging.out, judge.name, self.request.mode) for judge in self.request.judges}
        self.journals = {judge: Journal(path) for judge, path in paths.items()}
        self.earlier: dict[str, Line] = {}
        cost, price = settings.max_cost, settings.price
        self.budget = None if cost is None or price is None else Budget(cost, price)

    def plan(self, confirm: Confirm | None) -> dict[str, int]:
        """Return how many judgments each judge has to make; log the estimate and check it against the budget."""
        missing: dict[str, int] = {}
        estimate = Estimate()
        for judge, journal in self.journals.items():
            before = estimate.requests
            for line in journal.records():
                if self.budget:
                    self.budget.spent += cost_of(line, self.budget.price)
                if self.settings.retry_failed and line["reason"] in TRANSIENT:
                    self.earlier[line["key"]] = line
            journal.forget(self.earlier)
            for task in self._missing(judge):
                estimate.add(task)
            missing[judge] = estimate.requests - before
        if estimate.requests and self.request.protocol != "reference":
            logger.info("judging: %s", estimate.as_text(self.settings.price))
        if self.budget:
            self.budget.check(estimate)
        elsewhere = any(judge.url and not is_loopback(judge.url) for judge in self.request.judges)
        if confirm and estimate.requests and (self.settings.price or elsewhere):
            confirm(estimate.as_text(self.settings.price))
        return missing

    def _missing(self, judge: str) -> Iterator[Task]:
        """Yield the tasks of a judge that its file lacks."""
        return (task for task in tasks(self.judging, judge) if task.key not in self.journals[judge])

    def ask(self, spec: JudgeSpec, missing: int) -> None:
        """Have a judge (or the reference grader) make its missing judgments."""
        opened: AbstractContextManager[Judge | None] = nullcontext()
        if spec.name in self.opened:
            opened = nullcontext(self.opened[spec.name])
        elif self.request.protocol != "reference":
            opened = open_judge(spec, self.request, self.judging.out, self.settings, self.budget)
        with opened as judge, progress(f"judge {spec.name}", missing) as bar:
            works = (partial(self._judge, judge, task) for task in self._missing(spec.name))
            ask_all(works, self.journals[spec.name], bar, concurrency=self.settings.concurrency)

    def _judge(self, judge: Judge | None, task: Task, stop: Event) -> Line:
        """Make one judgment and return its line."""
        reply = judge.ask(task, stop) if judge else ReferenceGrader().grade(task.match)
        line = record(task, reply, self.judging)
        if earlier := self.earlier.get(task.key):
            for name in ("attempts", "prompt_tokens", "reply_tokens"):
                line[name] += earlier[name]
        return line | ({"engine": judge.engine} if judge and judge.engine else {})
