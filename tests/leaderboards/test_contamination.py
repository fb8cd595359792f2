"""What a table says of training data: the questions of a column that stand in it, and what became of its rows."""

from __future__ import annotations

import json

from run_records import PROVENANCE, SOURCES  # type: ignore[import-not-found]

from harness.records import Contamination, FoundQuestions, RowCounts
from harness.store import Store
from leaderboards.comparison import compare
from leaderboards.exports import as_json, render


def record(bench, exact, near, task="arc", suite="5" * 64, source=SOURCES[0]):
    """What `data check` leaves in the store about a source of the bench's runs."""
    fingerprint = bench.runs[0].manifest.config.fingerprints[source]
    found = FoundQuestions(questions=40, exact=exact, near=near, rows=len(exact) + len(near), examples=())
    Contamination(
        suite="kr",
        suite_hash=suite,
        source=source,
        fingerprint=fingerprint,
        rows=1000,
        method="m",
        tasks={task: found, "boolq": FoundQuestions(questions=40, exact=(), near=(), rows=0, examples=())},
        seconds=1.0,
        provenance=PROVENANCE,
    ).write(Store(bench.root).contamination_path(suite, fingerprint))


def test_the_columns_it_concerns_get_a_footnote(bench, answers):
    for number, label in enumerate(("uniform", "dynamic")):
        bench.run(label, {"arc": answers(number, 40, 0.5), "boolq": answers(9 + number, 40, 0.5)})
    record(bench, exact=(3, 5), near=(7, 39, 400))  # question 400 was not asked
    comparison = compare(bench.runs, bench.folders, "uniform")
    text = render([comparison], "markdown")
    header = next(line for line in text.splitlines() if line.startswith("| strategy"))
    assert r"arc \[1\]" in header
    assert r"boolq \[" not in header
    assert "4 of 40 in chat for arc (2 word by word, 2 reworded)" in text
    (table,) = json.loads(as_json([comparison]))["comparisons"][0]["tables"]
    assert [bool(column["note"]) for column in table["columns"]] == [True, False, True]  # the average has arc in it


def test_nothing_is_said_where_nothing_was_found_or_another_suite_was_compared(bench, answers):
    bench.run("uniform", {"arc": answers(1, 40, 0.5)})
    record(bench, exact=(), near=(400,))
    record(bench, exact=(1,), near=(), suite="6" * 64)
    assert "training data" not in render([compare(bench.runs, bench.folders, "uniform")], "markdown")


def test_the_rows_that_were_read_left_out_and_cut_are_stated_once(bench, answers):
    counts = RowCounts(read=1200, examples=1190, left_out={"no assistant turn": 9, "empty text": 1}, truncated=45)
    for label in ("uniform", "dynamic"):
        bench.run(label, {"arc": answers(1, 40, 0.5)})
    for run in bench.runs:
        run.update(result=run.manifest.result.model_copy(update={"rows": {"chat": counts}}))
    text = render([compare(bench.runs, bench.folders, "uniform")], "markdown")
    assert text.count("Rows of the training data: chat 1,200 read, 1,190 used, 10 left out, 45 cut.") == 1
