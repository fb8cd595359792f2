"""A board's table for programs and people: JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from harness.submissions import BoardEntry
from leaderboards.board.standings import Standings, ordered
from leaderboards.exports import csv_value
from leaderboards.rendering import markdown_text

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
    return json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(standings: Standings, entries: Sequence[BoardEntry]) -> str:
    """One line per score; spreadsheets see text, never a formula."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        submission = entry.submission
        known = {"model": submission.model, "strategy": submission.strategy, "seed": submission.seed,
                 "parameters": submission.parameters, "status": entry.status, "submission_id": submission.submission_id,
                 "created": submission.created, "licence": submission.licence,
                 "contact": submission.contact}  # fmt: skip
        for suite, columns in entry.scores.items():
            for column, score in columns.items():
                line = {"suite": suite, "column": column, "score": score.value, "stderr": score.stderr,
                        "lower": score.lower, "upper": score.upper, "n": score.n, "rank": score.rank,
                        "rank_worst": score.rank_worst}  # fmt: skip
                writer.writerow({key: csv_value(value) for key, value in (known | line).items()})
        if not entry.scores:
            writer.writerow({key: csv_value(value) for key, value in known.items()})
    return out.getvalue()


def as_markdown(standings: Standings) -> str:
    """A table per suite version, best first; equal first ranks cannot be told apart from the best."""
    parts = [f"# {markdown_text(standings.board.board.title)}"]
    for standing in reversed(standings.suites):
        suite = standing.suite
        titles = [suite.columns[name].title or name for name in standing.columns]
        header = ["rank", "model", "strategy", *titles]
        lines = [f"## {markdown_text(suite.key)}", "", _line(header), _line(["---"] * len(header))]
        for at in ordered(standing)[:MOST_ROWS]:
            submission = standings.submission(standing.rows[at])
            main = standing.columns[suite.main]
            best, worst = int(main.best[at]), int(main.worst[at])
            cells = [f"{best}" if best == worst else f"{best}–{worst}", submission.model, submission.strategy or "–"]
            cells += [f"{100 * r.values[at]:.1f} ± {100 * r.half[at]:.1f}" for r in standing.columns.values()]
            lines.append(_line(cells))
        if len(standing.rows) > MOST_ROWS:
            lines.append(f"\nThe first {MOST_ROWS} of {len(standing.rows):,}; board.csv has them all.")
        if not standing.rows:
            lines = [lines[0], "", "No submission yet."]
        parts.append("\n".join(lines))
    parts.append(
        "Scores in % ± half the 95 % interval over questions. A rank a–b: a − 1 submissions are significantly better,"
        " and all beyond b significantly worse (paired by question, 5 %, after Holm's correction over all pairs)."
    )
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(markdown_text(cell) if cell != '---' else cell for cell in cells)} |"
