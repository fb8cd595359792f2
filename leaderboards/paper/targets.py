"""Tables and figures by name: what each needs and shows, in any format."""

from __future__ import annotations

import math
from pathlib import Path

from harness.grid import Grid, Section, Value, csv_text, json_text, write
from leaderboards.paper.drawing import draw_figure
from leaderboards.paper.figures import FigureData, Point, figure_data, figure_names, figure_needs, figure_title
from leaderboards.paper.published import printed, source
from leaderboards.paper.rendering import table_text
from leaderboards.paper.runs import Experiments, Need, line_needs
from leaderboards.paper.specs import table_spec
from leaderboards.paper.tables import fill

MOST_POINTS = 6  # of a series that are shown for reading; CSV and JSON hold all


def title(name: str) -> str:
    return figure_title(name) if name in figure_names() else table_spec(name).title


def needs(name: str) -> list[Need]:
    """What must be there: a strategy on a model, and what of it. Table 6 needs any one evaluation."""
    if name in figure_names():
        return figure_needs(name)
    if name == "table6":
        return [("llama_moe", "none", "scores")]
    spec = table_spec(name)
    return line_needs(spec.lines, [column.quantity for column in spec.columns])


def render(name: str, experiments: Experiments, style: str) -> str:
    """Write a table or a figure's numbers in one of the formats of :data:`harness.grid.ENDINGS`."""
    if name in figure_names():
        return figure_text(figure_data(name, experiments), experiments, style)
    return table_text(fill(name, experiments), style)


def draw(name: str, experiments: Experiments, path: Path) -> None:
    draw_figure(figure_data(name, experiments), path)


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
        series: dict[str, list[Point]] = {}
        for point in panel.points:
            series.setdefault(point.series, []).append(point)
        for name, points in series.items():
            for p in points if len(points) <= MOST_POINTS else (points[0], points[-1]):
                error = "?" if math.isnan(p.stderr) else _short(p.stderr)
                rows.append([panel.title, name, _short(p.x), _short(p.y), error, _published(p.published)])
    header = ["panel", "series", "x", "y", "±", "paper"]
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    grid = Grid([header[i] for i in used], [[row[i] for i in used] for row in rows])
    title = f"Figure {figure.name.removeprefix('figure')}: {figure.title}"
    return Section(title, grid if rows else Grid(["Nothing measured yet."], []), figure_notes(figure, experiments))


def figure_notes(figure: FigureData, experiments: Experiments) -> list[str]:
    """Single numbers beside the paper's, and what is missing, each reason once."""
    notes = [f"{what}: {ours:.3f}" + (f" (paper: {told})" if told is not None else "")
             for what, ours, told in figure.facts]  # fmt: skip
    reasons: dict[str, list[str]] = {}
    for text in figure.missing:
        what, _, reason = text.partition(": ")
        reasons.setdefault(reason, []).append(what)
    notes += [f"Missing: {', '.join(held)}: {reason}." for reason, held in reasons.items()]
    if figure.missing:
        notes.append(f"To make it: moemix paper run {figure.name} --preset {experiments.preset.name}")
    return notes


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _published(value: float | None) -> str:
    return printed(value) if value is not None else ""
