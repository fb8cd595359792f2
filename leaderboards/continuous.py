"""The continuous forms of an evaluation's columns, as an evaluation of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.errors import MoemixError
from harness.files import hash_value, read_jsonl
from harness.records import Column, ContinuousScores, EvalResult
from harness.statistics.clusters import number_clusters
from harness.statistics.columns import Key
from leaderboards.scores import Evaluation, TaskScores

FILE = "continuous.jsonl"
TITLES = {"choice_probability": "p(right choice)", "bits_per_byte": "bits/byte"}


def continuous_forms(evaluation: Evaluation) -> Evaluation | None:
    """Return an evaluation whose columns are the continuous forms; None if none was measured.

    Raises:
        MoemixError: with file and line, if a line is not such a measurement.
    """
    path = evaluation.folder / FILE
    if not path.is_file():
        return None
    results: list[EvalResult] = []
    columns: dict[str, Column] = {}
    samples: dict[Key, TaskScores] = {}
    measures: dict[str, str] = {}
    for number, line in enumerate(read_jsonl(path), 1):
        try:
            found = ContinuousScores.model_validate(line)
        except ValueError as error:
            raise MoemixError(f"not a measurement of a task: {error}", where=f"{path}:{number}") from None
        values = np.array(found.values)
        questions = tuple(zip(found.doc_ids, found.doc_hashes, strict=True))
        scores = TaskScores(questions, values, number_clusters(found.doc_hashes), path)
        samples[Key(found.task, found.measure, "none")] = scores
        measures[found.task] = found.measure
        results.append(
            EvalResult(
                task=found.task, metric=found.measure, value=float(values.mean()), stderr=None, n=len(values), shots=0,
                higher_is_better=found.measure == "choice_probability", task_version="1",
                prompt_hash=hash_value(found.doc_hashes),
            )
        )  # fmt: skip
    for name, column in evaluation.summary.columns.items():
        kinds = {measures.get(task) for task in column.tasks}
        kind = kinds.pop() if len(kinds) == 1 else None
        if column.columns or kind is None:
            continue
        parts = [samples[Key(task, kind, "none")].values for task in column.tasks]
        value = np.concatenate(parts).mean() if column.aggregation == "micro" else np.mean([p.mean() for p in parts])
        columns[name] = column.model_copy(
            update={
                "value": float(value),
                "stderr": None,
                "lower": None,
                "upper": None,
                "n": sum(len(part) for part in parts),
                "metric": kind,
                "filter": "none",
                "title": f"{column.title or name}: {TITLES[kind]}",
            }
        )
    summary = evaluation.summary.model_copy(update={"results": tuple(results), "columns": columns})
    return replace(evaluation, summary=summary, samples=samples) if columns else None
