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
from harness.statistics.columns import Key, column_weights
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
    lm-eval's standard error (``results.json`` always has lm-eval's own). ``notes`` says what a reader must know about a
    task's numbers, ``engine`` what answered.
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

    Each is a weighted sum of task results; its error is that of the sum (``estimates.weighted_sum``). ``leaves`` maps
    each requested name in a suite's ``tasks`` to the tasks that it stands for.

    Raises:
        MoemixError: a task has no result for the metric and filter of its column.
    """
    by_key = {Key(result.task, result.metric, result.filter): result for result in results}
    defined: dict[str, Column] = {}
    for column in suite.columns:
        if all(name in leaves for name in column.tasks):
            tasks = tuple(dict.fromkeys(task for name in column.tasks for task in leaves[name]))
            defined[column.name] = Column(
                value=None, stderr=None, n=0, tasks=tasks, metric=column.metric, filter=column.filter,
                aggregation=column.aggregation, title=column.title or column.name,
            )  # fmt: skip
    for average in suite.averages:
        if all(name in defined for name in average.of):
            title = average.title or average.name
            defined[average.name] = Column(value=None, stderr=None, n=0, columns=average.of, title=title)

    def questions(key: Key) -> int:
        if key not in by_key:
            raise MoemixError(
                f"the task {key.task} has no metric {key.metric!r} with filter {key.filter!r}",
                where=f"suite {suite.name}",
                hint=nearest(f"{key.metric} ({key.filter})",
                             [f"{other.metric} ({other.filter})" for other in by_key if other.task == key.task]),
            )  # fmt: skip
        return by_key[key].n

    weights = {name: column_weights(defined, name, questions) for name in defined}
    return {
        name: column.model_copy(update=_value([by_key[key] for key in weights[name]], list(weights[name].values())))
        for name, column in defined.items()
    }


def _value(results: list[EvalResult], weights: list[float]) -> dict[str, object]:
    """Return the value, error and number of questions of a column; it has no value if one of its results has none."""
    n = sum(result.n for result in results)
    if any(result.value is None for result in results):
        return {"n": n}
    estimates = []
    for result in results:
        clusters = result.clusters or result.n
        error = math.nan if result.stderr is None else result.stderr
        estimates.append(Estimate(result.value or 0.0, error, clusters - 1, clusters))
    found = weighted_sum(weights, estimates)
    fraction = all(r.lower is not None and r.lower >= 0 and r.upper is not None and r.upper <= 1 for r in results)
    return {"n": n, "value": found.value, **_error(found, FRACTION if fraction else UNBOUNDED)}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
