"""Tables and figures by name: what each needs and shows, in any format."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from tabulate import tabulate

from leaderboards.paper import rendering
from leaderboards.paper.drawing import draw_figure
from leaderboards.paper.figures import FigureData, figure_data, figure_names, figure_needs, figure_title
from leaderboards.paper.published import printed, source
from leaderboards.paper.runs import Experiments, Need, line_needs
from leaderboards.paper.specs import table_spec
from leaderboards.paper.tables import fill
from leaderboards.rendering import booktabs, latex_text, markdown_text

TABLE_FORMATS = {
    "markdown": rendering.markdown,
    "latex": rendering.latex,
    "csv": rendering.as_csv,
    "json": rendering.as_json,
}


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
    """A table or a figure's numbers as Markdown, LaTeX, CSV or JSON."""
    if name in figure_names():
        return figure_text(figure_data(name, experiments), experiments, style)
    return TABLE_FORMATS[style](fill(name, experiments))


def draw(name: str, experiments: Experiments, path: Path) -> None:
    draw_figure(figure_data(name, experiments), path)


def figure_text(figure: FigureData, experiments: Experiments, style: str) -> str:
    """A figure's numbers in any format."""
    rows = [
        {"figure": figure.name, "panel": panel.title, "series": p.series, "x": p.x, "y": p.y,
         "stderr": None if math.isnan(p.stderr) else p.stderr, "published": p.published}
        for panel in figure.panels for p in panel.points
    ]  # fmt: skip
    facts = [
        {"figure": figure.name, "fact": what, "ours": ours, "published": told} for what, ours, told in figure.facts
    ]
    if style == "json":
        document = {"schema_version": 1, "figure": figure.name, "title": figure.title, "source": source(),
                    "points": rows, "facts": facts, "missing": list(figure.missing)}  # fmt: skip
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if style == "csv":
        return _csv(rows, facts)
    head = ["panel", "series", "x", "y", "±", "paper"]
    lines = [
        [str(r["panel"]), str(r["series"]), _short(r["x"]), _short(r["y"]), _short(r["stderr"]), _told(r["published"])]
        for r in _thinned(rows)
    ]
    used = [i for i in range(len(head)) if any(line[i] for line in lines)]
    head, lines = [head[i] for i in used], [[line[i] for i in used] for line in lines]
    notes = figure_notes(figure, experiments)
    heading = f"Figure {figure.name.removeprefix('figure')}: {figure.title}"
    if style == "latex":
        body = booktabs([[latex_text(text) for text in line] for line in lines], [latex_text(name) for name in head])
        return f"% needs \\usepackage{{booktabs}}\n% {latex_text(heading)}\n{body}\n" + "".join(
            f"{latex_text(note)}\\par\n" for note in notes
        )
    cells = [[markdown_text(text) for text in line] for line in lines]
    grid = tabulate(cells, head, tablefmt="pipe", disable_numparse=True) if cells else "Nothing measured yet."
    return f"### {markdown_text(heading)}\n\n{grid}\n\n" + "".join(f"- {markdown_text(note)}\n" for note in notes)


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


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of long trajectories the first and the last points, for reading; CSV and JSON hold all."""
    by_series: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for row in rows:
        by_series.setdefault((row["panel"], row["series"]), []).append(row)
    return [row for group in by_series.values() for row in (group if len(group) <= 6 else [group[0], group[-1]])]


def _short(value: Any) -> str:
    if value is None:
        return "?"
    return str(value) if isinstance(value, str) else f"{value:.4g}"


def _told(value: float | None) -> str:
    return printed(value) if value is not None else ""


def _csv(rows: list[dict[str, Any]], facts: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(
        out, ("figure", "panel", "series", "x", "y", "stderr", "published"), lineterminator="\n", restval=""
    )
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    for fact in facts:
        told = "" if fact["published"] is None else fact["published"]
        writer.writerow({"figure": fact["figure"], "series": fact["fact"], "y": fact["ours"], "published": told})
    return out.getvalue()
