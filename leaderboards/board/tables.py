"""Write a board's table for programs and for people: JSON, CSV, Markdown and a feed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree

from pydantic_core import to_json

from harness.grid import Grid, Number, Value, csv_text, markdown_table, markdown_text
from leaderboards.board.standings import UNCONFIRMED, Standing, Standings, rank_text
from leaderboards.board.submissions import BoardEntry

SCHEMA = 1
FEED = 50  # entries
MAX_ROWS = 500  # of a Markdown table; CSV and JSON hold all
FIELDS = (
    "suite", "rank", "rank_worst", "model", "strategy", "seed", "parameters", "column", "score", "stderr", "lower",
    "upper", "n", "as_recorded", "status", "submission_id", "created", "arrived", "owner", "licence", "contact",
)  # fmt: skip
_LEGEND = (
    "Scores are in % ± half the 95 % interval over questions. A rank a–b says that a − 1 submissions are significantly"
    " better, and all beyond b significantly worse (paired by question, at 5 % after correction for all pairs in all"
    " columns). A † marks a score that is partly as submitted: its programs were not run again."
)


def as_json(standings: Standings, entries: Sequence[BoardEntry]) -> str:
    """Return every entry in full, and the submissions that are left out with the reason."""
    board = standings.board.board
    document = {
        "schema_version": SCHEMA,
        "name": board.name,
        "title": board.title,
        "suites": [suite.key for suite in board.suites],
        "entries": entries,
        "refused": standings.refused,
    }
    # pydantic's own serializer: ten thousand entries take seconds as dictionaries
    encoded = to_json(document, exclude={"entries": {"__all__": {"submission": {"files"}}}}, inf_nan_mode="null")
    return f"{encoded.decode()}\n"


def as_csv(entries: Sequence[BoardEntry]) -> str:
    """Return one line for each score, and one for each submission without scores."""
    return csv_text(FIELDS, (line for entry in entries for line in _csv_lines(entry)))


def _csv_lines(entry: BoardEntry) -> Iterator[dict[str, Value]]:
    names = ("model", "strategy", "seed", "parameters", "submission_id", "created", "owner", "licence", "contact")
    known: dict[str, Value] = {name: getattr(entry.submission, name) for name in names}
    known |= {"status": entry.status, "arrived": entry.arrived}
    scores = [(suite, name, score) for suite, columns in entry.scores.items() for name, score in columns.items()]
    for suite, name, score in scores:
        fields: dict[str, Value] = dict(score)
        yield known | {"suite": suite, "column": name, "score": fields.pop("value"), **fields}
    if not scores:
        yield known


def as_feed(standings: Standings, entries: Sequence[BoardEntry]) -> str:
    """Return an Atom feed of the newest submissions; a withdrawn or superseded one says so."""
    board = standings.board.board
    newest = sorted(entries, key=lambda entry: _instant(entry.arrived), reverse=True)[:FEED]
    feed = ElementTree.Element("feed", xmlns="http://www.w3.org/2005/Atom")
    _add(feed, id=f"urn:moemix:{board.name}", title=board.title,
         updated=_instant(newest[0].arrived) if newest else "2020-01-01T00:00:00+00:00")  # fmt: skip
    for entry in newest:
        one, item = entry.submission, ElementTree.SubElement(feed, "entry")
        title = ", ".join(filter(None, (one.model, one.strategy, f"seed {one.seed}" if one.seed is not None else "")))
        _add(item, id=f"urn:moemix:{board.name}:{one.submission_id}", title=title, updated=_instant(entry.arrived),
             summary=f"{entry.status} {entry.note}".strip())  # fmt: skip
        _add(ElementTree.SubElement(item, "author"), name=one.owner or one.contact)
        ElementTree.SubElement(item, "link", href=f"index.html#s/{one.submission_id}")
    return ElementTree.tostring(feed, encoding="unicode", xml_declaration=True) + "\n"


def _add(parent: ElementTree.Element, **texts: str) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = text


def _instant(text: str) -> str:
    """Return a time in UTC, as Atom wants it, and so that texts sort as times."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def as_markdown(standings: Standings) -> str:
    """Return a table for each suite version, the best submission first."""
    tables = [_markdown_table(standings, standing) for standing in reversed(standings.suites)]
    return "\n\n".join([f"# {markdown_text(standings.board.board.title)}", *tables, _LEGEND]) + "\n"


def _markdown_table(standings: Standings, standing: Standing) -> str:
    heading = f"## {markdown_text(standing.suite.key)}\n\n"
    if not standing.rows:
        return f"{heading}No submission yet."
    rows = []
    halves = [column.half for column in standing.columns.values()]
    recorded = [set(standing.as_recorded(name)) for name in standing.columns]
    for at in standing.order()[:MAX_ROWS]:
        submission = standings.submission(standing.rows[at])
        row = [rank_text(standing.columns[standing.suite.main], at), submission.model, submission.strategy or "–"]
        row += [str(Number(100 * c.values[at], 100 * half[at], 1)) + (UNCONFIRMED if at in held else "")
                for c, half, held in zip(standing.columns.values(), halves, recorded, strict=True)]  # fmt: skip
        rows.append(row)
    table = markdown_table(Grid(["rank", "model", "strategy", *map(standing.title, standing.columns)], rows))
    if len(standing.rows) > MAX_ROWS:
        table += f"\n\nThese are the first {MAX_ROWS} of {len(standing.rows):,}; board.csv has them all."
    return heading + table
