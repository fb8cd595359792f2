"""Footnotes of columns whose test questions stand in the training data of the compared runs."""

from __future__ import annotations

from pathlib import Path

from harness.records import Contamination
from harness.store import Store
from leaderboards.table import Heading, Row, Table


def footnote(table: Table, heading: Heading) -> str:
    """Return what ``moemix data check`` found about a column's questions; empty for a clean column."""
    found: dict[str, None] = {}
    for row in table.rows:
        questions = _questions(row, heading)
        for record in _records(row):
            for task, ids in questions.items():
                hits = record.tasks.get(task)
                exact = len(ids.intersection(hits.exact)) if hits else 0
                near = len(ids.intersection(hits.near)) if hits else 0
                if exact or near:
                    words = f"{exact} word by word, {near} reworded"
                    found[f"{exact + near} of {len(ids):,} in {record.source} for {task} ({words})"] = None
    return f"Test questions stand in the training data: {'; '.join(found)}." if found else ""


def _questions(row: Row, heading: Heading) -> dict[str, set[int]]:
    """Return task → the questions that a row's score is computed from."""
    scored = row.scored(heading.name).values()
    return {key.task: {doc for doc, _ in scores.questions} for found in scored for key, scores in found.items()}


def _records(row: Row) -> list[Contamination]:
    """Read what is known of the sources of a row's runs and the suite on which they were evaluated."""
    paths: dict[Path, None] = {}
    for member in row.members:
        if member.manifest is None or member.evaluation is None:
            continue
        store, suite = Store(member.run.store), member.evaluation.summary.request.suite_hash
        for fingerprint in member.config.fingerprints.values():
            paths[store.contamination_path(suite, fingerprint)] = None
    return [Contamination.read(path) for path in paths if path.is_file()]
