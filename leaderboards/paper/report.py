"""Every table and figure as one report: Markdown, a page to browse, and each by itself in every format."""

from __future__ import annotations

import html
import os
from pathlib import Path

from harness.files import write_text
from leaderboards.paper.figures import figure_data, figure_names
from leaderboards.paper.published import source
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import table_names
from leaderboards.paper.tables import PaperTable, agreement, fill
from leaderboards.paper.targets import TABLE_FORMATS, draw, render, title
from leaderboards.rendering import markdown_text, plain

ENDINGS = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "json": ".json"}
KINDS = ("png", "pdf")

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:auto;padding:1rem;color:#222;background:#fff}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .6rem;border-bottom:1px solid #ccc;
text-align:right}td:first-child,th:first-child{text-align:left}small{color:#666}img{max-width:100%;background:#fff}
nav a{margin-right:.8rem}@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}a{color:#8bf}
small{color:#aaa}td,th{border-color:#444}}
"""


def write_report(experiments: Experiments, out: Path, single: Path | None = None) -> list[Path]:
    """``report.md``, ``index.html``, and below them every table and figure; the files written.

    Args:
        single: also the report as this one Markdown file, its figures in the folder beside it.
    """
    written: list[Path] = []
    tables = {name: fill(name, experiments) for name in table_names()}
    for name in table_names():
        for style, ending in ENDINGS.items():
            written.append(_write(out / f"{name}{ending}", TABLE_FORMATS[style](tables[name])))
    for name in figure_names():
        for style in ("markdown", "csv", "json"):
            written.append(_write(out / f"{name}{ENDINGS[style]}", render(name, experiments, style)))
        for kind in KINDS:
            draw(name, experiments, out / f"{name}.{kind}")
            written.append(out / f"{name}.{kind}")
    written.append(_write(out / "report.md", _markdown(experiments, tables, ".")))
    written.append(_write(out / "index.html", _page(experiments, tables)))
    if single is not None:
        folder = single.with_suffix("")
        for name in figure_names():
            draw(name, experiments, folder / f"{name}.png")
        written.append(_write(single, _markdown(experiments, tables, os.path.relpath(folder, single.parent))))
    return written


def _write(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


def _markdown(experiments: Experiments, tables: dict[str, PaperTable], figures: str) -> str:
    parts = [
        f"# The paper's tables and figures, preset {experiments.preset.name}",
        f"{markdown_text(source())}. Made by `moemix paper report --preset {experiments.preset.name}` from the runs of"
        f" `moemix paper run all --preset {experiments.preset.name}`.",
        "\n".join(f"- {markdown_text(line)}" for line in summary(experiments, tables)),
    ]
    parts += [TABLE_FORMATS["markdown"](table).strip() for table in tables.values()]
    for name in figure_names():
        text = render(name, experiments, "markdown").strip()
        heading, _, rest = text.partition("\n\n")
        parts.append(f"{heading}\n\n![{title(name)}]({figures}/{name}.png)\n\n{rest}")
    return "\n\n".join(parts) + "\n"


def summary(experiments: Experiments, tables: dict[str, PaperTable]) -> list[str]:
    """What agrees and what does not, counted: nothing here is an opinion."""
    lines = []
    for name, table in tables.items():
        there = sum(cell.ours is not None for cell in table.cells.values())
        told = f"{title(name)}: {there} of {len(table.cells)} cells measured"
        agree, of = agreement(table)
        if of:
            starred = [
                f"{line.title} {column.title} {cell.to_base.value:+.1f} (paper {cell.published_to_base:+.1f})"
                for line in table.spec.lines
                for column in table.spec.columns
                if (cell := table.cell(line, column)).significant and cell.to_base and cell.published_to_base
            ]
            told += f"; the sign of the difference to Uniform is the paper's in {agree} of {of}"
            told += f"; significant here: {'; '.join(starred)}" if starred else "; none of the differences significant"
        lines.append(f"Table {name.removeprefix('table')}, {told}.")
    for name in figure_names():
        figure = figure_data(name, experiments)
        facts = "; ".join(
            f"{what} {ours:.3f}" + (f" (paper {theirs})" if theirs is not None else "")
            for what, ours, theirs in figure.facts
        )
        points = sum(len(panel.points) for panel in figure.panels)
        lines.append(f"Figure {name.removeprefix('figure')}, {figure.title}: {points} points. {facts}".strip())
    return lines


def _page(experiments: Experiments, tables: dict[str, PaperTable]) -> str:
    """The report as a page: no script, every text escaped."""
    names = [*tables, *figure_names()]
    links = " ".join(f'<a href="#{name}">{_heading(name)}</a>' for name in names)
    counted = "".join(f"<li>{_text(line)}</li>" for line in summary(experiments, tables))
    parts = [_table(name, table) for name, table in tables.items()]
    for name in figure_names():
        figure = figure_data(name, experiments)
        missing = "".join(f"<li>Missing: {_text(reason)}</li>" for reason in figure.missing)
        parts.append(
            f'<h2 id="{name}">{_heading(name)}: {_text(figure.title)}</h2><img src="{name}.png"'
            f' alt="{_text(figure.title)}"><p><small>{_downloads(name, ("pdf", "png", "csv", "json"))}</small></p>'
            f"<ul>{missing}</ul>"
        )
    heading = f"The paper's tables and figures, preset {experiments.preset.name}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{_text(heading)}</title><style>{STYLE}</style><h1>{_text(heading)}</h1><p>{_text(source())}</p>"
        f"<nav>{links}</nav><ul>{counted}</ul>{''.join(parts)}</html>\n"
    )


def _table(name: str, table: PaperTable) -> str:
    from leaderboards.paper.rendering import grid

    head, *body = grid(table)
    header = "".join(f"<th>{_text(cell[0])}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{_text(c[0])}{_below(c[1:])}</td>" for c in row) + "</tr>" for row in body)
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.notes)
    return (
        f'<h2 id="{name}">{_heading(name)}: {_text(table.spec.title)}</h2><table><tr>{header}</tr>{rows}</table>'
        f"<p><small>{_downloads(name, ('md', 'tex', 'csv', 'json'))}</small></p><ul>{notes}</ul>"
    )


def _below(lines: tuple[str, ...]) -> str:
    return "".join(f"<br><small>{_text(line)}</small>" for line in lines)


def _downloads(name: str, kinds: tuple[str, ...]) -> str:
    return " ".join(f'<a href="{name}.{kind}">{kind}</a>' for kind in kinds)


def _heading(name: str) -> str:
    return name.replace("table", "Table ").replace("figure", "Figure ")


def _text(text: str) -> str:
    return html.escape(plain(text))
