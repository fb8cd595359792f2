"""Tables as data, and one writer for each format: terminal, Markdown, LaTeX, HTML, CSV and JSON.

For reading, a command fills a :class:`Grid` (or a :class:`Section`: a grid with a title and notes) and gives it to
:func:`write`. For programs it gives records to :func:`csv_text` or a document to :func:`json_text`. Every writer
escapes its texts: they are shown as text, never as markup, a formula or a terminal control sequence.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tabulate import tabulate

NOTHING = "—"
WIDTH = 110  # of notes on a terminal, in characters
ENDINGS = {"terminal": ".txt", "markdown": ".md", "latex": ".tex", "html": ".html", "csv": ".csv", "json": ".json"}

Value = str | int | float | bool | None
Mark = Literal["", "best", "tied"]


@dataclass(frozen=True)
class Number:
    """A number as a reader sees it, in the unit that is shown (percent where a fraction is shown in percent).

    Attributes:
        error: standard error, or half of an interval; nan where it is unknown, None where there is none to show.
        decimals: digits after the point.

    >>> str(Number(3.14159, 0.25, decimals=1, signed=True))
    '+3.1 ± 0.2'
    """

    value: float
    error: float | None = None
    decimals: int = 2
    signed: bool = False

    def __str__(self) -> str:
        if math.isnan(self.value):
            return NOTHING
        text = self._fixed(self.value, "+" if self.signed else "")
        if self.error is None:
            return text
        return f"{text} ± {'?' if math.isnan(self.error) else self._fixed(self.error)}"

    def _fixed(self, value: float, sign: str = "") -> str:
        rounded = round(value, self.decimals) + 0.0  # adding 0 turns a negative zero into zero
        return f"{rounded:{sign}.{self.decimals}f}".replace("-", "−")


@dataclass(frozen=True)
class Cell:
    """One cell of a grid.

    Attributes:
        content: a text, a count, or a number with its error.
        note: follows the content: the number of a footnote, or a star.
        below: a second, smaller line.
        mark: the best of its column, or tied with it.
    """

    content: str | int | Number
    note: str = ""
    below: str = ""
    mark: Mark = ""

    @property
    def text(self) -> str:
        """The first line; counts have thousands separators."""
        first = f"{self.content:,}" if isinstance(self.content, int) else str(self.content)
        return f"{first}{self.note}"


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        header: the titles of the columns.
        rows: as many cells each; a plain text or count is a cell without marks.
        caption: what the table shows, where its section has several.
        align: one letter a column, ``l`` or ``r``; by default the first column is left and the others are as the format
            has them: left in a terminal and in Markdown, right in LaTeX and HTML.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str | int]]
    caption: str = ""
    align: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows with a :class:`Cell` in every place."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    @property
    def columns(self) -> str:
        """The alignment of every column in LaTeX and HTML."""
        return self.align or "l" + "r" * (len(self.header) - 1)


@dataclass(frozen=True)
class Section:
    """A titled table with what a reader has to know about it.

    Attributes:
        legend: what the marks ``best`` and ``tied`` mean; shown where the grid has a mark.
        more: further grids, each with a caption.
    """

    title: str
    grid: Grid
    notes: Sequence[str] = ()
    legend: Mapping[str, str] = field(default_factory=dict)
    more: Sequence[Grid] = ()


# --- text ---------------------------------------------------------------------------------------------


_MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]|~$#!"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
)
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
    | {c: f"{{{c}}}" for c in "[]*"}  # at the start of a row they would be read as arguments of \\
    | {"±": r"$\pm$", "−": "$-$", "·": r"$\cdot$", "↓": r"$\downarrow$", "—": "---", "→": r"$\rightarrow$"}
)


def plain(text: str) -> str:
    """Return the text as one line without control, formatting or direction-changing characters."""
    spaced = " ".join(text.split())
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") else c for c in spaced)


def markdown_text(text: str) -> str:
    """Escape a text so that Markdown and HTML show it as it is, in a table cell too."""
    return plain(text).translate(_MARKDOWN)


def latex_text(text: str) -> str:
    """Escape a text so that LaTeX sets it as it is."""
    return plain(text).translate(_LATEX)


def html_text(text: str) -> str:
    """Escape a text so that HTML shows it as it is, in an attribute too."""
    return html.escape(plain(text))


# --- formats for reading ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Format:
    """How one format escapes a text, and its templates of marked cells, of a legend and of a second line."""

    escape: Callable[[str], str]
    marks: Mapping[str, str]
    legend: str
    below: str

    def first(self, cell: Cell) -> str:
        return self.marks.get(cell.mark, "{}").format(self.escape(cell.text))

    def second(self, cell: Cell) -> str:
        return self.below.format(self.escape(cell.below)) if cell.below else ""

    def notes(self, section: Section) -> list[str]:
        notes = [self.escape(note) for note in section.notes]
        if section.legend and any(cell.mark for row in section.grid.cells for cell in row):
            notes.insert(0, self.legend.format(**{mark: self.escape(text) for mark, text in section.legend.items()}))
        return notes


_TERMINAL = _Format(plain, {"best": "{} ◆", "tied": "{} ◇"}, "◆ {best}; ◇ {tied}.", "\n{}")
_PIPE = _Format(markdown_text, {"best": "**{}**", "tied": "_{}_"}, "**Bold**: {best}; _italic_: {tied}.", "<br>{}")
_TEX = _Format(
    latex_text, {"best": r"\textbf{{{}}}", "tied": r"\underline{{{}}}"},
    r"\textbf{{Bold}}: {best}; \underline{{underlined}}: {tied}.", r"{{\footnotesize {}}}",
)  # fmt: skip
_HTML = _Format(
    html_text, {"best": "<b>{}</b>", "tied": "<i>{}</i>"}, "<b>Bold</b>: {best}; <i>italic</i>: {tied}.",
    "<br><small>{}</small>",
)  # fmt: skip


def write(sections: Iterable[Section], style: str) -> str:
    """Write sections one below the other; ``style`` is ``terminal``, ``markdown``, ``latex`` or ``html`` (a page)."""
    held = list(sections)
    if style == "html":
        return html_page(held[0].title, "".join(html_section(section) for section in held))
    section_writers = {"terminal": _terminal_section, "markdown": markdown_section, "latex": _latex_section}
    head = "% needs \\usepackage{booktabs}\n" if style == "latex" else ""
    return head + "\n\n".join(section_writers[style](section) for section in held) + "\n"


def terminal_table(grid: Grid) -> str:
    """Write a grid for a terminal: columns aligned by spaces."""
    return _tabulated(grid, _TERMINAL, "simple")


def markdown_table(grid: Grid) -> str:
    """Write a grid as a Markdown table."""
    return _tabulated(grid, _PIPE, "pipe")


def _tabulated(grid: Grid, form: _Format, style: str) -> str:
    rows = [[form.first(cell) + form.second(cell) for cell in row] for row in grid.cells]
    align = ["right" if letter == "r" else "left" for letter in grid.align] or None
    header = [form.escape(name) for name in grid.header]
    if not rows:
        return "  ".join(header)
    return tabulate(rows, header, tablefmt=style, disable_numparse=True, colalign=align)


def latex_table(grid: Grid) -> str:
    """Write a grid as a booktabs tabular; the second lines of a row's cells are a row of their own."""
    rows = []
    for cells in grid.cells:
        rows.append(map(_TEX.first, cells))
        if any(cell.below for cell in cells):
            rows.append(map(_TEX.second, cells))
    header, *body = (" & ".join(row) + r" \\" for row in (map(latex_text, grid.header), *rows))
    begin = f"\\begin{{tabular}}{{{grid.columns}}}"
    return "\n".join([begin, r"\toprule", header, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def html_table(grid: Grid) -> str:
    """Write a grid as an HTML table; columns of texts have the class ``l``."""

    def line(tag: str, cells: Iterable[str]) -> str:
        pairs = zip(cells, grid.columns, strict=True)
        return "<tr>" + "".join(f'<{tag} class="{letter}">{cell}</{tag}>' for cell, letter in pairs) + "</tr>"

    rows = (line("td", [_HTML.first(cell) + _HTML.second(cell) for cell in row]) for row in grid.cells)
    return f"<table>{line('th', map(html_text, grid.header))}{''.join(rows)}</table>"


def _terminal_section(section: Section) -> str:
    title = plain(section.title)
    lines = [title, "=" * len(title), "", terminal_table(section.grid), ""]
    notes = _TERMINAL.notes(section)
    lines += [textwrap.fill(note, WIDTH, subsequent_indent="    ", break_on_hyphens=False) for note in notes]
    for grid in section.more:
        lines += ["", plain(grid.caption), "", terminal_table(grid)]
    return "\n".join(lines)


def markdown_section(section: Section) -> str:
    """Write a section under a heading of the third level."""
    lines = [f"### {markdown_text(section.title)}", "", markdown_table(section.grid), ""]
    lines += [f"- {note}" for note in _PIPE.notes(section)]
    for grid in section.more:
        lines += ["", f"{markdown_text(grid.caption)}:", "", markdown_table(grid)]
    return "\n".join(lines)


def _latex_section(section: Section) -> str:
    def floating(caption: str, grid: Grid, notes: Sequence[str]) -> list[str]:
        below = ["\\par\\raggedright\\footnotesize", *(f"{note}\\par" for note in notes)] if notes else []
        head = ["\\begin{table}", "\\centering", f"\\caption{{{latex_text(caption)}}}"]
        return [*head, latex_table(grid), *below, "\\end{table}"]

    lines = floating(section.title, section.grid, _TEX.notes(section))
    for grid in section.more:
        lines += ["", *floating(f"{section.title}: {grid.caption}", grid, [])]
    return "\n".join(lines)


def html_section(section: Section, name: str = "", picture: str = "") -> str:
    """Write a section as HTML: ``name`` is the id of its heading, ``picture`` is HTML in place of its grid."""
    mark = f' id="{html_text(name)}"' if name else ""
    notes = "".join(f"<li>{note}</li>" for note in _HTML.notes(section))
    more = "".join(f"<p>{html_text(grid.caption)}</p>{html_table(grid)}" for grid in section.more)
    return f"<h2{mark}>{html_text(section.title)}</h2>{picture or html_table(section.grid)}<ul>{notes}</ul>{more}"


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:auto;padding:1rem;color:#222;background:#fff}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .6rem;border-bottom:1px solid #ccc;
text-align:right}td.l,th.l{text-align:left}small{color:#666}img{max-width:100%;background:#fff}nav a{margin-right:.8rem}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}a{color:#8bf}small{color:#aaa}
td,th{border-color:#444}}
"""


def html_page(title: str, body: str) -> str:
    """Wrap HTML in a page that is readable on a phone and in the dark, without scripts."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html_text(title)}</title><style>{_STYLE}</style>{body}</html>\n"
    )


# --- formats for programs -----------------------------------------------------------------------------


def csv_text(fields: Sequence[str], records: Iterable[Mapping[str, Value]]) -> str:
    """Write records as CSV, numbers in full; what is unknown (None, nan, or missing) is empty.

    Spreadsheets run text that looks like a formula, so such text gets a leading apostrophe.

    Raises:
        ValueError: a record has a key that is not in ``fields``.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({key: _csv_value(value) for key, value in record.items()})
    return out.getvalue()


def _csv_value(value: Value) -> Value:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@"):
        return "'" + value
    return value


def json_text(document: object, *, indent: int | None = 1) -> str:
    """Write a document as JSON; nan and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(document), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
