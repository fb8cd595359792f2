"""Run one evaluation: a checkpoint, a suite and an engine in, lm-eval's files and a summary out.

<out>/request.json          the request, written first
<out>/results.json          lm-eval's own, unchanged
<out>/samples_<task>.jsonl  lm-eval's own, unchanged
<out>/verdicts_<task>.jsonl how each generated program ended, test by test
<out>/continuous.jsonl      how probable the right answers are, where a task has a continuous form
<out>/summary.json          our records, written last: an evaluation is finished when this file exists

The response cache (``evals/cache.py``) stores every answer as it comes, so a stopped evaluation resumes.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals import sandbox
from evals.cache import open_cache
from evals.engines.choose import check_engine, check_unchanged, open_engine
from evals.scores import columns, refused_result, task_results
from evals.selection import keep_questions
from evals.suites import Suite, load_suite, suite_hash
from harness.errors import MoemixError, StageError
from harness.files import write_text
from harness.progress import duration
from harness.provenance import provenance
from harness.records import EvalRequest, EvalResult, EvalSummary
from harness.requests import EvalJobRequest, eval_request
from harness.schema import parse
from harness.store import checkpoint_hash, exclusive

if TYPE_CHECKING:
    from evals.lm import CachedLM
    from evals.loading import LoadedTasks
    from harness.trackers import BackgroundTracker

logger = logging.getLogger("moemix.evals")


def request_for(suite: str, *, where: str = "the evaluation", **fields: object) -> EvalRequest:
    """Make a request with these fields, and the hash of the suite as it is now.

    Raises:
        MoemixError: unknown suite or field, or single questions beside tasks or a limit.
    """
    if fields.get("questions") and (fields.get("tasks") or fields.get("limit")):
        raise MoemixError("--questions selects tasks and questions: give neither --tasks nor --limit beside it")
    hashed = {"suite": suite, "suite_hash": suite_hash(suite)}
    return parse(EvalRequest, {"engine": "transformers", **fields, **hashed}, where=where)


def evaluate(job: EvalJobRequest) -> EvalSummary:
    """Score a checkpoint on a suite.

    The same request into the same folder resumes, or returns what is there if it is finished.

    Raises:
        MoemixError: bad input, or the folder holds another evaluation.
        StageError: the engine failed; the same request again resumes.
    """
    out, request = job.out.resolve(), job.config
    check_engine(request.engine, request.dtype)
    suite = load_suite(request.suite)
    fingerprint = checkpoint_hash(job.checkpoint.resolve())
    with exclusive(out):
        summary = _claim(job, out, fingerprint)
        if summary is None:
            return _evaluate(job, suite, out, fingerprint)
        logger.info("%s: already evaluated in %s (remove the folder to evaluate again)", request.suite, out)
        _log_refused(summary.results)
        return summary


def _claim(job: EvalJobRequest, out: Path, fingerprint: str) -> EvalSummary | None:
    """Write the request into the folder; return the summary if this evaluation is finished there."""
    before = eval_request(out)
    other = ""
    if before is not None and before != job.config:
        differing = [f for f in EvalRequest.model_fields if getattr(before, f) != getattr(job.config, f)]
        other = f"an evaluation with another {', '.join(differing)}"
    summary = EvalSummary.read(out / "summary.json") if (out / "summary.json").is_file() else None
    if summary is not None and summary.checkpoint_hash != fingerprint:
        other = other or "an evaluation of another checkpoint"
    if other:
        raise MoemixError(
            f"the folder holds {other}", where=str(out), hint="choose another --out, or remove the folder"
        )
    if before is None:
        job.save()
    return summary


def _evaluate(job: EvalJobRequest, suite: Suite, out: Path, fingerprint: str) -> EvalSummary:
    started = time.monotonic()
    _quiet()
    from evals.code_eval import is_sandboxed, run_programs_ahead
    from evals.continuous import FILE as CONTINUOUS
    from evals.continuous import continuous_scores
    from evals.lm import CachedLM
    from evals.loading import load_tasks

    request, checkpoint = job.config, job.checkpoint.resolve()
    trackers = _trackers(job)
    if job.unsafe_code:
        sandbox.allow_unsafe_code()
    loaded = load_tasks(suite, request.suite, only=request.tasks, limit=request.limit, root=job.data_root)
    if request.questions:
        keep_questions(loaded, request.questions)
    results = [refused_result(column, task, reason) for task, (column, reason) in loaded.refused.items()]
    _log_refused(results)
    description: dict[str, object] = {}
    if loaded.tasks:
        with open_engine(
            request.engine,
            checkpoint,
            dtype=request.dtype,
            seed=request.seed,
            folder=out,
            arguments=request.engine_args,
        ) as engine:
            description = engine.describe()
            cache = open_cache({"checkpoint": fingerprint, "engine": description}, keep=job.keep_answers)
            lm = CachedLM(engine.lm(), cache, max_length=engine.max_length, seed=request.seed)
            for name, task in loaded.tasks.items():
                if is_sandboxed(task):
                    run_programs_ahead(name, task, out)
            raw = _run_lm_eval(lm, loaded, suite, request, checkpoint, out)
            scores = continuous_scores(lm, loaded.tasks, raw["samples"], chat_template=suite.chat_template)
            write_text(out / CONTINUOUS, "".join(f"{task.model_dump_json()}\n" for task in scores))
            check_unchanged(engine, cache)
            cache.close()
        results += task_results(raw, _notes(loaded, lm.notes), description)
    summary = EvalSummary(
        request=request,
        checkpoint=str(checkpoint),
        checkpoint_hash=fingerprint,
        engine=description,
        results=tuple(results),
        columns=columns(suite, loaded.leaves, results),
        seconds=time.monotonic() - started,
        provenance=provenance(),
    )
    for tracker in trackers:
        tracker.start()
        tracker.log(_numbers(summary), step=0)
        tracker.finish()
    summary.write(out / "summary.json")
    logger.info("%s: evaluated in %s", request.suite, duration(summary.seconds))
    return summary


def _trackers(job: EvalJobRequest) -> list[BackgroundTracker]:
    """Return the evaluation's trackers: it is a run of its own, named after checkpoint and suite."""
    if not job.tracking.trackers:
        return []
    from harness.trackers import make_trackers

    checkpoint = job.checkpoint.parent if job.checkpoint.name == "checkpoint" else job.checkpoint
    run = f"{checkpoint.name}-{job.out.resolve().name}"
    config = job.config.model_dump(mode="json")
    return make_trackers(job.tracking, job.out, run=run, group=Path(job.config.suite).stem, config=config)


