"""One judging from its request: load the bench, the answers and the judges, run them, and summarise."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.cache import open_cache
from evals.judge.answers import Answers, ask, read_answers, write_answers
from evals.judge.budget import parse_price
from evals.judge.endpoint import api_key, base_url
from evals.judge.faithful import Faithful
from evals.judge.prompts import Rules
from evals.judge.questions import PROMPTS, Bench, load_bench
from evals.judge.reference import NAME, ReferenceGrader, check_checks
from evals.judge.run import Settings, claim, run_judges
from evals.judge.strict import Strict
from evals.judge.summary import summarise, title
from evals.judge.transcript import write_transcript
from harness.checkpoint_argument import checkpoint_name
from harness.errors import MoemixError
from harness.files import hash_file
from harness.progress import duration
from harness.records import JudgeRequest, JudgeSettings, JudgeSpec, JudgeSummary
from harness.requests import FILE, JudgeConfig, JudgeJobRequest
from harness.store import checkpoint_hash, exclusive
from harness.store import data_root as find_data_root

_SETTINGS = JudgeSettings.model_fields.keys()


def request_from(
    *,
    bench: str | None,
    judge_url: Sequence[str],
    judge_model: Sequence[str],
    judge_checkpoint: Sequence[Path],
    judge_temperature: float,
    data_root: str | None,
    checkpoint: Path | None,
    **options: Any,
) -> JudgeJobRequest:
    """Build the request that the command's options describe; the other options are fields of the same name."""
    fields = {name: options.pop(name) for name in JudgeConfig.model_fields.keys() & options.keys()}
    config = JudgeConfig(
        bench=bench or "mt_bench",
        judges=_judges(judge_url, judge_model, judge_checkpoint),
        temperature=judge_temperature,
        **{**fields, "engine": fields["engine"] if checkpoint else None},
    )
    return JudgeJobRequest(
        config=config,
        checkpoint=checkpoint,
        judge_checkpoints=tuple(judge_checkpoint),
        data_root=find_data_root(data_root),
        **options,
    )


def judge_request(job: JudgeJobRequest) -> JudgeSummary:
    """Answer, judge, summarise. The same request again resumes, or returns what is there.

    Raises:
        MoemixError: bad input, or a folder that holds another judging.
        StageFailed: an engine or endpoint failed; run again to resume.
    """
    started = time.monotonic()
    config, checkpoint, out = job.config, job.checkpoint, job.out
    if bool(checkpoint) == bool(job.answers):
        raise MoemixError("give either a CHECKPOINT to be asked, or --answers FILE")
    if job.max_cost is not None and job.price is None:
        raise MoemixError(
            "a budget needs prices", where="--max-cost", hint="give --price IN,OUT for a million tokens each"
        )
    whole = load_bench(config.bench, job.data_root, job.references)
    questions = whole.limited(config.limit)
    rules = _rules(config, job.judge_prompts, whole)
    given = _given(job.answers, job.baseline, config.mode)
    name = job.model_name or (checkpoint_name(checkpoint) if checkpoint else "")
    identities = {model: held.fingerprint for model, held in given.items()}
    fingerprint = None
    if checkpoint:
        if name in given:
            raise MoemixError(f"the baseline is called {name!r} as well", hint="give another --model-name")
        fingerprint = checkpoint_hash(checkpoint)
        identities = {name: fingerprint, **identities}
    request = JudgeRequest(
        **config.model_dump(include=_SETTINGS - {"bench", "judges", "repeats"}),
        bench=questions.name,
        bench_hash=questions.fingerprint,
        answers=identities,
        baseline=read_answers(job.baseline).model if job.baseline and config.mode == "pairwise" else None,
        protocol=rules.name,  # type: ignore[arg-type]
        protocol_hash=rules.fingerprint,
        judges=_resolved(config.judges, job.judge_checkpoints) or (JudgeSpec(name=NAME),),
        repeats=config.repeats if config.judges else 1,
        chat_template=hash_file(job.chat_template) if job.chat_template else None,
    )
    settings = Settings(
        concurrency=job.concurrency, per_minute=job.rate, timeout=job.timeout, attempts=job.attempts, key=api_key(),
        price=parse_price(job.price) if job.price else None, max_cost=job.max_cost, retry_failed=job.retry_failed,
    )  # fmt: skip
    with exclusive(out):
        finished = claim(out, request)
        if finished is not None and not job.retry_failed:
            print(f"{questions.name}: already judged in {out} (remove the folder to do it anew)", file=sys.stderr)
            return finished
        if not (out / FILE).is_file():
            job.save()
        (out / "summary.json").unlink(missing_ok=True)
        engine_says: dict[str, Any] = {}
        held = dict(given)
        if checkpoint:
            template = job.chat_template.read_text(encoding="utf-8") if job.chat_template else None
            mine, engine_says = _answer(checkpoint, str(fingerprint), name, request, questions, template, out)
            held = {name: mine, **given}
        flags = run_judges(request, questions, held, rules, out, settings)
        write_transcript(out, request, questions, held, title(request, questions))
        summary = summarise(
            request, questions, held, flags, out, price=settings.price, seconds=time.monotonic() - started,
            checkpoint=str(checkpoint) if checkpoint else None, checkpoint_hash=fingerprint, engine=engine_says,
        )  # fmt: skip
    print(f"{questions.name}: judged in {duration(summary.seconds)}", file=sys.stderr)
    return summary


