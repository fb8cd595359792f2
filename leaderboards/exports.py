"""A comparison in every format: laid out for reading, or every number in full as CSV and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from harness.grid import Value, csv_text, json_text, write
from harness.statistics.estimates import FRACTION, FRACTION_DIFFERENCE, UNBOUNDED, Bounds, Estimate
from harness.statistics.families import verdict
from leaderboards.facts import run_facts
from leaderboards.layout import lay_out
from leaderboards.table import Cell, Comparison, Heading, Row, Table

SCHEMA = 1
FIELDS = (
    "suite", "model", "strategy", "seed", "quantity", "name", "value", "stderr", "n", "difference",
    "difference_stderr", "p", "p_holm", "best", "tied", "note", "lower", "upper", "difference_lower",
    "difference_upper", "verdict",
)  # fmt: skip
COSTS = (
    "steps", "examples", "tokens", "seconds", "mixing_seconds", "mixing_share", "total_steps", "total_tokens",
    "total_seconds",
)  # fmt: skip


def render(comparisons: Sequence[Comparison], style: str) -> str:
    """Write comparisons in one of the formats of :data:`harness.grid.ENDINGS`."""
    if style == "csv":
        return as_csv(comparisons)
    if style == "json":
        return as_json(comparisons)
    return write([section for comparison in comparisons for section in lay_out(comparison)], style)


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """Write one line per number: ``quantity`` is its kind (score, final_weight, steps, …), ``name`` a column or source.

    Scores are over all seeds of a row; the quantities of a run carry its seed. A row or run without numbers has a line
    with the reason in ``note``.
    """
    return csv_text(
        FIELDS,
        (
            {"suite": comparison.suite, "model": table.model, "strategy": row.label, **line}
            for comparison in comparisons
            for table in comparison.tables
            for row in table.rows
            for line in (*_score_lines(table, row), *_run_lines(row))
        ),
    )


def _score_lines(table: Table, row: Row) -> Iterator[dict[str, Value]]:
    reason = "; ".join(row.notes)
    if not table.columns:
        yield {"quantity": "score", "note": reason}
    for column in table.columns:
        cell = row.cells[column.name]
        line: dict[str, Value] = {"quantity": "score", "name": column.name, "best": cell.best, "tied": cell.tied}
        if cell.score:
            lower, upper = cell.score.interval(_bounds(column))
            line |= {"value": cell.score.value, "stderr": cell.score.se, "n": cell.n, "lower": lower, "upper": upper}
        if cell.difference:
            lower, upper = cell.difference.interval(_bounds(column, difference=True))
            line |= {"difference": cell.difference.value, "difference_stderr": cell.difference.se}
            line |= {"difference_lower": lower, "difference_upper": upper}
            line |= {"p": cell.p, "p_holm": cell.p_holm, "verdict": _verdict(cell, column)}
        yield line | {"note": "; ".join(filter(None, (reason, cell.note)))}


def _run_lines(row: Row) -> Iterator[dict[str, Value]]:
    for fact in run_facts(row):
        for quantity, shares in (
            ("final_weight", fact.weights),
            ("examples_share", fact.examples_share),
            ("tokens_share", fact.tokens_share),
            ("average_weight", fact.average),
        ):
            for source, share in shares.items():
                yield {"seed": fact.seed, "quantity": quantity, "name": source, "value": share}
        for quantity in COSTS if fact.steps is not None else ():
            yield {"seed": fact.seed, "quantity": quantity, "value": getattr(fact, quantity)}


def as_json(comparisons: Sequence[Comparison]) -> str:
    """Write everything that the tables show as one object."""
    found = [{"suite": c.suite, "tables": [_table(table) for table in c.tables]} for c in comparisons]
    return json_text({"schema_version": SCHEMA, "comparisons": found})


def _table(table: Table) -> dict[str, object]:
    return {
        "model": table.model,
        "model_id": table.model_id,
        "baseline": table.baseline,
        "conditions": table.conditions,
        "comparisons": table.comparisons,
        "notes": table.notes,
        "columns": [_heading(column) for column in table.columns],
        "rows": [_row(row, table.columns) for row in table.rows],
    }


def _heading(column: Heading) -> dict[str, object]:
    return {
        "name": column.name,
        "title": column.title,
        "tasks": [
            {"task": key.task, "metric": key.metric, "filter": key.filter, "shots": column.shots[key], "share": share}
            for key, share in column.shares.items()
        ],
        "columns": column.columns,
        "higher_is_better": column.higher_is_better,
        "fraction": column.fraction,
        "detectable": column.detectable,
        "groups": column.groups,
        "note": column.note,
    }


def _row(row: Row, columns: Sequence[Heading]) -> dict[str, object]:
    facts = run_facts(row)
    return {
        "strategy": row.label,
        "seeds": list(row.evaluations),
        "compared": row.compared,
        "notes": row.notes,
        "cells": {column.name: _cell(row.cells[column.name], column) for column in columns},
        "runs": [dataclasses.asdict(fact) | {"mixing_share": fact.mixing_share} for fact in facts],
    }


def _cell(cell: Cell, column: Heading) -> dict[str, object]:
    score = _estimate(cell.score, _bounds(column)) | {"n": cell.n} if cell.score else None
    difference = None
    if cell.difference:
        tested = {"p": cell.p, "p_holm": cell.p_holm, "significant": cell.significant}
        difference = _estimate(cell.difference, _bounds(column, difference=True))
        difference |= tested | {"verdict": _verdict(cell, column)}
    marks = {"best": cell.best, "tied": cell.tied, "ranks": cell.ranks}
    return {"score": score, "difference": difference, **marks, "note": cell.note}


def _estimate(found: Estimate, bounds: Bounds) -> dict[str, object]:
    lower, upper = found.interval(bounds)
    return {
        "value": found.value, "stderr": found.se, "lower": lower, "upper": upper, "dof": found.dof,
        "clusters": found.clusters, "seeds": found.seeds, "seed_stderr": found.seed_se,
    }  # fmt: skip


def _bounds(column: Heading, *, difference: bool = False) -> Bounds:
    """Return the ends of what a score, or a difference of two, can be."""
    return (FRACTION_DIFFERENCE if difference else FRACTION) if column.fraction else UNBOUNDED


def _verdict(cell: Cell, column: Heading) -> str:
    """Return whether a row is better or worse than the baseline, or undecided."""
    value = cell.difference.value if cell.difference else 0.0
    return verdict(value, cell.p_holm, higher_is_better=column.higher_is_better)
