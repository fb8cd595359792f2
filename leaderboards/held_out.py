"""Add a run's held-out losses to its evaluation as columns, with one value for each held-out example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_value, read_jsonl
from harness.records import Column, EvalResult, HeldOutLosses
from harness.statistics.columns import Key
from harness.store import Run
from leaderboards.scores import Evaluation, TaskScores

PREFIX = "held_out:"  # begins the name of a set's column
MEAN = "held_out"
MEASURES: dict[str, Callable[[HeldOutLosses], NDArray[np.float64]]] = {
    "nats": lambda losses: np.array(losses.nats) / np.array(losses.targets),
    "bits_per_byte": lambda losses: np.array(losses.nats) / np.log(2) / np.maximum(np.array(losses.bytes), 1),
}
"""Measures of an example's loss: nats per target token, and bits per byte of the targets' text."""
UNITS = {"nats": "loss", "bits_per_byte": "bits/byte"}


def final_losses(run: Run) -> list[HeldOutLosses]:
    """Return the last measurement of each set; empty if none was made.

    Raises:
        MoemixError: with file and line, if a line is not a measurement.
    """
    if not run.held_out.is_file():
        return []
    found: dict[str, HeldOutLosses] = {}
    for number, line in enumerate(read_jsonl(run.held_out), 1):
        try:
            losses = HeldOutLosses.model_validate(line)
        except ValueError as error:
            raise MoemixError(f"not a measurement of losses: {error}", where=f"{run.held_out}:{number}") from None
        found[losses.set] = losses
    return [found[name] for name in sorted(found)]


def with_held_out(evaluation: Evaluation, run: Run, *, by_set: bool) -> Evaluation:
    """Return an evaluation with the column of the mean held-out loss.

    Args:
        evaluation: the run's evaluation.
        run: the run.
        by_set: replace the evaluation's own columns by those of each set, and the means, in both measures.
    """
    sets = final_losses(run)
    if not sets:
        return evaluation
    results: list[EvalResult] = []
    columns: dict[str, Column] = {}
    samples: dict[Key, TaskScores] = {}
    for measure in MEASURES if by_set else ("nats",):
        tasks = {}
        for losses in sets:
            values = MEASURES[measure](losses)
            task = f"{PREFIX}{losses.set}"
            questions = tuple((number, key) for number, key in enumerate(losses.keys))
            key = Key(task, measure, "none")
            samples[key] = TaskScores(questions, values, np.arange(len(values)), run.held_out)
            tasks[task] = float(values.mean())
            results.append(
                EvalResult(
                    task=task, metric=measure, value=tasks[task], stderr=None, n=len(values), shots=0,
                    higher_is_better=False, task_version="1", prompt_hash=hash_value(losses.keys),
                )
            )  # fmt: skip
        named: dict[str, tuple[str, tuple[str, ...]]] = {}
        if by_set:
            named = {task: (f"{task.removeprefix(PREFIX)}: {UNITS[measure]}", (task,)) for task in tasks}
        named[MEAN] = (f"mean {UNITS[measure]}" if by_set else "Held-out loss", tuple(tasks))
        for name, (title, members) in named.items():
            columns[name if measure == "nats" else f"{name}:{measure}"] = Column(
                value=float(np.mean([tasks[task] for task in members])),
                stderr=None,
                n=sum(len(samples[Key(task, measure, "none")].values) for task in members),
                tasks=members,
                metric=measure,
                title=title,
            )
    before = {} if by_set else evaluation.summary.columns
    kept = () if by_set else evaluation.summary.results
    summary = evaluation.summary.model_copy(update={"results": (*kept, *results), "columns": {**before, **columns}})
    return replace(evaluation, summary=summary, samples={**evaluation.samples, **samples})
