"""Pin suites, and evaluate checkpoints on pinned suites.

A finished evaluation of the board's owner gives the questions, scoring rules and columns of a pinned suite. Evaluations
run as ``moemix eval`` in a process of their own: this package only reads what they leave.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MoemixError, StageError
from harness.files import read_json
from harness.launch import run_moemix
from harness.records import EvalSummary, RunManifest
from harness.schema import parse
from harness.statistics.columns import Key
from leaderboards.board.folder import BoardFolder
from leaderboards.board.rescoring import scorer_of
from leaderboards.board.samples import TaskSamples, read_task
from leaderboards.board.submissions import PinnedSuite, PinnedTask
from leaderboards.board.untrusted import read_record
from leaderboards.scores import Evaluation

logger = logging.getLogger("moemix.leaderboards")


def pin(folder: Path, *, version: str = "1", name: str | None = None) -> PinnedSuite:
    """Return the suite version that an evaluation folder stands for.

    Columns without a value (a task that could not run here) are left out, with the averages that need them.

    Raises:
        MoemixError: the evaluation is damaged, no column has a value, or columns disagree on what is better.
    """
    evaluation = Evaluation.open(folder)
    request, provenance = evaluation.summary.request, evaluation.summary.provenance
    columns = {key: column for key, column in evaluation.summary.columns.items() if evaluation.missing(key) is None}
    if not columns:
        raise MoemixError("no column of this evaluation has a value", where=str(folder))
    raw = read_json(folder / "results.json")
    tasks = {}
    for task, keys in keys_by_task(evaluation, columns).items():
        config = raw["configs"][task]
        scorer = scorer_of(config)
        samples = read_task(folder / f"samples_{task}.jsonl", task, keys, scorer)
        result = evaluation.results[keys[0]]
        tasks[task] = PinnedTask(
            version=result.task_version,
            shots=result.shots,
            questions=len(samples.numbers),
            question_hash=samples.question_hash,
            prompt_hash=None if raw.get("chat_template") else samples.prompt_hash,
            scorer=scorer.model_copy(update={"recomputed": _confirmed(samples)}),
            dataset=str(config.get("dataset_path") or ""),
            split=config.get("test_split") or config.get("validation_split"),
        )
    directions = {evaluation.results[key].higher_is_better for name in columns for key in evaluation.shares(name)}
    if len(directions) > 1:
        raise MoemixError("in some columns higher is better, in others lower", where=str(folder),
                          hint="pin two evaluations, one with each kind of column")  # fmt: skip
    averages = [key for key, column in columns.items() if column.columns]
    return PinnedSuite(
        name=name or Path(request.suite).stem,
        version=version,
        suite=request.suite,
        suite_hash=request.suite_hash,
        only=request.tasks,
        limit=request.limit,
        seed=request.seed,
        main=(averages or list(columns))[-1],
        columns=columns,
        higher_is_better=directions.pop(),
        tasks=tasks,
        moemix=provenance.versions.get("moemix", ""),
    )


def keys_by_task(evaluation: Evaluation, columns: Iterable[str]) -> dict[str, list[Key]]:
    """Return, by task, the results that some columns are computed from."""
    keys: dict[str, dict[Key, None]] = {}
    for name in columns:
        for key in evaluation.shares(name):
            keys.setdefault(key.task, {})[key] = None
    return {task: list(ordered) for task, ordered in keys.items()}


def mismatch(summary: EvalSummary, suite: PinnedSuite) -> str | None:
    """Return why an evaluation is not one of this suite version, or None if it is."""
    request = summary.request
    pairs = {
        "suite hash": (request.suite_hash[:12], suite.suite_hash[:12]),
        "selection of tasks": (", ".join(request.tasks) or "all", ", ".join(suite.only) or "all"),
        "questions per task": (str(request.limit or "all"), str(suite.limit or "all")),
        "seed": (str(request.seed), str(suite.seed)),
    }
    differing = [f"{name} is {value}, and {suite.key} pins {pinned}" for name, (value, pinned) in pairs.items()
                 if value != pinned]  # fmt: skip
    return "; ".join(differing) or None


def _confirmed(samples: TaskSamples) -> tuple[str, ...]:
    """Return the metrics whose recomputation gave the recorded score of every question."""
    if samples.differing:
        return ()
    return tuple(sorted(f"{key.metric},{key.filter}" for key in samples.recomputed))


# --- evaluating -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Engine:
    """How an evaluation is run: options of ``moemix eval``."""

    name: str = "transformers"
    dtype: str = "float32"
    data_root: str | None = None


def local_data(folder: Path) -> str | None:
    """Return the data root that a run (or a submission's copy of its manifest) used, if it is on this machine."""
    if not (folder / "run.json").is_file():
        return None
    root = parse(RunManifest, read_record(folder / "run.json"), where=str(folder / "run.json")).data_root
    return root if root and Path(root).is_dir() else None


def evaluate(
    board: BoardFolder, suite: PinnedSuite, checkpoint: Path, engine: Engine, out: Path, extra: Sequence[str] = ()
) -> None:
    """Evaluate a checkpoint on a pinned suite. An evaluation that was interrupted resumes.

    The board's folder may hold the suite's own file; its selection of tasks and its limit are in ``extra``, further
    options of ``moemix eval``, where they apply.

    Raises:
        StageError: the evaluation failed; its own messages are on standard error.
    """
    own = board.path / suite.suite
    name = os.fspath(own.resolve()) if suite.suite.endswith((".yaml", ".yml")) and own.is_file() else suite.suite
    command = [
        "eval", str(checkpoint), "--suite", name, "--engine", engine.name, "--dtype", engine.dtype,
        "--seed", str(suite.seed), "--out", str(out), *extra,
    ]  # fmt: skip
    command += ["--data-root", engine.data_root] if engine.data_root else []
    logger.info("%s: evaluating %s", suite.key, checkpoint)
    if run_moemix(*command):
        raise StageError(f"the evaluation on {suite.key} failed; its messages are above", where=str(out),
                          hint="fix the cause and run the same command again")  # fmt: skip