def _numbers(summary: EvalSummary) -> dict[str, float]:
    """Return the columns' scores and errors, and the metrics of every task."""
    numbers: dict[str, float | None] = {}
    for name, column in summary.columns.items():
        numbers |= {f"eval/{name}": column.value, f"eval/{name}_stderr": column.stderr}
    numbers |= {f"{found.task}/{found.metric},{found.filter}": found.value for found in summary.results}
    return {name: value for name, value in numbers.items() if value is not None}


def _notes(loaded: LoadedTasks, notes: Mapping[str, str]) -> dict[str, str]:
    """Return what a reader must know about each task's numbers."""
    from evals.code_eval import is_sandboxed

    unprotected = "generated programs ran without a sandbox" if sandbox.unprotected() else ""
    parts = {
        name: [notes.get(name), loaded.notes.get(name), unprotected if is_sandboxed(task) else ""]
        for name, task in loaded.tasks.items()
    }
    return {name: "; ".join(filter(None, texts)) for name, texts in parts.items() if any(texts)}


def _log_refused(results: Iterable[EvalResult]) -> None:
    for result in results:
        if result.n == 0:
            logger.warning("%s: left out: %s", result.task, result.note)


def _run_lm_eval(
    lm: CachedLM, loaded: LoadedTasks, suite: Suite, request: EvalRequest, checkpoint: Path, out: Path
) -> dict[str, Any]:
    """Run ``lm_eval.simple_evaluate`` with its stock seeds, so few-shot examples are everybody's; store its files."""
    from lm_eval import evaluator
    from lm_eval.loggers import EvaluationTracker
    from torch.utils import collect_env

    evaluator.get_git_commit_hash = lambda: None  # of the working directory; git would complain outside a repository
    collect_env.get_pip_packages = _installed  # results.json lists them; `pip list` takes seconds to do so

    limits = set(loaded.limits.values())
    chosen = None  # lm-eval takes one limit for all tasks; where they differ, it gets the numbers of the questions
    if len(limits) > 1:
        sizes = {name: len(task.eval_docs) for name, task in loaded.tasks.items()}
        chosen = {name: list(range(min(n, sizes[name]))) for name, n in loaded.limits.items() if n is not None}
    if request.questions:
        chosen = {name: list(request.questions[name]) for name in loaded.tasks}
    with tempfile.TemporaryDirectory(prefix=".lm_eval.", dir=out) as scratch:
        tracker = EvaluationTracker(output_path=scratch)
        raw: dict[str, Any] = evaluator.simple_evaluate(
            model=lm,
            model_args={"pretrained": str(checkpoint), "engine": request.engine, "dtype": request.dtype},
            tasks=list(loaded.tasks.values()),
            task_manager=loaded.manager,
            limit=None if chosen else limits.pop(),
            samples=chosen,
            log_samples=True,
            apply_chat_template=suite.chat_template,
            confirm_run_unsafe_code=True,  # tasks that do not go through the sandbox were refused before
            evaluation_tracker=tracker,
        )
        samples = raw["samples"]
        # The tracker changes the samples that it writes; the scores need those that it was given.
        tracker.save_results_aggregated({k: v for k, v in raw.items() if k != "samples"}, samples)
        for name in samples:
            tracker.save_results_samples(name, [dict(sample) for sample in samples[name]])
        _adopt(Path(scratch), out, list(samples))
    return raw


def _installed(_run: object, patterns: list[str] | None = None) -> tuple[str, str]:
    """Return the installed packages that torch's report is about, as `pip list --format=freeze` prints them."""
    from torch.utils import collect_env as report

    wanted = patterns or [*report.PIP_PATTERNS, *report.COMMON_PATTERNS, *report.NVIDIA_PATTERNS]
    names = {folder.stem for path in sys.path for folder in Path(path).glob("*.dist-info")}
    lines = ("==".join(name.rsplit("-", 1)) for name in sorted(names))
    return "pip3", "\n".join(line for line in lines if any(pattern in line for pattern in wanted))


def _adopt(scratch: Path, out: Path, tasks: list[str]) -> None:
    """Give lm-eval's files their plain names; a missing one is an error, since lm-eval only warns of it."""
    names = {"results_*.json": "results.json"}
    names |= {f"samples_{task}_2*.jsonl": f"samples_{task}.jsonl" for task in tasks}
    for pattern, name in names.items():
        files = list(scratch.rglob(pattern))
        if len(files) != 1:
            raise StageError(f"lm-eval could not write {name}", where=str(out), hint="is the disk full?")
        with open(files[0], "rb") as file:
            os.fsync(file.fileno())
        os.replace(files[0], out / name)


def _quiet() -> None:
    """Keep lm-eval and datasets from writing much, and from drawing bars into log files."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # what it warns about is in the records' notes