def _answer(
    checkpoint: Path, fingerprint: str, name: str, request: JudgeRequest, bench: Bench, template: str | None, out: Path
) -> tuple[Answers, dict[str, Any]]:
    """The checkpoint's answers, asked for where they are not there yet, and what the engine says of itself."""
    from evals.engines.choose import open_engine
    from harness.files import read_json, write_json

    file, described = out / "answers.jsonl", out / "engine.json"
    if file.is_file() and described.is_file():
        return read_answers(file), read_json(described)
    with open_engine(str(request.engine), checkpoint, dtype=request.dtype, seed=request.seed, folder=out) as engine:
        says = engine.describe()
        cache = open_cache({"checkpoint": fingerprint, "engine": says})
        replies = ask(
            bench.questions, engine.lm(), cache, seed=request.seed, max_tokens=request.max_tokens, template=template
        )
        cache.close()
    write_json(described, says)
    return write_answers(file, name, bench.questions, replies, request.seed), says


def _rules(config: JudgeConfig, prompts: Path | None, bench: Bench) -> Rules:
    if not config.judges:
        if config.mode == "pairwise":
            raise MoemixError("the reference grader grades single answers; pairwise needs a judge",
                              hint="give --judge-model and --judge-url, or --judge-checkpoint")  # fmt: skip
        checked = [question for question in bench.questions if question.checks]
        if not checked:
            raise MoemixError(
                f"no answer to {bench.name} can be checked without a judge",
                hint="give --judge-model and --judge-url, or --judge-checkpoint",
            )
        for question in checked:
            check_checks(question.checks, f"{bench.name}, question {question.id}")
        return ReferenceGrader()
    if config.protocol == "strict":
        return Strict(config.judge_max_tokens)
    file = prompts or bench.prompts
    if file is None:
        raise MoemixError(
            "`faithful` needs FastChat's judge templates, which are not part of this project",
            hint=f"give --judge-prompts FILE, or a data root with mt_bench/{PROMPTS}",
        )
    return Faithful(file)


def _judges(urls: Sequence[str], names: Sequence[str], checkpoints: Sequence[Path]) -> tuple[JudgeSpec, ...]:
    """The panel: names at one address, or each at its own; and checkpoints that we serve."""
    if len(urls) > 1 and len(urls) != len(names):
        raise MoemixError(f"{len(urls)} --judge-url for {len(names)} --judge-model", hint="give one, or one for each")
    if names and not urls:
        raise MoemixError("--judge-model needs --judge-url", hint="or serve one with --judge-checkpoint DIR")
    if urls and not names:
        raise MoemixError("--judge-url needs --judge-model, the judge's name there")
    places = list(urls) * len(names) if len(urls) == 1 else list(urls)
    found = [JudgeSpec(name=name, url=base_url(url)) for name, url in zip(names, places, strict=True)]
    found += [JudgeSpec(name=checkpoint_name(folder)) for folder in checkpoints]
    repeated = {judge.name for judge in found if [other.name for other in found].count(judge.name) > 1}
    if repeated:
        raise MoemixError(f"two judges are called {', '.join(sorted(repeated))}", hint="use --repeats to ask one again")
    return tuple(found)


def _resolved(judges: Sequence[JudgeSpec], checkpoints: Sequence[Path]) -> tuple[JudgeSpec, ...]:
    """Return the judges with their normal address, or with the folder and hash of their checkpoint."""
    folders = iter(checkpoints)
    resolved = []
    for judge in judges:
        if judge.url is None:
            folder = next(folders)
            changes = {"checkpoint": str(folder), "checkpoint_hash": checkpoint_hash(folder)}
        else:
            changes = {"url": base_url(judge.url)}
        resolved.append(judge.model_copy(update=changes))
    return tuple(resolved)


def _given(files: Sequence[Path], baseline: Path | None, mode: str) -> dict[str, Answers]:
    """The answers of every file, by model; the baseline's last."""
    if baseline and mode != "pairwise":
        raise MoemixError("--baseline is for --mode pairwise")
    if mode == "pairwise" and not baseline and len(files) < 2:
        raise MoemixError("pairwise needs a --baseline FILE, or several --answers files for all pairs")
    found: dict[str, Answers] = {}
    for file in [*files, *([baseline] if baseline else [])]:
        held = read_answers(file)
        if held.model in found:
            raise MoemixError(f"two files hold answers of {held.model!r}", where=str(file))
        found[held.model] = held
    return found
