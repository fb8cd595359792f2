"""One evaluation: a checkpoint, a suite and an engine in, lm-eval's files and a summary out.

<out>/request.json          what was asked, first
<out>/results.json          lm-eval's own, untouched
<out>/samples_<task>.jsonl  lm-eval's own, untouched
<out>/verdicts_<task>.jsonl how each generated program ended, test by test
<out>/summary.json          our records, last: an evaluation is finished when this is there

Every answer is stored as it comes in the response cache (``evals/cache.py``), so a stopped evaluation resumes.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals import sandbox
from evals.cache import open_cache
from evals.engines.choose import check_engine, open_engine
from evals.questions import keep_asked
from evals.scores import columns, refused_result, task_results
from evals.suites import Suite, load_suite, suite_hash
from harness.errors import MoemixError, StageFailed
from harness.progress import duration
from harness.provenance import provenance
from harness.records import EvalRequest, EvalResult, EvalSummary
from harness.requests import EvalJobRequest, eval_request
from harness.store import checkpoint_hash, exclusive

if TYPE_CHECKING:
    from evals.loading import LoadedTasks


def evaluate(
    checkpoint: Path,
    request: EvalRequest,
    out: Path,
    *,
    data_root: Path | None = None,
    keep_answers: bool = True,
    unsafe_code: bool = False,
) -> EvalSummary:
    """Score a checkpoint. The same request into the same folder resumes, or returns what is there if it is finished.

    Args:
        unsafe_code: run generated programs even where there is no sandbox for them.
        keep_answers: take answers from the response cache and store them there; without it all are asked anew.

    Raises:
        MoemixError: bad input, or a folder that holds another evaluation.
        StageFailed: the engine failed; run again to resume.
    """
    checkpoint, out = checkpoint.resolve(), out.resolve()
    check_engine(request.engine, request.dtype)
    suite = load_suite(request.suite)
    fingerprint = checkpoint_hash(checkpoint)
    with exclusive(out):
        finished = _claim(out, request, checkpoint, fingerprint)
        if finished is not None:
            print(f"{request.suite}: already evaluated in {out} (remove the folder to do it anew)", file=sys.stderr)
            _tell_refused(finished.results)
            return finished
        return _evaluate(checkpoint, fingerprint, request, suite, out, data_root, keep_answers, unsafe_code)


def evaluate_request(job: EvalJobRequest) -> EvalSummary:
    """Score a checkpoint as a request file says; errors as in :func:`evaluate`."""
    return evaluate(
        job.checkpoint,
        job.config,
        job.out,
        data_root=job.data_root,
        keep_answers=job.keep_answers,
        unsafe_code=job.unsafe_code,
    )


def request_for(
    suite: str,
    *,
    tasks: tuple[str, ...],
    limit: int | None,
    engine: str,
    dtype: str,
    seed: int,
    questions: dict[str, tuple[int, ...]] | None = None,
) -> EvalRequest:
    """The request, with the hash of the suite as it is now. Questions, where given, say which tasks too."""
    if questions and (tasks or limit):
        raise MoemixError("questions are a selection already; tasks and a limit cannot be given beside them")
    return EvalRequest(
        suite=suite,
        suite_hash=suite_hash(suite),
        tasks=tasks,
        limit=limit,
        engine=engine,
        dtype=dtype,
        seed=seed,
        questions=questions or {},
    )


def _claim(out: Path, request: EvalRequest, checkpoint: Path, fingerprint: str) -> EvalSummary | None:
    """Make ``out`` this request's folder. A finished evaluation of it comes back; another's folder is left alone."""
    held = eval_request(out)
    if held is not None and held != request:
        differ = [f for f in EvalRequest.model_fields if getattr(held, f) != getattr(request, f)]
        raise MoemixError(
            f"the folder holds an evaluation with another {', '.join(differ)}",
            where=str(out),
            hint="choose another --out, or remove the folder",
        )
    if (out / "summary.json").is_file():
        summary = EvalSummary.read(out / "summary.json")
        if summary.checkpoint_hash != fingerprint:
            raise MoemixError(
                "the folder holds an evaluation of another checkpoint",
                where=str(out),
                hint="choose another --out, or remove the folder",
            )
        return summary
    if held is None:
        EvalJobRequest(config=request, checkpoint=checkpoint, out=out).save()
    return None


def _evaluate(
    checkpoint: Path,
    fingerprint: str,
    request: EvalRequest,
    suite: Suite,
    out: Path,
    data_root: Path | None,
    keep_answers: bool,
    unsafe_code: bool,
) -> EvalSummary:
    started = time.monotonic()
    _quiet()
    from evals.code_eval import is_sandboxed, judge_ahead
    from evals.lm import CachedLM
    from evals.loading import load_tasks

    if unsafe_code:
        sandbox.allow_unsafe()
    loaded = load_tasks(suite, request.suite, only=request.tasks, limit=request.limit, root=data_root)
    if request.questions:
        keep_asked(loaded, request.questions)
    results = [refused_result(column, task, reason) for task, (column, reason) in loaded.refused.items()]
    _tell_refused(results)
    engine_says: dict[str, Any] = {}
    if loaded.tasks:
        with open_engine(request.engine, checkpoint, dtype=request.dtype, seed=request.seed, folder=out) as engine:
            engine_says = engine.describe()
            cache = open_cache({"checkpoint": fingerprint, "engine": engine_says}, keep=keep_answers)
            inner = engine.lm()
            lm = CachedLM(inner, cache, max_length=inner.max_length, seed=request.seed)
            for name, task in loaded.tasks.items():
                if is_sandboxed(task):
                    judge_ahead(name, task, out)
            raw = _run_lm_eval(lm, loaded, suite, request, checkpoint, out)
            cache.close()
        results += task_results(raw, _notes(loaded, lm.notes), engine_says)
    summary = EvalSummary(
        request=request,
        checkpoint=str(checkpoint),
        checkpoint_hash=fingerprint,
        engine=engine_says,
        results=tuple(results),
        columns=columns(suite, loaded.leaves, results),
        seconds=time.monotonic() - started,
        provenance=provenance(),
    )
    summary.write(out / "summary.json")
    print(f"{request.suite}: evaluated in {duration(summary.seconds)}", file=sys.stderr)
    return summary


def _notes(loaded: LoadedTasks, notes: dict[str, str]) -> dict[str, str]:
    """What a reader must know about each task's numbers."""
    from evals.code_eval import is_sandboxed

    bare = "generated programs ran without a sandbox" if sandbox.unprotected() else ""
    found = {
        name: [notes.get(name), loaded.notes.get(name), bare if is_sandboxed(task) else ""]
        for name, task in loaded.tasks.items()
    }
    return {name: "; ".join(filter(None, parts)) for name, parts in found.items() if any(parts)}


