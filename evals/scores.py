"""From lm-eval's results to this project's records: one result per metric, columns, averages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from evals.suites import Suite, SuiteColumn
from harness.errors import MoemixError, nearest
from harness.files import hash_value
from harness.records import Column, EvalResult


def task_results(
    raw: Mapping[str, Any], notes: Mapping[str, str], engine: Mapping[str, Any] | None = None
) -> list[EvalResult]:
    """Every metric of every task in what ``lm_eval.simple_evaluate`` returned, its samples included.

    Args:
        notes: task → what a reader must know about its numbers.
        engine: what answered.
    """
    found = []
    for task, samples in raw["samples"].items():
        for key, value in raw["results"][task].items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr"):
                continue
            stderr = raw["results"][task].get(f"{metric}_stderr,{filter_name}")
            result = EvalResult(
                task=task,
                metric=metric,
                filter=filter_name,
                value=_number(value),
                stderr=_number(stderr),
                n=raw["n-samples"][task]["effective"],
                higher_is_better=bool(raw["higher_is_better"].get(task, {}).get(metric, True)),
                shots=raw["n-shot"].get(task) or 0,
                task_version=str(raw["versions"].get(task)),
                prompt_hash=prompt_hash(samples),
                engine=dict(engine or {}),
                note=notes.get(task),
            )
            found.append(result)
    return found


def refused_result(column: SuiteColumn, task: str, reason: str) -> EvalResult:
    """The record of a task that could not be run here."""
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
    """Over every request of a task, prompt and options or continuation, in the order of the questions.

    A sample is there once per filter, with the same requests: the first filter's are taken.
    """
    samples = list(samples)
    first = samples[0]["filter"]
    return hash_value([[list(args) for args in s["arguments"]] for s in samples if s["filter"] == first])


def columns(suite: Suite, leaves: Mapping[str, tuple[str, ...]], results: Iterable[EvalResult]) -> dict[str, Column]:
    """The suite's columns and averages, of those whose tasks were asked for.

    Each is a weighted sum of task results, so the standard error of a macro average is
    ``sqrt(sum w² se²)`` with its own weights: for the mean of n tasks, ``sqrt(sum se²) / n``.

    Args:
        leaves: each name in a suite's ``tasks`` → the tasks it stands for; names left out were not asked for.
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
    """The weighted sum of results; without a value as soon as one part has none."""
    merged: dict[tuple[str, str, str], tuple[EvalResult, float]] = {}
    for result, weight in parts:  # a task reached by two ways is one number, not two independent ones
        key = (result.task, result.metric, result.filter)
        merged[key] = (result, weight + (merged[key][1] if key in merged else 0.0))
    values = [(r.value, r.stderr, weight) for r, weight in merged.values()]
    known = all(value is not None for value, _, _ in values)
    errors = all(stderr is not None for _, stderr, _ in values)
    return Column(
        value=sum(weight * (value or 0.0) for value, _, weight in values) if known else None,
        stderr=math.sqrt(sum((weight * (se or 0.0)) ** 2 for _, se, weight in values)) if known and errors else None,
        n=sum(r.n for r, _ in merged.values()),
        **fields,
    )


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
