"""Build a board's site, a folder of files that any web server, or a browser alone, shows; and serve it locally.

``index.html``, ``site.js``, ``style.css``   written by hand (``leaderboards/site``); the page holds the first rows
``data/*.js``                                loaded by the page: the table first, a submission when it is opened
``records/<id>.json``                        each submission as it is shown, for download
``board.json``, ``board.csv``, ``board.md``  the whole table for programs and for people
``schema.json``, ``feed.xml``                the JSON schema of an entry; the newest submissions as an Atom feed

The pages load nothing from elsewhere and run nothing but ``site.js``; their content security policy forbids it.
Whatever a submission says is shown as text.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from harness.errors import MoemixError
from harness.grid import Number
from harness.statistics.estimates import Floats
from leaderboards.board.pages import Data, submission_data, table_data, task_data
from leaderboards.board.pairs import has_pair_pages, pair_data
from leaderboards.board.reading import conversation_data, conversation_rows, has_sample_pages, sample_data
from leaderboards.board.standings import UNCONFIRMED, Standing, Standings, day, rank_text
from leaderboards.board.submissions import BoardEntry
from leaderboards.board.tables import as_csv, as_feed, as_json, as_markdown

MARKER = ".moemix-site"  # a folder with this file may be replaced by a newer site
FIRST_ROWS = 50
_ASSETS = ("site.js", "style.css")


def build_site(boards: Mapping[str, Standings], out: Path) -> None:
    """Write the site of one board, or of several boards under their names. An older site is replaced as a whole.

    Raises:
        MoemixError: ``out`` holds something other than a site.
    """
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise MoemixError("the folder holds files that are not a board's site", where=str(out),
                          hint="choose another --out, or empty the folder")  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        if len(boards) == 1:
            _write_board(next(iter(boards.values())), scratch)
        else:
            for name, standings in boards.items():
                _write_board(standings, scratch / name)
            _write(scratch / "index.html", _overview(boards))
            _copy_assets(scratch)
        _write(scratch / MARKER, "made by `moemix board build`\n")
        if out.exists():
            shutil.rmtree(out)
        os.replace(scratch, out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _write_board(standings: Standings, out: Path) -> None:
    for folder in ("s", "t", "p", "a", "j"):
        (out / "data" / folder).mkdir(parents=True)
    (out / "records").mkdir()
    _copy_assets(out)
    _write(out / "index.html", _index_page(standings))
    _write_data(out, "board", table_data(standings))
    positions: list[dict[str, int]] = [{} for _ in standings.checked]  # of each submission in the suites' rankings
    for number, standing in enumerate(standings.suites):
        for at, row in enumerate(standing.rows):
            positions[row][standing.suite.key] = at
        for name, data in task_data(standing):
            _write_data(out, f"t/{number}-{name}", data)
        if has_sample_pages(standing):
            for name, data in sample_data(standings, standing):
                _write_data(out, f"a/{number}-{name}", data)
        if has_pair_pages(standing):
            for at, data in enumerate(pair_data(standings, standing)):
                _write_data(out, f"p/{number}-{at}", data)
    entries = standings.entries()
    readable = {row for rows in conversation_rows(standings).values() for row in rows}
    for row, entry in enumerate(entries):
        name, record = entry.submission.submission_id, entry.model_dump_json()
        pages = {}
        for bench, conversations in conversation_data(standings, row) if row in readable else ():
            pages[bench] = len(conversations)
            for number, data in enumerate(conversations):
                _write_data(out, f"j/{name}-{bench}-{number}", data)
        _write(out / "records" / f"{name}.json", entry.model_dump_json(indent=1) + "\n")
        _write_data(out, f"s/{name}", submission_data(standings, row, entry, positions[row], pages), record=record)
    _write(out / "board.json", as_json(standings, entries))
    _write(out / "board.csv", as_csv(entries))
    _write(out / "board.md", as_markdown(standings))
    _write(out / "schema.json", json.dumps(BoardEntry.model_json_schema(), indent=1) + "\n")
    _write(out / "feed.xml", as_feed(standings, entries))


def _write_data(out: Path, name: str, data: Data, **encoded: str) -> None:
    """Write a data file: a call of ``moemix.take`` with one JSON object, of which some parts are already encoded.

    No character in it can end a script.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    parts = [f"{json.dumps(key)}:{part}" for key, part in encoded.items()]
    text = f"{{{','.join([*parts, text[1:-1]])}}}".replace("<", "\\u003c")
    _write(out / "data" / f"{name}.js", f"moemix.take({json.dumps(name)},{text})\n")


def _index_page(standings: Standings) -> str:
    """Return the page with the first rows of the newest suite that has some, which are readable without scripts."""
    board = standings.board.board
    header, rows = "", ""
    standing = next((s for s in reversed(standings.suites) if s.rows), None)
    if standing is not None:
        titles = ("", "Rank", "Model", "Strategy", "Size", *map(standing.title, standing.columns), "Licence", "Date")
        header = "".join(f"<th>{escape(title)}</th>" for title in titles)
        scores = [(column.values, column.half, standing.as_recorded(name)) for name, column in standing.columns.items()]
        rows = "".join(_index_row(standings, standing, at, scores) for at in standing.order()[:FIRST_ROWS])
    template = _asset("index.html")
    fields = {"title": escape(board.title), "description": escape(board.description), "header": header, "rows": rows}
    for name, value in fields.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


def _index_row(
    standings: Standings, standing: Standing, at: int, scores: Sequence[tuple[Floats, Floats, Sequence[int]]]
) -> str:
    submission = standings.submission(standing.rows[at])
    cells = [
        "",
        rank_text(standing.columns[standing.suite.main], at),
        f'<a href="#s/{submission.submission_id}">{escape(submission.model)}</a>'
        + ("" if submission.seed is None else f" <small>seed {submission.seed}</small>"),
        escape(submission.strategy or "–"),
        _size(submission.parameters)
        + (f" <small>({_size(submission.active_parameters)} active)</small>" if submission.active_parameters else ""),
        *(_score(float(v[at]), float(half[at])) + (UNCONFIRMED if at in held else "") for v, half, held in scores),
        escape(submission.licence),
        day(standings.checked[standing.rows[at]]),
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _score(value: float, half: float) -> str:
    score, error = Number(100 * value, decimals=1), Number(100 * half, decimals=1)
    return f"{score} <small>± {error}</small>" if math.isfinite(half) else str(score)


def _size(parameters: int | None) -> str:
    """Return a number of parameters as ``site.js`` writes it."""
    if not parameters:
        return "–"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= limit:
            return f"{parameters / limit:.3g}{unit}"
    return str(parameters)


def _overview(boards: Mapping[str, Standings]) -> str:
    links = "".join(
        f'<li><a href="{escape(name)}/index.html">{escape(standings.board.board.title)}</a> '
        f"{sum(status == 'current' for status, _ in standings.status)} submissions</li>"
        for name, standings in boards.items()
    )
    return _asset("boards.html").replace("{{boards}}", links)


def _asset(name: str) -> str:
    return resources.files("leaderboards").joinpath("site", name).read_text(encoding="utf-8")


def _copy_assets(out: Path) -> None:
    for name in _ASSETS:
        _write(out / name, _asset(name))


def _write(path: Path, text: str) -> None:
    """Write a file without fsync: a site can be built again, and is renamed into place as a whole."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)
