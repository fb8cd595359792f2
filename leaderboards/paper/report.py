"""Every table and figure as one report: Markdown, a page to browse, and each by itself in every format."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.files import write_text
from harness.grid import (
    ENDINGS,
    Grid,
    html_page,
    html_section,
    html_table,
    html_text,
    markdown_section,
    markdown_table,
    markdown_text,
)
from leaderboards.paper.claims import findings, heading, in_words, rows
from leaderboards.paper.drawing import draw_figure
from leaderboards.paper.figures import FigureData, figure_data, figure_names
from leaderboards.paper.published import source
from leaderboards.paper.rendering import LEGEND, table_section, table_text
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import table_names
from leaderboards.paper.tables import PaperTable, agreement, fill
from leaderboards.paper.targets import figure_section, figure_text, needs, title
from leaderboards.paper.times import times

STYLES = ("markdown", "latex", "csv", "json")
KINDS = ("png", "pdf")


def write_report(experiments: Experiments, out: Path, single: Path | None = None) -> list[Path]:
    """``report.md``, ``index.html``, and below them every table and figure; the files written.

    Args:
        single: also the report as this one Markdown file, its figures in the folder beside it.
    """
    written: list[Path] = []
    tables = {name: fill(name, experiments) for name in table_names()}
    figures = {name: figure_data(name, experiments) for name in figure_names()}
    held = _gather(experiments, tables, figures)
    for name in table_names():
        for style in STYLES:
            written.append(_write(out / f"{name}{ENDINGS[style]}", table_text(tables[name], style)))
    for name, figure in figures.items():
        for style in ("markdown", "csv", "json"):
            written.append(_write(out / f"{name}{ENDINGS[style]}", figure_text(figure, experiments, style)))
        for kind in KINDS:
            draw_figure(figure, out / f"{name}.{kind}")
            written.append(out / f"{name}.{kind}")
    written.append(_write(out / "report.md", _markdown(experiments, tables, figures, held, ".")))
    written.append(_write(out / "index.html", _page(experiments, tables, figures, held)))
    if single is not None:
        folder = single.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        for name in figures:
            shutil.copyfile(out / f"{name}.png", folder / f"{name}.png")
        pictures = os.path.relpath(folder, single.parent)
        written.append(_write(single, _markdown(experiments, tables, figures, held, pictures)))
    return written


def _write(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


@dataclass(frozen=True)
class _Part:
    """Paragraphs of the report's beginning, and a table below them."""

    title: str
    texts: list[str]
    grid: Grid


def _gather(experiments: Experiments, tables: dict[str, PaperTable], figures: dict[str, FigureData]) -> list[_Part]:
    """Collect what stands before the tables; all of it is computed."""
    found = findings(experiments, tables)
    took = times(experiments, [need for name in (*tables, *figures) for need in needs(name)])
    words = in_words(found, tables, figures["figure2"])
    return [
        _Part("What agrees with the paper at this scale, and what does not", words, _grid(rows(found))),
        _Part("How much of it was measured", [], _grid(_measured(tables, figures))),
        _Part("Wall time", [took.in_words()], _grid(took.rows())),
    ]


def _grid(rows: list[list[str]]) -> Grid:
    return Grid(rows[0], rows[1:], align="l" * len(rows[0]))


def _measured(tables: dict[str, PaperTable], figures: dict[str, FigureData]) -> list[list[str]]:
    lines = [["", "shows", "measured", "sign of the difference to the baseline as in the paper"]]
    for name, table in tables.items():
        there = sum(cell.ours is not None for cell in table.cells.values())
        agree, of = agreement(table)
        signs = f"{agree} of {of}" if of else ""
        lines.append([heading(name), title(name), f"{there} of {len(table.cells)} cells", signs])
    for name, figure in figures.items():
        points = sum(len(panel.points) for panel in figure.panels)
        lines.append(
            [heading(name), title(name), f"{points} points" + (", some missing" if figure.missing else ""), ""]
        )
    return lines


def _about(experiments: Experiments) -> list[str]:
    return [
        f"{source()}. Made by `moemix paper report --preset {experiments.preset.name}` from the runs of"
        f" `moemix paper run all --preset {experiments.preset.name}`.",
        *experiments.preset.notes,
        LEGEND,
    ]


def _markdown(
    experiments: Experiments, tables: dict[str, PaperTable], figures: dict[str, FigureData],
    parts: list[_Part], pictures: str,
) -> str:  # fmt: skip
    texts = [f"# The paper's tables and figures, preset {experiments.preset.name}"]
    texts += [markdown_text(text).replace("\\`", "`") for text in _about(experiments)]
    for part in parts:
        texts += [f"## {markdown_text(part.title)}", *map(markdown_text, part.texts)]
        texts += [markdown_table(part.grid)] if part.grid.rows else []
    texts += ["## Tables", *(markdown_section(table_section(table, shared=False)) for table in tables.values())]
    texts.append("## Figures")
    for name, figure in figures.items():
        first, _, rest = markdown_section(figure_section(figure, experiments)).partition("\n\n")
        texts.append(f"{first}\n\n![{title(name)}]({pictures}/{name}.png)\n\n{rest}".rstrip())
    return "\n\n".join(texts) + "\n"


def _page(
    experiments: Experiments, tables: dict[str, PaperTable], figures: dict[str, FigureData], parts: list[_Part]
) -> str:
    """Write the report as a page without scripts; every text is escaped."""
    headline = f"The paper's tables and figures, preset {experiments.preset.name}"
    body = [
        f"<h1>{html_text(headline)}</h1>",
        *(f"<p>{html_text(t.replace('`', ''))}</p>" for t in _about(experiments)),
    ]
    links = (f'<a href="#{name}">{heading(name)}</a>' for name in (*tables, *figures))
    body.append(f"<nav>{' '.join(links)}</nav>")
    for part in parts:
        texts = "".join(f"<p>{html_text(text)}</p>" for text in part.texts)
        body.append(f"<h2>{html_text(part.title)}</h2>{texts}{html_table(part.grid) if part.grid.rows else ''}")
    for name, table in tables.items():
        body.append(
            html_section(table_section(table, shared=False), name) + _downloads(name, "md", "tex", "csv", "json")
        )
    for name, figure in figures.items():
        section = figure_section(figure, experiments)
        picture = f'<img src="{name}.png" alt="{html_text(figure.title)}">'
        body.append(html_section(section, name, picture) + _downloads(name, "pdf", "png", "csv", "json"))
    return html_page(headline, "".join(body))


def _downloads(name: str, *kinds: str) -> str:
    links = (f'<a href="{name}.{kind}">{kind}</a>' for kind in kinds)
    return f"<p><small>{' '.join(links)}</small></p>"
