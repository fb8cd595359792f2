"""The command's arguments made a request: which bench, whose answers, which judges, by which rules."""

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
from harness.records import JudgeRequest, JudgeSpec, JudgeSummary
from harness.store import checkpoint_hash, exclusive
from harness.store import data_root as find_data_root


def judge_command(
    *,
    checkpoint: Path | None,
    bench: str | None,
    answers: Sequence[Path],
    data_root: str | None,
    references: Path | None,
    limit: int | None,
    engine: str,
    dtype: str,
    seed: int,
    max_tokens: int,
    chat_template: Path | None,
    model_name: str | None,
    judge_url: Sequence[str],
    judge_model: Sequence[str],
    judge_checkpoint: Sequence[Path],
    mode: str,
    baseline: Path | None,
    protocol: str,
    judge_prompts: Path | None,
    repeats: int,
    judge_temperature: float,
    judge_max_tokens: int,
    concurrency: int,
    rate: float | None,
    timeout: float,
    attempts: int,
    max_cost: float | None,
    price: str | None,
    retry_failed: bool,
    out: Path,
) -> JudgeSummary:
    """Answer, judge, summarise. The same arguments again resume, or return what is there.

    Raises:
        MoemixError: bad input, or a folder that holds another judging.
        StageFailed: an engine or endpoint failed; run again to resume.
    """
    started = time.monotonic()
    if bool(checkpoint) == bool(answers):
        raise MoemixError("give either a CHECKPOINT to be asked, or --answers FILE")
    if max_cost is not None and price is None:
        raise MoemixError(
            "a budget needs prices", where="--max-cost", hint="give --price IN,OUT for a million tokens each"
        )
    root = find_data_root(data_root)
    whole = load_bench(bench or "mt_bench", root, references)
    questions = whole.limited(limit)
    judges = _judges(judge_url, judge_model, judge_checkpoint)
    rules = _rules(protocol, judge_prompts, whole, mode, judge_max_tokens, graded=not judges)
    given = _given(answers, baseline, mode)
    name = model_name or (checkpoint_name(checkpoint) if checkpoint else "")
    identities = {model: held.fingerprint for model, held in given.items()}
    fingerprint = None
    if checkpoint:
        if name in given:
            raise MoemixError(f"the baseline is called {name!r} as well", hint="give another --model-name")
        fingerprint = checkpoint_hash(checkpoint)
        identities = {name: fingerprint, **identities}
    request = JudgeRequest(
        bench=questions.name,
        bench_hash=questions.fingerprint,
        answers=identities,
        baseline=read_answers(baseline).model if baseline and mode == "pairwise" else None,
        mode="pairwise" if mode == "pairwise" else "single",
        protocol=rules.name,  # type: ignore[arg-type]
        protocol_hash=rules.fingerprint,
        judges=judges or (JudgeSpec(name=NAME),),
        repeats=repeats if judges else 1,
        temperature=judge_temperature,
        judge_max_tokens=judge_max_tokens,
        limit=limit,
        engine=engine if checkpoint else None,
        dtype=dtype,
        seed=seed,
        max_tokens=max_tokens,
        chat_template=hash_file(chat_template) if chat_template else None,
    )
    settings = Settings(
        concurrency=concurrency, per_minute=rate, timeout=timeout, attempts=attempts, key=api_key(),
        price=parse_price(price) if price else None, max_cost=max_cost, retry_failed=retry_failed,
    )  # fmt: skip
    out = out.resolve()
    with exclusive(out):
        finished = claim(out, request)
        if finished is not None and not retry_failed:
            print(f"{questions.name}: already judged in {out} (remove the folder to do it anew)", file=sys.stderr)
            return finished
        (out / "summary.json").unlink(missing_ok=True)
        engine_says: dict[str, Any] = {}
        held = dict(given)
        if checkpoint:
            template = chat_template.read_text(encoding="utf-8") if chat_template else None
            mine, engine_says = _answer(checkpoint.resolve(), str(fingerprint), name, request, questions, template, out)
            held = {name: mine, **given}
        flags = run_judges(request, questions, held, rules, out, settings)
        write_transcript(out, request, questions, held, title(request, questions))
        summary = summarise(
            request, questions, held, flags, out, price=settings.price, seconds=time.monotonic() - started,
            checkpoint=str(checkpoint.resolve()) if checkpoint else None, checkpoint_hash=fingerprint,
            engine=engine_says,
        )  # fmt: skip
    print(f"{questions.name}: judged in {duration(summary.seconds)}", file=sys.stderr)
    return summary


def _answer(
    checkpoint: Path, fingerprint: str, name: str, request: JudgeRequest, bench: Bench, template: str | None, out: Path
) -> tuple[Answers, dict[str, Any]]:
    """The checkpoint's answers, asked for where they are not there yet, and what the engine says of itself."""
    from evals.engines.base import open_engine
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


def _rules(protocol: str, prompts: Path | None, bench: Bench, mode: str, reply_tokens: int, *, graded: bool) -> Rules:
    if graded:
        if mode == "pairwise":
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
    if protocol == "strict":
        return Strict(reply_tokens)
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
    for folder in checkpoints:
        spec = JudgeSpec(
            name=checkpoint_name(folder), checkpoint=str(folder.resolve()), checkpoint_hash=checkpoint_hash(folder)
        )
        found.append(spec)
    repeated = {judge.name for judge in found if [other.name for other in found].count(judge.name) > 1}
    if repeated:
        raise MoemixError(f"two judges are called {', '.join(sorted(repeated))}", hint="use --repeats to ask one again")
    return tuple(found)


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
