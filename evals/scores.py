"""Turn lm-eval's results into this project's records: one result per metric, columns and averages, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from evals.suites import Suite, SuiteColumn
from harness.errors import MoemixError, nearest
from harness.files import hash_value
from harness.records import Column, EvalResult
from harness.statistics.clusters import cluster_label, number_clusters
from harness.statistics.estimates import FRACTION, UNBOUNDED, Bounds, Estimate, Part, bounds_of, estimate, weighted_sum

TOLERANCE = 1e-9  # between a metric and the mean of its samples


class ErrorFields(TypedDict):
    """The fields of a record for the error of its value; None where it is unknown."""

    stderr: float | None
    lower: float | None
    upper: float | None


def task_results(
    raw: Mapping[str, Any], notes: Mapping[str, str], engine: Mapping[str, Any] | None = None
) -> list[EvalResult]:
    """Return a record for every metric of every task in the return value of ``lm_eval.simple_evaluate``.

    Standard errors and intervals are those of clustered questions. If a metric is no mean over questions, they follow
    lm-eval's standard error (``results.json`` always has lm-eval's own).

    Args:
        raw: lm-eval's results with their samples.
        notes: task → what a reader must know about its numbers.
        engine: what answered.
    """
    found = []
    for task, samples in raw["samples"].items():
        for key, value in raw["results"][task].items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr"):
                continue
            n, stderr = raw["n-samples"][task]["effective"], raw["results"][task].get(f"{metric}_stderr,{filter_name}")
            mean, bounds = _estimate([s for s in samples if s["filter"] == filter_name], metric, _number(value))
            if mean is None and n > 1 and (error := _number(stderr)) is not None:
                mean = Estimate(_number(value) or 0.0, error, n - 1, n)
            result = EvalResult(
                task=task,
                metric=metric,
                filter=filter_name,
                value=_number(value),
                **_error(mean, bounds),
                clusters=mean.clusters if mean else None,
                n=n,
                higher_is_better=bool(raw["higher_is_better"].get(task, {}).get(metric, True)),
                shots=raw["n-shot"].get(task) or 0,
                task_version=str(raw["versions"].get(task)),
                prompt_hash=prompt_hash(samples),
                engine=dict(engine or {}),
                note=notes.get(task),
            )
            found.append(result)
    return found


def _estimate(samples: Sequence[Mapping[str, Any]], metric: str, value: float | None) -> tuple[Estimate | None, Bounds]:
    """Return the mean of a metric over questions and its bounds; None unless that mean is the ``value``."""
    scores = [_number(sample.get(metric)) for sample in samples]
    known = np.array([score for score in scores if score is not None], dtype=np.float64)
    if (
        value is None
        or not len(known)
        or len(known) < len(scores)
        or not math.isclose(known.mean(), value, abs_tol=1e-9)
    ):
        return None, UNBOUNDED
    clusters = number_clusters(cluster_label(sample.get("doc"), str(sample["doc_hash"])) for sample in samples)
    return estimate([Part(1.0, known[None], clusters)]), bounds_of(known)


def _error(found: Estimate | None, bounds: Bounds) -> ErrorFields:
    if found is None or math.isnan(found.se):
        return {"stderr": None, "lower": None, "upper": None}
    lower, upper = found.interval(bounds)
    return {"stderr": found.se, "lower": lower, "upper": upper}


def refused_result(column: SuiteColumn, task: str, reason: str) -> EvalResult:
    """Return the record of a task that could not be run here."""
    return EvalResult(
        task=task,
        metric=column.metric,
        filter=column.filter,
        value=None,
        stderr=None,
        n=0,
        shots=column.shots or 0,
        task_version="",
        prompt_hash="",
        note=reason,
    )


def prompt_hash(samples: Iterable[Mapping[str, Any]]) -> str:
    """Return a hash over every request of a task, prompt and options or continuation, in the order of the questions.

    There is one sample per filter, with the same requests; we take those of the first filter.
    """
    samples = list(samples)
    first = samples[0]["filter"]
    return hash_value([[list(args) for args in s["arguments"]] for s in samples if s["filter"] == first])


def columns(suite: Suite, leaves: Mapping[str, tuple[str, ...]], results: Iterable[EvalResult]) -> dict[str, Column]:
    """Return the suite's columns and averages whose tasks were requested.

    Each is a weighted sum of task results; its error is that of the sum (``estimates.weighted_sum``).

    Args:
        suite: defines the columns.
        leaves: each name in a suite's ``tasks`` → the tasks it stands for; absent names were not requested.
        results: of all tasks.

    Raises:
        MoemixError: a task has no result for the metric and filter of its column.
    """
    by_key = {(r.task, r.metric, r.filter): r for r in results}
    made: dict[str, Column] = {}
    weights: dict[str, list[tuple[EvalResult, float]]] = {}
    for column in suite.columns:
        if not all(name in leaves for name in column.tasks):
            continue
        tasks = tuple(dict.fromkeys(task for name in column.tasks for task in leaves[name]))
        parts = [_find(by_key, task, column) for task in tasks]
        total = sum(part.n for part in parts)
        share = [part.n / total if column.aggregation == "micro" and total else 1 / len(parts) for part in parts]
        weights[column.name] = list(zip(parts, share, strict=True))
        made[column.name] = _column(
            weights[column.name],
            tasks=tasks,
            metric=column.metric,
            filter=column.filter,
            aggregation=column.aggregation,
            title=column.title or column.name,
        )
    for average in suite.averages:
        if all(name in made for name in average.of):
            weights[average.name] = [
                (part, weight / len(average.of)) for name in average.of for part, weight in weights[name]
            ]
            made[average.name] = _column(weights[average.name], columns=average.of, title=average.title or average.name)
    return made


def _column(parts: list[tuple[EvalResult, float]], **fields: Any) -> Column:
    """Return the weighted sum of results; it has no value if one part has none."""
    merged: dict[tuple[str, str, str], tuple[EvalResult, float]] = {}
    for result, weight in parts:  # a task that is reached in two ways is one number, not two independent ones
        key = (result.task, result.metric, result.filter)
        merged[key] = (result, weight + (merged[key][1] if key in merged else 0.0))
    results, weights = [result for result, _ in merged.values()], [weight for _, weight in merged.values()]
    n = sum(result.n for result in results)
    if any(result.value is None for result in results):
        return Column(value=None, stderr=None, n=n, **fields)
    found = weighted_sum(weights, [_as_estimate(result) for result in results])
    fraction = all(r.lower is not None and r.lower >= 0 and r.upper is not None and r.upper <= 1 for r in results)
    return Column(value=found.value, **_error(found, FRACTION if fraction else UNBOUNDED), n=n, **fields)


def _as_estimate(result: EvalResult) -> Estimate:
    error = math.nan if result.stderr is None else result.stderr
    clusters = result.clusters or result.n
    return Estimate(result.value or 0.0, error, clusters - 1, clusters)


def _find(by_key: Mapping[tuple[str, str, str], EvalResult], task: str, column: SuiteColumn) -> EvalResult:
    result = by_key.get((task, column.metric, column.filter))
    if result is None:
        there = [f"{metric} ({filter_name})" for name, metric, filter_name in by_key if name == task]
        raise MoemixError(
            f"the task {task} has no metric {column.metric!r} with filter {column.filter!r}",
            where=f"column {column.name}",
            hint=nearest(f"{column.metric} ({column.filter})", there),
        )
    return result


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
