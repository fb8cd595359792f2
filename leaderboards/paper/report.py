"""Every table and figure as one report: Markdown, a page to browse, and each by itself in every format."""

from __future__ import annotations

import html
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from harness.files import write_text
from leaderboards.paper.claims import findings, heading, in_words, rows
from leaderboards.paper.drawing import draw_figure
from leaderboards.paper.figures import FigureData, figure_data, figure_names
from leaderboards.paper.published import source
from leaderboards.paper.rendering import LEGEND, grid, markdown
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import table_names
from leaderboards.paper.tables import PaperTable, agreement, fill
from leaderboards.paper.targets import TABLE_FORMATS, figure_notes, figure_text, needs, title
from leaderboards.paper.times import times
from leaderboards.rendering import markdown_text, plain

ENDINGS = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "json": ".json"}
KINDS = ("png", "pdf")

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:auto;padding:1rem;color:#222;background:#fff}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .6rem;border-bottom:1px solid #ccc;
text-align:right}td:first-child,th:first-child,.words td,.words th{text-align:left}
small{color:#666}img{max-width:100%;background:#fff}
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
    figures = {name: figure_data(name, experiments) for name in figure_names()}
    held = _gather(experiments, tables, figures)
    for name in table_names():
        for style, ending in ENDINGS.items():
            written.append(_write(out / f"{name}{ending}", TABLE_FORMATS[style](tables[name])))
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
class _Section:
    """Paragraphs, and a table below them, its first row the header."""

    title: str
    texts: list[str]
    rows: list[list[str]]


def _gather(experiments: Experiments, tables: dict[str, PaperTable], figures: dict[str, FigureData]) -> list[_Section]:
    """What stands before the tables: nothing here is an opinion."""
    found = findings(experiments, tables)
    took = times(experiments, [need for name in (*tables, *figures) for need in needs(name)])
    words = in_words(found, tables, figures["figure2"])
    return [
        _Section("What agrees with the paper at this scale, and what does not", words,
                 rows(found)),
        _Section("How much of it was measured", [], _measured(tables, figures)),
        _Section("Wall time", [took.in_words()], took.rows()),
    ]  # fmt: skip


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
    sections: list[_Section], pictures: str,
) -> str:  # fmt: skip
    parts = [f"# The paper's tables and figures, preset {experiments.preset.name}"]
    parts += [markdown_text(text).replace("\\`", "`") for text in _about(experiments)]
    for section in sections:
        parts += [f"## {markdown_text(section.title)}", *map(markdown_text, section.texts)]
        head, *body = ([markdown_text(cell) for cell in row] for row in section.rows)
        parts += [tabulate(body, head, tablefmt="pipe", disable_numparse=True)] if body else []
    parts += ["## Tables", *(markdown(table, shared=False).strip() for table in tables.values()), "## Figures"]
    for name, figure in figures.items():
        text = figure_text(figure, experiments, "markdown").strip()
        first, _, rest = text.partition("\n\n")
        parts.append(f"{first}\n\n![{title(name)}]({pictures}/{name}.png)\n\n{rest}")
    return "\n\n".join(parts) + "\n"


def _page(
    experiments: Experiments, tables: dict[str, PaperTable], figures: dict[str, FigureData], sections: list[_Section]
) -> str:
    """The report as a page: no script, every text escaped."""
    names = [*tables, *figures]
    links = " ".join(f'<a href="#{name}">{heading(name)}</a>' for name in names)
    about = "".join(f"<p>{_text(text.replace('`', ''))}</p>" for text in _about(experiments))
    before = "".join(_section(section) for section in sections)
    parts = [_table(name, table) for name, table in tables.items()]
    for name, figure in figures.items():
        notes = "".join(f"<li>{_text(note)}</li>" for note in figure_notes(figure, experiments))
        parts.append(
            f'<h2 id="{name}">{heading(name)}: {_text(figure.title)}</h2><img src="{name}.png"'
            f' alt="{_text(figure.title)}"><p><small>{_downloads(name, ("pdf", "png", "csv", "json"))}</small></p>'
            f"<ul>{notes}</ul>"
        )
    headline = f"The paper's tables and figures, preset {experiments.preset.name}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{_text(headline)}</title><style>{STYLE}</style><h1>{_text(headline)}</h1>{about}"
        f"<nav>{links}</nav>{before}{''.join(parts)}</html>\n"
    )


def _section(section: _Section) -> str:
    texts = "".join(f"<p>{_text(text)}</p>" for text in section.texts)
    head, *body = section.rows
    header = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in body)
    table = f'<table class="words"><tr>{header}</tr>{lines}</table>' if body else ""
    return f"<h2>{_text(section.title)}</h2>{texts}{table}"


def _table(name: str, table: PaperTable) -> str:
    head, *body = grid(table)
    header = "".join(f"<th>{_text(cell[0])}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{_text(c[0])}{_below(c[1:])}</td>" for c in row) + "</tr>" for row in body)
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.notes)
    return (
        f'<h2 id="{name}">{heading(name)}: {_text(table.spec.title)}</h2><table><tr>{header}</tr>{lines}</table>'
        f"<p><small>{_downloads(name, ('md', 'tex', 'csv', 'json'))}</small></p><ul>{notes}</ul>"
    )


def _below(lines: tuple[str, ...]) -> str:
    return "".join(f"<br><small>{_text(line)}</small>" for line in lines)


def _downloads(name: str, kinds: tuple[str, ...]) -> str:
    return " ".join(f'<a href="{name}.{kind}">{kind}</a>' for kind in kinds)


def _text(text: str) -> str:
    return html.escape(plain(text))
