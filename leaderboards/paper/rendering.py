"""The paper's tables and figures by name: what each needs, and what it shows, in every format."""

from __future__ import annotations

import math
from pathlib import Path

from harness.grid import NOTHING, Cell, Grid, Number, Section, Value, csv_text, json_text, write
from leaderboards.paper.figures import FIGURES, FigureData, draw_figure, figure_data
from leaderboards.paper.runs import SCORES, Experiments, Need, line_needs
from leaderboards.paper.specs import MODEL, MODELS, Column, Line, printed, source, table_spec
from leaderboards.paper.tables import PaperTable, fill

MOST_POINTS = 6  # of a series that are shown for reading; CSV and JSON hold all
LEGEND = "In each cell: ours; below it the paper's figure, and ours minus it."
FIELDS = (
    "table", "model", "strategy", "column", "published", "ours", "stderr", "seeds", "difference",
    "baseline", "difference_to_baseline", "difference_to_baseline_stderr", "p_adjusted", "verdict",
    "published_difference_to_baseline", "missing",
)  # fmt: skip


def title(name: str) -> str:
    """Return what a table or figure shows."""
    return FIGURES[name].title if name in FIGURES else table_spec(name).title


def needs(name: str) -> list[Need]:
    """Return what a table or figure needs of which runs; table 6 needs any one evaluation."""
    if name in FIGURES:
        return FIGURES[name].needs
    spec = table_spec(name)
    return [(MODEL, "none", SCORES)] if name == "table6" else line_needs(spec.lines, [c.kind for c in spec.columns])


def render(name: str, experiments: Experiments, style: str) -> str:
    """Write a table or a figure's numbers in one of the formats of :data:`harness.grid.ENDINGS`."""
    if name in FIGURES:
        return figure_text(figure_data(name, experiments), experiments, style)
    return table_text(fill(name, experiments), style)


def draw(name: str, experiments: Experiments, path: Path) -> None:
    """Draw a figure to a ``.png``, ``.pdf`` or ``.svg``."""
    draw_figure(figure_data(name, experiments), path)


# --- tables -------------------------------------------------------------------------------------------


def table_text(table: PaperTable, style: str) -> str:
    """Write a table in one of the formats of :data:`harness.grid.ENDINGS`; units are the paper's."""
    if style == "csv":
        return csv_text(FIELDS, records(table))
    if style == "json":
        notes = [*table.shared_notes, *table.notes]
        return json_text({
            "schema_version": 1, "table": table.spec.name, "title": table.spec.title, "source": source(),
            "comparisons": table.comparisons, "detectable": table.detectable, "notes": notes, "cells": records(table),
        })  # fmt: skip
    return write([table_section(table)], style)


def records(table: PaperTable) -> list[dict[str, Value]]:
    """Return every cell as a flat record; what is unknown is None."""
    baseline = table.baseline.strategy if table.compared and table.compared.tested else None
    found: list[dict[str, Value]] = []
    for line in table.spec.lines:
        for column in table.spec.columns:
            cell = table.cells[line.key, column.key]
            ours, base = cell.ours, cell.to_base
            found.append({
                "table": table.spec.name, "model": line.model, "strategy": line.strategy, "column": column.key,
                "published": cell.published, "ours": ours.value if ours else None, "stderr": ours.se if ours else None,
                "seeds": ours.seeds if ours else None, "difference": cell.difference, "baseline": baseline,
                "difference_to_baseline": base.difference.value if base else None,
                "difference_to_baseline_stderr": base.difference.se if base else None,
                "p_adjusted": base.p_adjusted if base else None, "verdict": base.verdict if base else None,
                "published_difference_to_baseline": cell.published_to_base,
                "missing": "; ".join(cell.missing) or None,
            })  # fmt: skip
    return found


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
    cell = table.cells[line.key, column.key]
    whole = column.kind == "suite"
    published = printed(cell.published, 0 if whole else 2)
    if cell.ours is None:
        return Cell(NOTHING, below=f"({published})")
    decimals = 0 if whole else 1 if column.percent else 2
    ours = Number(cell.ours.value, None if whole else cell.ours.se, decimals)
    star = "*" if cell.significant else ""
    if cell.difference is None:
        return Cell(ours, star, f"({published})")
    return Cell(ours, star, f"({published}; {Number(cell.difference, decimals=decimals, signed=True)})")


# --- figures ------------------------------------------------------------------------------------------


def figure_text(figure: FigureData, experiments: Experiments, style: str) -> str:
    """Write a figure's numbers in one of the formats of :data:`harness.grid.ENDINGS`."""
    if style not in ("csv", "json"):
        return write([figure_section(figure, experiments)], style)
    rows: list[dict[str, Value]] = [
        {"figure": figure.name, "panel": panel.title, "series": p.series, "x": p.x, "y": p.y, "stderr": p.stderr,
         "published": p.published}
        for panel in figure.panels for p in panel.points
    ]  # fmt: skip
    if style == "json":
        facts = [{"figure": figure.name, "fact": what, "ours": ours, "published": paper}
                 for what, ours, paper in figure.facts]  # fmt: skip
        return json_text({"schema_version": 1, "figure": figure.name, "title": figure.title, "source": source(),
                          "points": rows, "facts": facts, "missing": list(figure.missing)})  # fmt: skip
    rows += [{"figure": figure.name, "series": what, "y": ours, "published": paper}
             for what, ours, paper in figure.facts]  # fmt: skip
    return csv_text(("figure", "panel", "series", "x", "y", "stderr", "published"), rows)


def figure_section(figure: FigureData, experiments: Experiments) -> Section:
    """Lay a figure's numbers out for reading: of a long series the first and the last point."""
    rows = []
    for panel in figure.panels:
        for name, points in panel.series.items():
            for p in points if len(points) <= MOST_POINTS else (points[0], points[-1]):
                error = "?" if math.isnan(p.stderr) else _short(p.stderr)
                published = printed(p.published) if p.published is not None else ""
                rows.append([panel.title, name, _short(p.x), _short(p.y), error, published])
    header = ["panel", "series", "x", "y", "±", "paper"]
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    grid = Grid([header[i] for i in used], [[row[i] for i in used] for row in rows])
    title = f"Figure {figure.name.removeprefix('figure')}: {figure.title}"
    return Section(title, grid if rows else Grid(["Nothing measured yet."], []), figure_notes(figure, experiments))


def figure_notes(figure: FigureData, experiments: Experiments) -> list[str]:
    """Write single numbers beside the paper's, and what is missing, each reason once."""
    notes = [f"{what}: {ours:.3f}" + (f" (paper: {paper})" if paper is not None else "")
             for what, ours, paper in figure.facts]  # fmt: skip
    reasons: dict[str, list[str]] = {}
    for text in figure.missing:
        what, _, reason = text.partition(": ")
        reasons.setdefault(reason, []).append(what)
    notes += [f"Missing: {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    if figure.missing:
        notes.append(f"To make it: moemix paper run {figure.name} --preset {experiments.preset.name}")
    return notes


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
