"""Tables for people: terminal, Markdown, LaTeX. Whatever a record says is text, never markup or a control sequence."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Sequence

from tabulate import DataRow, Line, TableFormat, tabulate

from leaderboards.layout import Entry, Grid, Section, lay_out
from leaderboards.table import Comparison

WIDTH = 110  # of notes on a terminal

LEGENDS = {
    "terminal": "◆ best of its column; ◇ cannot be told apart from the best (5 %, after Holm's correction).",
    "markdown": "**Bold**: best of its column; _italic_: cannot be told apart from the best"
    " (5 %, after Holm's correction).",
    "latex": r"\textbf{Bold}: best of its column; \underline{underlined}: cannot be told apart from the best (5\,\%,"
    " after Holm's correction).",
}

_MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]|~$#!"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"},
)
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
    | {c: f"{{{c}}}" for c in "[]*"}  # at the start of a row they would be read as arguments of \\
    | {"±": r"$\pm$", "−": "$-$", "·": r"$\cdot$", "↓": r"$\downarrow$", "—": "---", "→": r"$\rightarrow$"}
)
_BOOKTABS = {
    "linebelowheader": Line(r"\midrule", "", "", ""),
    "linebelow": Line("\\bottomrule\n\\end{tabular}", "", "", ""),
}


def plain(text: str) -> str:
    """One line without control, formatting or direction-changing characters."""
    spaced = " ".join(text.split())
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") else c for c in spaced)


def markdown_text(text: str) -> str:
    """Text that Markdown and HTML leave as it is, in a table cell too."""
    return plain(text).translate(_MARKDOWN)


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return plain(text).translate(_LATEX)


def terminal(comparisons: Sequence[Comparison]) -> str:
    marks = {"": "", "best": " ◆", "tied": " ◇"}

    def cell(entry: Entry) -> str:
        return "\n".join(filter(None, (plain(entry.text) + marks[entry.mark], plain(entry.below))))

    def section(found: Section) -> str:
        title = plain(found.title)
        lines = [title, "=" * len(title), "", _grid(found.scores, cell, plain, "simple"), ""]
        notes = [LEGENDS["terminal"]] * found.marked + [plain(note) for note in found.notes]
        lines += [textwrap.fill(note, WIDTH, subsequent_indent="    ", break_on_hyphens=False) for note in notes]
        for grid in found.runs:
            lines += ["", plain(grid.caption), "", _grid(grid, cell, plain, "simple")]
        return "\n".join(lines)

    return _join(comparisons, section)


def markdown(comparisons: Sequence[Comparison]) -> str:
    marks = {"": "{}", "best": "**{}**", "tied": "_{}_"}

    def cell(entry: Entry) -> str:
        first = marks[entry.mark].format(markdown_text(entry.text))
        return "<br>".join(filter(None, (first, markdown_text(entry.below))))

    def section(found: Section) -> str:
        lines = [f"### {markdown_text(found.title)}", "", _grid(found.scores, cell, markdown_text, "pipe"), ""]
        lines += [f"- {LEGENDS['markdown']}"] * found.marked
        lines += [f"- {markdown_text(note)}" for note in found.notes]
        for grid in found.runs:
            lines += ["", f"{markdown_text(grid.caption)}:", "", _grid(grid, cell, markdown_text, "pipe")]
        return "\n".join(lines)

    return _join(comparisons, section)


def latex(comparisons: Sequence[Comparison]) -> str:
    """Booktabs tables; the second line of a cell is a row of its own."""
    marks = {"": "{}", "best": "\\textbf{{{}}}", "tied": "\\underline{{{}}}"}

    def first(entry: Entry) -> str:
        return marks[entry.mark].format(latex_text(entry.text))

    def second(entry: Entry) -> str:
        return f"{{\\footnotesize {latex_text(entry.below)}}}" if entry.below else ""

    def tabular(grid: Grid) -> str:
        rows = []
        for entries in grid.rows:
            rows.append([first(entry) for entry in entries])
            if any(entry.below for entry in entries):
                rows.append([second(entry) for entry in entries])
        return booktabs(rows, [latex_text(name) for name in grid.header])

    def section(found: Section) -> str:
        notes = [LEGENDS["latex"]] * found.marked + [latex_text(note) for note in found.notes]
        lines = _latex_table(latex_text(found.title), tabular(found.scores), notes)
        for grid in found.runs:
            lines += ["", *_latex_table(latex_text(f"{found.title}: {grid.caption}"), tabular(grid), [])]
        return "\n".join(lines)

    return "% needs \\usepackage{booktabs}\n" + _join(comparisons, section)


def booktabs(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """A tabular of LaTeX text, its first column left and the others right."""
    begin = f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n\\toprule"
    line = DataRow("", "&", r"\\")
    style = TableFormat(
        lineabove=Line(begin, "", "", ""), linebetweenrows=None, headerrow=line, datarow=line, padding=1,
        with_header_hide=None, **_BOOKTABS,
    )  # fmt: skip
    return tabulate(rows, header, tablefmt=style, disable_numparse=True)


def _latex_table(caption: str, tabular: str, notes: Sequence[str]) -> list[str]:
    below = ["\\par\\raggedright\\footnotesize", *(f"{note}\\par" for note in notes)] if notes else []
    return ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}", tabular, *below, "\\end{table}"]


def _grid(grid: Grid, cell: Callable[[Entry], str], text: Callable[[str], str], style: str) -> str:
    rows = [[cell(entry) for entry in row] for row in grid.rows]
    return tabulate(rows, [text(name) for name in grid.header], tablefmt=style, disable_numparse=True)


def _join(comparisons: Sequence[Comparison], section: Callable[[Section], str]) -> str:
    return "\n\n".join(section(found) for comparison in comparisons for found in lay_out(comparison)) + "\n"
