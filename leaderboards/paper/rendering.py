"""A filled-in table of the paper for reading (a section) and for programs (CSV and JSON)."""

from __future__ import annotations

import math

from harness.grid import NOTHING, Cell, Grid, Number, Section, Value, csv_text, json_text, write
from leaderboards.paper.published import printed, source
from leaderboards.paper.specs import MODELS, Column, Line
from leaderboards.paper.tables import PaperCell, PaperTable

LEGEND = "In each cell: ours; below it the paper's figure, and ours minus it."
FIELDS = (
    "table", "model", "strategy", "column", "published", "ours", "stderr", "seeds", "difference",
    "baseline", "difference_to_baseline", "difference_to_baseline_stderr", "p_holm",
    "published_difference_to_baseline", "missing",
)  # fmt: skip


def table_text(table: PaperTable, style: str) -> str:
    """Write a table in one of the formats of :data:`harness.grid.ENDINGS`; units are the paper's."""
    if style == "csv":
        return csv_text(FIELDS, records(table))
    if style == "json":
        return json_text(
            {
                "schema_version": 1,
                "table": table.spec.name,
                "title": table.spec.title,
                "source": source(),
                "pairs": table.pairs,
                "detectable": table.detectable,
                "notes": [*table.shared_notes, *table.notes],
                "cells": records(table),
            }
        )
    return write([table_section(table)], style)


def records(table: PaperTable) -> list[dict[str, Value]]:
    """Return every cell as a flat record; what is unknown is None."""
    return [
        {
            "table": table.spec.name,
            "model": line.model,
            "strategy": line.strategy,
            "column": column.key,
            "baseline": table.baseline.strategy if table.pairs else None,
            **_record(table.cell(line, column)),
        }
        for line in table.spec.lines
        for column in table.spec.columns
    ]


def _record(cell: PaperCell) -> dict[str, Value]:
    ours, base = cell.ours, cell.to_base
    return {
        "published": cell.published,
        "ours": ours.value if ours else None,
        "stderr": ours.se if ours else None,
        "seeds": ours.seeds if ours else None,
        "difference": cell.difference,
        "difference_to_baseline": base.value if base else None,
        "difference_to_baseline_stderr": base.se if base else None,
        "p_holm": cell.p_holm,
        "published_difference_to_baseline": cell.published_to_base,
        "missing": "; ".join(cell.missing) or None,
    }


def table_section(table: PaperTable, *, shared: bool = True) -> Section:
    """Lay a table out for reading: in each cell ours, and below it the paper's figure and ours minus it.

    Args:
        table: filled in.
        shared: with the notes that are the same under every table.
    """
    spec = table.spec
    several = len({line.model for line in spec.lines}) > 1
    names = [f"{MODELS[line.model]} · {line.title}" if several and line.model else line.title for line in spec.lines]
    cells = [[_cell(table, line, column) for column in spec.columns] for line in spec.lines]
    titles = [column.title for column in spec.columns]
    if spec.transposed:
        names, titles, cells = titles, names, [list(column) for column in zip(*cells, strict=True)]
    rows = [[Cell(name), *row] for name, row in zip(names, cells, strict=True)]
    notes = [f"{LEGEND} Paper: {source()}.", *table.shared_notes, *table.notes] if shared else table.notes
    return Section(f"Table {spec.name.removeprefix('table')}: {spec.title}", Grid(["", *titles], rows), notes)


def _cell(table: PaperTable, line: Line, column: Column) -> Cell:
    cell = table.cell(line, column)
    whole = column.quantity.startswith("suite:")
    published = printed(cell.published, 0 if whole else 2)
    if cell.ours is None:
        return Cell(NOTHING, below=f"({published})")
    decimals = 0 if whole else 1 if column.percent else 2
    ours = Number(cell.ours.value, None if whole else cell.ours.se, decimals)
    star = "*" if cell.significant else ""
    if cell.difference is None or math.isnan(cell.difference):
        return Cell(ours, star, f"({published})")
    return Cell(ours, star, f"({published}; {Number(cell.difference, decimals=decimals, signed=True)})")
