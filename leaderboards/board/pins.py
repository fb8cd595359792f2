"""Pinning a suite: what an evaluation of the board's owner says about questions, scoring and columns, as data."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import MoemixError
from harness.files import read_json
from harness.records import EvalSummary
from harness.statistics.columns import Key
from harness.submissions import PinnedSuite, PinnedTask
from leaderboards.board.folder import BoardFolder
from leaderboards.board.rescoring import scorer_of
from leaderboards.board.samples import TaskSamples, read_task
from leaderboards.scores import Evaluation


def column_keys(evaluation: Evaluation, columns: list[str]) -> dict[str, dict[Key, float]]:
    """Column → the results it is a weighted sum of."""
    return {name: evaluation.shares(name) for name in columns}


def pin(folder: Path, *, version: str = "1", name: str | None = None) -> PinnedSuite:
    """The suite version that an evaluation folder stands for.

    Columns without a value (a task that could not run here) are left out, with the averages that need them.

    Raises:
        MoemixError: a damaged evaluation, or one that has no column with a value.
    """
    evaluation = Evaluation.open(folder)
    summary = evaluation.summary
    columns = {key: column for key, column in summary.columns.items() if evaluation.missing(key) is None}
    if not columns:
        raise MoemixError("no column of this evaluation has a value", where=str(folder))
    raw = read_json(folder / "results.json")
    shares = column_keys(evaluation, list(columns))
    keys: dict[str, set[Key]] = {}
    for found in shares.values():
        for key in found:
            keys.setdefault(key.task, set()).add(key)
    tasks = {}
    for task, wanted in keys.items():
        scorer = scorer_of(raw["configs"][task])
        samples = read_task(folder / f"samples_{task}.jsonl", task, wanted, scorer)
        result = evaluation.results[next(iter(wanted))]
        tasks[task] = PinnedTask(
            version=result.task_version,
            shots=result.shots,
            questions=len(samples.numbers),
            question_hash=samples.question_hash,
            prompt_hash=None if raw.get("chat_template") else samples.prompt_hash,
            scorer=scorer.model_copy(update={"recomputed": _confirmed(samples)}),
            dataset=str(raw["configs"][task].get("dataset_path") or ""),
            split=raw["configs"][task].get("test_split") or raw["configs"][task].get("validation_split"),
        )
    directions = {evaluation.results[key].higher_is_better for found in shares.values() for key in found}
    if len(directions) > 1:
        raise MoemixError("some columns are better high and some better low; pin them apart", where=str(folder))
    averages = [key for key, column in columns.items() if column.columns]
    return PinnedSuite(
        name=name or Path(summary.request.suite).stem,
        version=version,
        suite=summary.request.suite,
        suite_hash=summary.request.suite_hash,
        only=summary.request.tasks,
        limit=summary.request.limit,
        seed=summary.request.seed,
        main=(averages or list(columns))[-1],
        columns=columns,
        higher_is_better=directions.pop(),
        tasks=tasks,
        moemix=summary.provenance.versions.get("moemix", ""),
    )


def add_pin(board: BoardFolder, suite: PinnedSuite) -> None:
    """Add a suite version to a board; one that is there is never changed, for submissions were ranked by it."""
    if suite.key in [held.key for held in board.board.suites]:
        raise MoemixError(f"the board pins {suite.key} already", where=str(board.path), hint="give another --version")
    board.save(board.board.model_copy(update={"suites": (*board.board.suites, suite)}))


def suite_argument(board: BoardFolder, suite: PinnedSuite) -> str:
    """What ``moemix eval --suite`` is told: a name, or the board's own file."""
    own = board.path / suite.suite
    return os.fspath(own.resolve()) if suite.suite.endswith((".yaml", ".yml")) and own.is_file() else suite.suite


def fits(summary: EvalSummary, suite: PinnedSuite) -> str | None:
    """Why an evaluation is not one of this suite version; None if it is."""
    request = summary.request
    pairs = {
        "suite hash": (request.suite_hash[:12], suite.suite_hash[:12]),
        "selection of tasks": (", ".join(request.tasks) or "all", ", ".join(suite.only) or "all"),
        "questions per task": (str(request.limit or "all"), str(suite.limit or "all")),
        "seed": (str(request.seed), str(suite.seed)),
    }
    differing = [f"{what} {here} where {suite.key} pins {pinned}" for what, (here, pinned) in pairs.items()
                 if here != pinned]  # fmt: skip
    return "; ".join(differing) or None


def _confirmed(samples: TaskSamples) -> tuple[str, ...]:
    """Metrics whose recomputation gave the recorded score of every question."""
    if samples.differing:
        return ()
    return tuple(sorted(f"{key.metric},{key.filter}" for key in samples.recomputed))
