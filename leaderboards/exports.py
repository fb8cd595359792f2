"""Tables for programs: CSV and JSON, every number in full and in the metric's own unit."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from harness.statistics.estimates import Estimate
from leaderboards.facts import run_facts
from leaderboards.table import Cell, Comparison, Heading, Row, Table

SCHEMA = 1
FIELDS = (
    "suite", "model", "strategy", "seed", "quantity", "name", "value", "stderr", "n", "difference",
    "difference_stderr", "p", "p_holm", "best", "tied", "note",
)  # fmt: skip
COSTS = (
    "steps", "examples", "tokens", "seconds", "mixing_seconds", "mixing_share", "total_steps", "total_tokens",
    "total_seconds",
)  # fmt: skip


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """One line per number: ``quantity`` says which (score, final_weight, steps, …), ``name`` of which column or source.

    Scores are over all seeds of a row; the quantities of a run carry its seed. A row or run without numbers has a line
    with the reason in ``note``.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for comparison in comparisons:
        for table in comparison.tables:
            for row in table.rows:
                for line in (*_score_lines(table, row), *_run_lines(row)):
                    known = {"suite": comparison.suite, "model": table.model, "strategy": row.label, **line}
                    writer.writerow({key: csv_value(value) for key, value in known.items()})
    return out.getvalue()


def _score_lines(table: Table, row: Row) -> Iterator[dict[str, Any]]:
    reason = "; ".join(row.notes)
    if not table.columns:
        yield {"quantity": "score", "note": reason}
    for column in table.columns:
        cell = row.cells[column.name]
        line: dict[str, Any] = {"quantity": "score", "name": column.name, "best": cell.best, "tied": cell.tied}
        if cell.score:
            line |= {"value": cell.score.value, "stderr": cell.score.se, "n": cell.n}
        if cell.difference:
            line |= {"difference": cell.difference.value, "difference_stderr": cell.difference.se}
            line |= {"p": cell.p, "p_holm": cell.p_holm}
        yield line | {"note": "; ".join(filter(None, (reason, cell.note)))}


def _run_lines(row: Row) -> Iterator[dict[str, Any]]:
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


def csv_value(value: Any) -> Any:
    """Spreadsheets run text that looks like a formula, so such text gets a leading apostrophe; numbers stay numbers."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@"):
        return "'" + value
    return value


def as_json(comparisons: Sequence[Comparison]) -> str:
    """Everything the tables show, as one object."""
    found = [{"suite": c.suite, "tables": [_table(table) for table in c.tables]} for c in comparisons]
    document = _finite({"schema_version": SCHEMA, "comparisons": found})
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _table(table: Table) -> dict[str, Any]:
    return {
        "model": table.model,
        "model_id": table.model_id,
        "baseline": table.baseline,
        "conditions": table.conditions,
        "comparisons": table.comparisons,
        "notes": table.notes,
        "columns": [_heading(column) for column in table.columns],
        "rows": [_row(row) for row in table.rows],
    }


def _heading(column: Heading) -> dict[str, Any]:
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


def _row(row: Row) -> dict[str, Any]:
    facts = run_facts(row)
    return {
        "strategy": row.label,
        "seeds": list(row.evaluations),
        "compared": row.compared,
        "notes": row.notes,
        "cells": {name: _cell(cell) for name, cell in row.cells.items()},
        "runs": [dataclasses.asdict(fact) | {"mixing_share": fact.mixing_share} for fact in facts],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    difference = None
    if cell.difference:
        difference = _estimate(cell.difference) | {"p": cell.p, "p_holm": cell.p_holm, "significant": cell.significant}
    score = _estimate(cell.score) | {"n": cell.n} if cell.score else None
    marks = {"best": cell.best, "tied": cell.tied, "ranks": cell.ranks}
    return {"score": score, "difference": difference, **marks, "note": cell.note}


def _estimate(found: Estimate) -> dict[str, Any]:
    known = {"value": found.value, "stderr": found.se, "dof": found.dof}
    return known | {"clusters": found.clusters, "seeds": found.seeds, "seed_stderr": found.seed_se}


def _finite(value: Any) -> Any:
    """NaN and infinities are no JSON; unknown is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
