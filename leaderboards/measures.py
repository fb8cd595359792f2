"""Further measures of a run as columns: its held-out losses, and the continuous forms of its evaluation's columns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.files import hash_value
from harness.records import Column, ContinuousScores, EvalResult, HeldOutLosses
from harness.schema import parse_lines
from harness.statistics.clusters import number_clusters
from harness.statistics.columns import Key
from harness.store import Run
from leaderboards.scores import Evaluation, TaskScores

CONTINUOUS = "continuous.jsonl"
PREFIX = "held_out:"  # begins the name of a set's column
MEAN = "held_out"
TITLES = {"nats": "loss", "bits_per_byte": "bits/byte", "choice_probability": "p(right choice)"}


@dataclass
class _Measured:
    """Results with one value a question, as they are collected."""

    path: Path
    results: list[EvalResult] = field(default_factory=list)
    samples: dict[Key, TaskScores] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)

    def add(self, task: str, measure: str, questions: tuple[tuple[int, str], ...], values: NDArray[np.float64]) -> None:
        """Add the values of a task."""
        clusters = number_clusters(label for _, label in questions)
        self.samples[Key(task, measure, "none")] = TaskScores(questions, values, clusters, self.path)
        self.results.append(
            EvalResult(
                task=task,
                metric=measure,
                value=float(values.mean()),
                stderr=None,
                n=len(values),
                shots=0,
                higher_is_better=measure == "choice_probability",
                task_version="1",
                prompt_hash=hash_value([label for _, label in questions]),
            )
        )

    def column(self, name: str, title: str, measure: str, tasks: tuple[str, ...], *, micro: bool = False) -> None:
        """Add the mean of tasks, which count equally or (``micro``) by their questions, as a column."""
        parts = [self.samples[Key(task, measure, "none")].values for task in tasks]
        self.columns[name] = Column(
            value=float(np.concatenate(parts).mean() if micro else np.mean([part.mean() for part in parts])),
            stderr=None,
            n=sum(map(len, parts)),
            tasks=tasks,
            metric=measure,
            aggregation="micro" if micro else "macro",
            title=title,
        )


def with_held_out(evaluation: Evaluation, run: Run, *, by_set: bool) -> Evaluation:
    """Return an evaluation with the column of the mean held-out loss, in nats per target token.

    With ``by_set``, its own columns are replaced by those of each set and by the means, in nats per target token and in
    bits per byte of the targets' text.

    Raises:
        MoemixError: a line of the run's losses is damaged.
    """
    sets = run.final_losses()
    if not sets:
        return evaluation
    measured = _Measured(run.held_out)
    tasks = tuple(f"{PREFIX}{name}" for name in sets)
    for measure in ("nats", "bits_per_byte") if by_set else ("nats",):
        ending, unit = "" if measure == "nats" else f":{measure}", TITLES[measure]
        for task, losses in zip(tasks, sets.values(), strict=True):
            measured.add(task, measure, tuple(enumerate(losses.keys)), _by_example(losses, measure))
            if by_set:
                measured.column(f"{task}{ending}", f"{losses.set}: {unit}", measure, (task,))
        measured.column(f"{MEAN}{ending}", f"mean {unit}" if by_set else "Held-out loss", measure, tasks)
    record = evaluation.summary
    before, kept = ({}, ()) if by_set else (record.columns, record.results)
    summary = record.model_copy(
        update={"results": (*kept, *measured.results), "columns": {**before, **measured.columns}}
    )
    return replace(evaluation, summary=summary, samples={**evaluation.samples, **measured.samples})


def _by_example(losses: HeldOutLosses, measure: str) -> NDArray[np.float64]:
    nats = np.array(losses.nats, dtype=np.float64)
    scale = np.array(losses.targets) if measure == "nats" else np.log(2) * np.maximum(np.array(losses.bytes), 1)
    values: NDArray[np.float64] = nats / scale
    return values


def continuous_forms(evaluation: Evaluation) -> Evaluation | None:
    """Return an evaluation whose columns are the continuous forms; None if none was measured.

    Raises:
        MoemixError: with file and line, if a line is not such a measurement.
    """
    path = evaluation.folder / CONTINUOUS
    if not path.is_file():
        return None
    measured, measure_of = _Measured(path), {}
    for found in parse_lines(ContinuousScores, path):
        questions = tuple(zip(found.doc_ids, found.doc_hashes, strict=True))
        measured.add(found.task, found.measure, questions, np.array(found.values))
        measure_of[found.task] = found.measure
    for name, column in evaluation.summary.columns.items():
        measures = {measure_of.get(task) for task in column.tasks}
        if not column.columns and len(measures) == 1 and (measure := measures.pop()):
            title = f"{column.title or name}: {TITLES[measure]}"
            measured.column(name, title, measure, column.tasks, micro=column.aggregation == "micro")
    if not measured.columns:
        return None
    update = {"results": tuple(measured.results), "columns": measured.columns}
    return replace(evaluation, summary=evaluation.summary.model_copy(update=update), samples=measured.samples)