def _tell_refused(results: Iterable[EvalResult]) -> None:
    for result in results:
        if result.n == 0:
            print(f"{result.task}: left out: {result.note}", file=sys.stderr)


def _run_lm_eval(
    lm: Any, loaded: LoadedTasks, suite: Suite, request: EvalRequest, checkpoint: Path, out: Path
) -> dict[str, Any]:
    """``lm_eval.simple_evaluate`` with its stock seeds, so few-shot examples are everybody's; and its files."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    limits = set(loaded.limits.values())
    chosen = None  # lm-eval takes one limit for all tasks; where they differ, it is told which questions to ask
    if len(limits) > 1:
        sizes = {name: len(task.eval_docs) for name, task in loaded.tasks.items()}
        chosen = {name: list(range(min(n, sizes[name]))) for name, n in loaded.limits.items() if n is not None}
    if request.questions:
        chosen = {name: list(request.questions[name]) for name in loaded.tasks}
    with tempfile.TemporaryDirectory(prefix=".lm_eval.", dir=out) as scratch:
        tracker = EvaluationTracker(output_path=scratch)
        raw = simple_evaluate(
            model=lm,
            model_args={"pretrained": str(checkpoint), "engine": request.engine, "dtype": request.dtype},
            tasks=list(loaded.tasks.values()),
            task_manager=loaded.manager,
            limit=None if chosen else limits.pop(),
            samples=chosen,
            log_samples=True,
            apply_chat_template=suite.chat_template,
            confirm_run_unsafe_code=True,  # those that do not go through the sandbox were refused before
            evaluation_tracker=tracker,
        )
        assert raw is not None
        samples = raw["samples"]
        # The tracker rewrites samples for its files; ours are hashed from what it was given.
        tracker.save_results_aggregated({k: v for k, v in raw.items() if k != "samples"}, samples)
        for name in samples:
            tracker.save_results_samples(name, [dict(sample) for sample in samples[name]])
        _adopt(Path(scratch), out, list(samples))
    return raw


def _adopt(scratch: Path, out: Path, tasks: list[str]) -> None:
    """Give lm-eval's files their plain names. It only warns when it cannot write, so what is missing is an error."""
    moves = {"results_*.json": "results.json"}
    moves |= {f"samples_{task}_2*.jsonl": f"samples_{task}.jsonl" for task in tasks}
    for pattern, name in moves.items():
        made = list(scratch.rglob(pattern))
        if len(made) != 1:
            raise StageFailed(f"lm-eval could not write {name}", where=str(out), hint="is the disk full?")
        with open(made[0], "rb") as file:
            os.fsync(file.fileno())
        os.replace(made[0], out / name)


def _quiet() -> None:
    """lm-eval and datasets talk a lot and draw bars even into log files."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # what it warns about is in the records' notes
