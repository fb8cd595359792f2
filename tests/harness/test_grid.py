"""One grid, six formats: the same cells in each, and no text taken for markup, a formula or a control sequence."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.grid import (
    Cell,
    Grid,
    Number,
    Section,
    csv_text,
    html_table,
    json_text,
    latex_table,
    markdown_table,
    plain,
    terminal_table,
    write,
)

GRID = Grid(
    ["strategy", "Avg"],
    [
        ["uniform", Cell(Number(42.5, 4.7, 1), mark="tied")],
        ["dynamic", Cell(Number(65.0, math.nan, 1), note=" [1]", below="(+22.5 ± 6.9*)", mark="best")],
        ["questions", 1400],
    ],
)
SECTION = Section("kr · tiny", GRID, ["[1] a note"], {"best": "the best", "tied": "tied"}, [Grid(["a"], [["b"]], "c")])


class Cells(HTMLParser):
    """The texts of a page's table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(12.345), "12.35"),
        (Number(-12.345, 1.0, 1), "−12.3 ± 1.0"),
        (Number(-0.04, decimals=1), "0.0"),
        (Number(0.5, 0.25, 2, signed=True), "+0.50 ± 0.25"),
        (Number(1.0, math.nan, 1), "1.0 ± ?"),
        (Number(math.nan, 1.0), "—"),
        (Number(7.0, decimals=0), "7"),
    ],
)
def test_a_number_is_written_with_its_error(number, text):
    assert str(number) == text


def test_a_terminal_shows_marks_and_second_lines_and_no_markup():
    text = write([SECTION], "terminal")
    assert "65.0 ± ? [1] ◆" in text
    assert "42.5 ± 4.7 ◇" in text
    assert "(+22.5 ± 6.9*)" in text
    assert "1,400" in text
    assert "◆ the best; ◇ tied." in text
    assert not re.search(r"<br>|&\w+;|\*\*", text)


def test_every_format_for_reading_has_every_cell():
    assert "**65.0 ± ? \\[1\\]**<br>(+22.5 ± 6.9\\*)" in markdown_table(GRID)
    assert r"\textbf{65.0 $\pm$ ? {[}1{]}}" in latex_table(GRID)
    assert r"{\footnotesize (+22.5 $\pm$ 6.9{*})}" in latex_table(GRID)
    cells = Cells()
    cells.feed(html_table(GRID))
    assert cells.rows[0] == ["strategy", "Avg"]
    assert cells.rows[2] == ["dynamic", "65.0 ± ? [1](+22.5 ± 6.9*)"]


def test_a_legend_stands_only_where_something_is_marked():
    bare = Section("t", Grid(["a"], [["b"]]), legend=SECTION.legend)
    for style in ("terminal", "markdown", "latex", "html"):
        assert "the best" in write([SECTION], style)
        assert "the best" not in write([bare], style)


def test_columns_are_aligned_as_the_grid_says():
    grid = Grid(["#", "job"], [["1", "a"], ["10", "b"]], align="rl")
    assert terminal_table(grid).splitlines()[2] == "  1  a"
    assert "{rl}" in latex_table(grid)
    assert '<td class="r">1</td>' in html_table(grid)


def test_a_grid_without_rows_is_its_header():
    assert terminal_table(Grid(["state", "job"], [])) == "state  job"


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), min_size=1, max_size=3))
def test_any_text_survives_html_and_breaks_no_table(rows):
    cells = Cells()
    cells.feed(html_table(Grid(["a", "b"], rows)))
    assert cells.rows[1:] == [[plain(text) for text in row] for row in rows]
    lines = re.sub(r"\\.", "", markdown_table(Grid(["a", "b"], rows))).splitlines()
    assert {line.count("|") for line in lines} == {3}


def test_csv_has_numbers_in_full_and_no_formula():
    records = [
        {"name": "=1+1", "value": 0.1 + 0.2, "known": True},
        {"name": " -x", "value": math.nan, "known": None},
        {"name": "-1", "value": -1.5},
    ]
    rows = list(csv.reader(io.StringIO(csv_text(["name", "value", "known"], records))))
    assert rows[1:] == [["'=1+1", "0.30000000000000004", "True"], ["' -x", "", ""], ["'-1", "-1.5", ""]]
    with pytest.raises(ValueError, match="unknown"):
        csv_text(["name"], [{"unknown": 1}])


def test_json_has_null_for_what_json_cannot_say():
    assert json.loads(json_text({"a": [math.nan, math.inf, 1.5], "b": ("ä", None)})) == {
        "a": [None, None, 1.5],
        "b": ["ä", None],
    }
