"""A comparison in every format: laid out for reading, or every number in full as CSV and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from harness.grid import Value, csv_text, json_text, write
from harness.statistics.estimates import FRACTION, FRACTION_DIFFERENCE, UNBOUNDED, Bounds, Estimate
from leaderboards.facts import run_facts
from leaderboards.layout import lay_out
from leaderboards.table import Cell, Comparison, Heading, Row, Table

SCHEMA = 1
FIELDS = (
    "suite", "model", "strategy", "seed", "quantity", "name", "value", "stderr", "n", "difference",
    "difference_stderr", "p", "p_adjusted", "best", "tied", "note", "lower", "upper", "difference_lower",
    "difference_upper", "verdict", "family", "p_equal", "margin",
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
    # What training did is said once, below the first table.
    return write([part for i, one in enumerate(comparisons) for part in lay_out(one, training=not i)], style)


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
        if score := _score(cell, column):
            line |= {key: score[key] for key in ("value", "stderr", "n", "lower", "upper")}
        if difference := _difference(cell, column):
            line["difference"] = difference["value"]
            line |= {f"difference_{key}": difference[key] for key in ("stderr", "lower", "upper")}
            line |= {key: difference[key] for key in ("p", "p_adjusted", "verdict", "family", "p_equal", "margin")}
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
    plain = ("model", "model_id", "baseline", "conditions", "comparisons", "notes")
    return {
        **{name: getattr(table, name) for name in plain},
        "columns": [_heading(column) for column in table.columns],
        "rows": [_row(row, table.columns) for row in table.rows],
    }


def _heading(column: Heading) -> dict[str, object]:
    plain = ("columns", "higher_is_better", "fraction", "primary", "margin", "detectable", "groups", "note")
    return {
        "name": column.name,
        "title": column.title,
        "tasks": [
            {"task": key.task, "metric": key.metric, "filter": key.filter, "shots": column.shots[key], "share": share}
            for key, share in column.shares.items()
        ],
        **{name: getattr(column, name) for name in plain},
    }


def _row(row: Row, columns: Sequence[Heading]) -> dict[str, object]:
    facts = run_facts(row)
    return {
        "strategy": row.label,
        "seeds": row.seeds,
        "compared": row.compared,
        "notes": row.notes,
        "cells": {column.name: _cell(row.cells[column.name], column) for column in columns},
        "runs": [dataclasses.asdict(fact) | {"mixing_share": fact.mixing_share} for fact in facts],
    }


def _cell(cell: Cell, column: Heading) -> dict[str, object]:
    marks = {"best": cell.best, "tied": cell.tied, "ranks": cell.ranks}
    return {"score": _score(cell, column), "difference": _difference(cell, column), **marks, "note": cell.note}


def _score(cell: Cell, column: Heading) -> dict[str, Value] | None:
    if cell.score is None:
        return None
    return _estimate(cell.score, FRACTION if column.fraction else UNBOUNDED) | {"n": cell.n}


def _difference(cell: Cell, column: Heading) -> dict[str, Value] | None:
    """Return the difference to the baseline with its verdict."""
    if (found := cell.to_base) is None:
        return None
    names = ("p", "p_adjusted", "significant", "verdict", "family", "p_equal", "margin", "level")
    bounds = FRACTION_DIFFERENCE if column.fraction else UNBOUNDED
    return _estimate(found.difference, bounds) | {name: getattr(found, name) for name in names}


def _estimate(found: Estimate, bounds: Bounds) -> dict[str, Value]:
    lower, upper = found.interval(bounds)
    return {
        "value": found.value, "stderr": found.se, "lower": lower, "upper": upper, "dof": found.dof,
        "clusters": found.clusters, "seeds": found.seeds, "seed_stderr": found.seed_se,
    }  # fmt: skip
