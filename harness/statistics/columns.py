"""Resolve the columns of a suite into weighted task results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.errors import MoemixError, unknown
from harness.records import Column


@dataclass(frozen=True)
class Key:
    """A task result: a task, one of its metrics, and the answer filter before that metric."""

    task: str
    metric: str
    filter: str


def column_weights(
    columns: Mapping[str, Column], name: str, questions: Callable[[Key], int], where: str | None = None
) -> dict[Key, float]:
    """Return the weight of each task result in a column, with averages resolved into their tasks. The sum is 1.

    ``questions`` returns the number of questions of a task result, the weight of a task in a ``micro`` average; it may
    raise an error for an unknown one. ``where`` is the file of the definitions, for errors.

    Raises:
        MoemixError: the column is unknown, is a mean of itself, or has not exactly one of ``tasks`` and ``columns``.
    """
    return _weights(columns, name, questions, where, ())


def _weights(
    columns: Mapping[str, Column], name: str, questions: Callable[[Key], int], where: str | None, above: tuple[str, ...]
) -> dict[Key, float]:
    column = columns.get(name)
    if column is None:
        raise unknown("column", name, columns, where=where)
    place = f"{where}: columns.{name}" if where else f"columns.{name}"
    if name in above:
        raise MoemixError(f"the column is a mean of itself ({' → '.join((*above, name))})", where=place)
    if bool(column.tasks) == bool(column.columns):
        raise MoemixError("a column must have either `tasks` or `columns`, not both and not neither", where=place)
    if column.tasks:
        keys = [Key(task, column.metric or "", column.filter) for task in column.tasks]
        counts = [questions(key) for key in keys]
        sizes = counts if column.aggregation == "micro" else [1] * len(keys)
        return {key: size / (sum(sizes) or 1) for key, size in zip(keys, sizes, strict=True)}
    weights: dict[Key, float] = {}
    for part in column.columns:
        for key, weight in _weights(columns, part, questions, where, (*above, name)).items():
            weights[key] = weights.get(key, 0.0) + weight / len(column.columns)
    return weights
