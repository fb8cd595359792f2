"""A filled-in table as Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from tabulate import tabulate

from leaderboards.layout import NOTHING
from leaderboards.paper.published import printed, source
from leaderboards.paper.specs import MODELS, Column, Line
from leaderboards.paper.tables import PaperCell, PaperTable
from leaderboards.rendering import booktabs, latex_text, markdown_text

LEGEND = "In each cell: ours; below it the paper's figure, and ours minus it."
FIELDS = (
    "table", "model", "strategy", "column", "published", "ours", "stderr", "seeds", "difference",
    "baseline", "difference_to_baseline", "difference_to_baseline_stderr", "p_holm",
    "published_difference_to_baseline", "missing",
)  # fmt: skip


def markdown(table: PaperTable, *, shared: bool = True) -> str:
    """Title, grid and notes; in each cell ours, and below it the paper's figure and ours minus it.

    Args:
        shared: with the notes that are the same under every table.
    """
    head, *body = grid(table)
    rows = [["<br>".join(map(markdown_text, cell)) for cell in row] for row in body]
    text = tabulate(rows, [markdown_text(cell[0]) for cell in head], tablefmt="pipe", disable_numparse=True)
    notes = "\n".join(f"- {markdown_text(note)}" for note in (_notes(table) if shared else table.notes))
    return f"### {markdown_text(_title(table))}\n\n{text}\n\n{notes}\n"


def latex(table: PaperTable) -> str:
    """A booktabs table; the second line of a cell is a row of its own."""
    head, *body = grid(table)
    rows = []
    for row in body:
        rows.append([latex_text(cell[0]) for cell in row])
        if any(len(cell) > 1 for cell in row):
            rows.append([f"{{\\footnotesize {latex_text(cell[1])}}}" if len(cell) > 1 else "" for cell in row])
    tabular = booktabs(rows, [latex_text(cell[0]) for cell in head])
    notes = "\n".join(f"{latex_text(note)}\\par" for note in _notes(table))
    return (
        f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\centering\n\\caption{{{latex_text(_title(table))}}}\n"
        f"{tabular}\n\\par\\raggedright\\footnotesize\n{notes}\n\\end{{table}}\n"
    )


def as_csv(table: PaperTable) -> str:
    """A line for each cell, numbers in full, units as the paper's."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for record in records(table):
        writer.writerow({key: "" if value is None else value for key, value in record.items()})
    return out.getvalue()


def as_json(table: PaperTable) -> str:
    document = {
        "schema_version": 1,
        "table": table.spec.name,
        "title": table.spec.title,
        "source": source(),
        "pairs": table.pairs,
        "detectable": table.detectable,
        "notes": [*table.shared_notes, *table.notes],
        "cells": records(table),
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def records(table: PaperTable) -> list[dict[str, Any]]:
    """Every cell as a flat record; what is unknown is None."""
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


def _record(cell: PaperCell) -> dict[str, Any]:
    ours, base = cell.ours, cell.to_base
    return {
        "published": cell.published,
        "ours": ours.value if ours else None,
        "stderr": _known(ours.se) if ours else None,
        "seeds": ours.seeds if ours else None,
        "difference": cell.difference,
        "difference_to_baseline": base.value if base else None,
        "difference_to_baseline_stderr": _known(base.se) if base else None,
        "p_holm": _known(cell.p_holm),
        "published_difference_to_baseline": cell.published_to_base,
        "missing": "; ".join(cell.missing) or None,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _title(table: PaperTable) -> str:
    return f"Table {table.spec.name.removeprefix('table')}: {table.spec.title}"


def _notes(table: PaperTable) -> list[str]:
    return [f"{LEGEND} Paper: {source()}.", *table.shared_notes, *table.notes]


def grid(table: PaperTable) -> list[list[tuple[str, ...]]]:
    """Header and rows, each cell one or two lines of text."""
    spec = table.spec
    several = len({line.model for line in spec.lines}) > 1
    names = [f"{MODELS[line.model]} · {line.title}" if several and line.model else line.title for line in spec.lines]
    cells = [[_cell(table, line, column) for column in spec.columns] for line in spec.lines]
    titles = [column.title for column in spec.columns]
    if spec.transposed:
        names, titles, cells = titles, names, [list(column) for column in zip(*cells, strict=True)]
    head: list[tuple[str, ...]] = [("",), *((title,) for title in titles)]
    return [head, *([(name,), *row] for name, row in zip(names, cells, strict=True))]


def _cell(table: PaperTable, line: Line, column: Column) -> tuple[str, ...]:
    cell = table.cell(line, column)
    whole = column.quantity.startswith("suite:")
    published = printed(cell.published, 0 if whole else 2)
    if cell.ours is None:
        return (NOTHING, f"({published})")
    decimals = 0 if whole else 1 if column.percent else 2
    error = "" if whole else f" ± {cell.ours.se:.{decimals}f}" if not math.isnan(cell.ours.se) else " ± ?"
    mark = "*" if cell.significant else ""
    ours = f"{cell.ours.value:.{decimals}f}{error}{mark}"
    if cell.difference is None:
        return (ours, f"({published})")
    return (ours, f"({published}; {cell.difference:+.{decimals}f})".replace("-", "−"))
