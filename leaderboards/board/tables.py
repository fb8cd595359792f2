"""A board's table for programs and people: JSON, CSV, Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.grid import Grid, Number, Section, Value, csv_text, json_text, markdown_section, markdown_text
from harness.submissions import BoardEntry
from leaderboards.board.standings import Standings

SCHEMA = 1
MOST_ROWS = 500  # of a Markdown table; CSV and JSON have them all
FIELDS = (
    "suite", "rank", "rank_worst", "model", "strategy", "seed", "parameters", "column", "score", "stderr", "lower",
    "upper", "n", "status", "submission_id", "created", "licence", "contact",
)  # fmt: skip


def as_json(standings: Standings, entries: Sequence[BoardEntry]) -> str:
    """Every entry in full, and what could not be shown."""
    board = standings.board.board
    document = {
        "schema_version": SCHEMA,
        "name": board.name,
        "title": board.title,
        "suites": [suite.key for suite in board.suites],
        "entries": [entry.model_dump(mode="json", exclude={"submission": {"files"}}) for entry in entries],
        "refused": standings.refused,
    }
    return json_text(document, indent=None)


def as_csv(standings: Standings, entries: Sequence[BoardEntry]) -> str:
    """One line per score; spreadsheets see text, never a formula."""
    lines: list[dict[str, Value]] = []
    for entry in entries:
        submission = entry.submission
        known: dict[str, Value] = {
            "model": submission.model, "strategy": submission.strategy, "seed": submission.seed,
            "parameters": submission.parameters, "status": entry.status, "submission_id": submission.submission_id,
            "created": submission.created, "licence": submission.licence, "contact": submission.contact,
        }  # fmt: skip
        for suite, columns in entry.scores.items():
            for column, score in columns.items():
                lines.append(known | {
                    "suite": suite, "column": column, "score": score.value, "stderr": score.stderr,
                    "lower": score.lower, "upper": score.upper, "n": score.n, "rank": score.rank,
                    "rank_worst": score.rank_worst,
                })  # fmt: skip
        if not entry.scores:
            lines.append(known)
    return csv_text(FIELDS, lines)


def as_markdown(standings: Standings) -> str:
    """A table per suite version, best first; equal first ranks cannot be told apart from the best."""
    parts = [f"# {markdown_text(standings.board.board.title)}"]
    for standing in reversed(standings.suites):
        suite = standing.suite
        titles = [suite.columns[name].title or name for name in standing.columns]
        rows = []
        for at in standing.order()[:MOST_ROWS]:
            submission = standings.submission(standing.rows[at])
            main = standing.columns[suite.main]
            best, worst = int(main.best[at]), int(main.worst[at])
            row = [f"{best}" if best == worst else f"{best}–{worst}", submission.model, submission.strategy or "–"]
            row += [str(Number(100 * r.values[at], 100 * r.half[at], 1)) for r in standing.columns.values()]
            rows.append(row)
        if not rows:
            parts.append(f"## {markdown_text(suite.key)}\n\nNo submission yet.")
            continue
        cut = f"The first {MOST_ROWS} of {len(standing.rows):,}; board.csv has them all."
        notes = [cut] if len(standing.rows) > MOST_ROWS else []
        section = Section(suite.key, Grid(["rank", "model", "strategy", *titles], rows), notes)
        parts.append(markdown_section(section).removeprefix("#").strip())
    parts.append(
        "Scores in % ± half the 95 % interval over questions. A rank a–b: a − 1 submissions are significantly better,"
        " and all beyond b significantly worse (paired by question, 5 %, after Holm's correction over all pairs)."
    )
    return "\n\n".join(parts) + "\n"
