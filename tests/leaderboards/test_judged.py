"""A judging is a column beside the suite's: its own error bars, pairing over failures, flags as footnotes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_records import PROVENANCE, Bench  # type: ignore[import-not-found]

from harness.errors import MoemixError
from harness.judging import JudgeRequest, JudgeSpec, JudgeSummary, JudgeTest, Score
from leaderboards.cli import write_report
from leaderboards.exports import render
from leaderboards.figures import draw_judged, judged_panels
from leaderboards.layout import lay_out
from leaderboards.selection import from_folders

QUESTIONS = 12


def write_judging(
    run,
    values,
    *,
    protocol="strict",
    notes=(),
    title="MT-Bench",
    judge="gpt-x",
    bench="mt_bench",
    checkpoint="c" * 64,
    qualified=None,
) -> Path:
    """A judging's folder: two turns of every question; None for a turn whose judgment failed."""
    folder = run.folder / "judge" / bench
    folder.mkdir(parents=True)
    lines = [
        {"model": "m", "question_id": 81 + i // 2, "turn": 1 + i % 2, "category": "writing", "score": value}
        for i, value in enumerate(values)
    ]
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = [value for value in values if value is not None]
    score = Score(value=sum(known) / len(known), stderr=0.5, n=len(known))
    JudgeSummary(
        average=score, first_turn=score, second_turn=score, by_category={"writing": score}, judged=len(known),
        failed={}, requests=len(values), scale=(1, 10), model="m", title=title, notes=notes,
        request=JudgeRequest(bench=bench, bench_hash="b", answers={"m": run.folder.name}, protocol=protocol,
                             protocol_hash="p", judges=(JudgeSpec(name=judge, url="http://x/v1"),)),
        checkpoint_hash=checkpoint, seconds=1.0, provenance=PROVENANCE,
        tested={} if qualified is None else {judge: JudgeTest(
            scores=qualified, pairs=False, auc=Score(value=0.93, stderr=None, lower=0.9, upper=0.96, n=96))},
    ).write(folder / "summary.json")  # fmt: skip
    return folder


@pytest.fixture
def two(bench: Bench, answers):
    uniform = bench.run("uniform", {"arc": answers(1, 40, 0.5)})
    dynamic = bench.run("dynamic", {"arc": answers(2, 40, 0.6)})
    return bench, uniform, dynamic


def compared(bench: Bench):
    (comparison,) = from_folders([run.folder for run in bench.runs], "uniform").compare()
    return comparison


def test_scores_stand_beside_the_suites_and_are_paired_by_question(two):
    bench, uniform, dynamic = two
    write_judging(uniform, [4.0, 6.0] * QUESTIONS)
    write_judging(dynamic, [5.0, 7.0] * (QUESTIONS - 1) + [5.0, 9.0])
    comparison = compared(bench)
    text = render([comparison], "markdown")
    assert "MT-Bench (gpt-x)" in text
    cells = {row.label: row.cells["judge:mt_bench"] for row in comparison.tables[0].rows}
    assert cells["uniform"].score.value == 5.0
    assert cells["dynamic"].n == 2 * QUESTIONS
    assert cells["dynamic"].difference.value == pytest.approx(1 + 2 / 24)
    assert cells["dynamic"].score.clusters == QUESTIONS  # two turns of a question are one cluster
    assert not next(c for c in comparison.tables[0].columns if c.name == "judge:mt_bench").fraction


@pytest.mark.parametrize(
    ("qualified", "says", "verdict"),
    [(True, "AUC 0.93 (0.90 to 0.96), qualified for scores.", True),
     (False, "NOT qualified for scores. No verdicts on its differences.", False),
     (None, "gpt-x was not tested on known answers", False)],
)  # fmt: skip
def test_only_a_qualified_judge_gives_verdicts(bench, answers, qualified, says, verdict):
    for seed in range(3):
        for strategy, value in (("uniform", 4.0), ("dynamic", 7.0)):
            run = bench.run(strategy, {"arc": answers(seed, 40, 0.5)}, seed=seed)
            scores = [value + 0.1 * ((i + seed) % 3) for i in range(2 * QUESTIONS)]
            write_judging(run, scores, qualified=qualified)
    comparison = compared(bench)
    (section,) = lay_out(comparison)
    assert any(says in note for note in section.notes)
    (cell,) = (row.cells["judge:mt_bench"] for row in comparison.tables[0].rows if row.label == "dynamic")
    assert cell.difference.value == pytest.approx(3.0)
    assert cell.significant == verdict
    assert (cell.ranks is not None) == verdict
    assert any("No verdicts: they need" in note for note in section.notes) is False


def test_turns_without_a_verdict_are_left_out_of_a_pair_on_both_sides(two):
    bench, uniform, dynamic = two
    write_judging(uniform, [None, 6.0, *[4.0, 6.0] * (QUESTIONS - 1)])
    write_judging(dynamic, [1.0, 7.0, *[5.0, 7.0] * (QUESTIONS - 2), 5.0, None])
    cells = {row.label: row.cells["judge:mt_bench"] for row in compared(bench).tables[0].rows}
    assert cells["uniform"].n == cells["dynamic"].n == 2 * QUESTIONS - 1
    assert cells["dynamic"].difference.value == pytest.approx(1.0)


def test_flags_and_failures_are_footnotes_of_the_row(two):
    bench, uniform, dynamic = two
    write_judging(uniform, [4.0, 6.0] * QUESTIONS)
    write_judging(dynamic, [10.0, 9.0] * QUESTIONS, notes=("flagged constant_answer: 12 questions (81, …)",))
    (section,) = lay_out(compared(bench))
    assert any("MT-Bench: flagged constant_answer" in note for note in section.notes)
    labels = [row[0].text for row in section.grid.cells]
    assert any(label.startswith("dynamic [") for label in labels)
    assert "uniform" in labels


def test_the_reference_grader_is_never_called_mt_bench(two):
    bench, uniform, dynamic = two
    for run in (uniform, dynamic):
        write_judging(run, [1.0, 0.0] * QUESTIONS, protocol="reference", title="Reference grader (quickstart)",
                      judge="reference grader", bench="quickstart")  # fmt: skip
    text = render([compared(bench)], "markdown")
    assert "Reference grader (quickstart)" in text
    assert "MT-Bench" not in text


def test_answers_under_another_judge_are_not_compared(two):
    bench, uniform, dynamic = two
    write_judging(uniform, [4.0, 6.0] * QUESTIONS)
    write_judging(dynamic, [5.0, 7.0] * QUESTIONS, judge="another")
    (section,) = lay_out(compared(bench))
    assert any("NOT COMPARED" in note for note in section.notes)


def test_a_judging_of_another_checkpoint_or_with_other_scores_is_no_column(two):
    bench, uniform, dynamic = two
    write_judging(uniform, [4.0, 6.0] * QUESTIONS, checkpoint="d" * 64)
    (section,) = lay_out(compared(bench))
    assert "MT-Bench" not in " ".join(section.grid.header)
    assert any("another checkpoint" in note for note in section.notes)
    folder = write_judging(dynamic, [5.0, 7.0] * QUESTIONS)
    (folder / "scores.jsonl").write_text((folder / "scores.jsonl").read_text().replace("5.0", "9.0"))
    with pytest.raises(MoemixError, match="by the scores"):
        compared(bench)


def test_a_picture_shows_each_category_and_turn_with_error_bars(two, tmp_path):
    bench, uniform, dynamic = two
    write_judging(uniform, [4.0, 6.0] * (QUESTIONS - 1) + [5.0, None])
    write_judging(dynamic, [5.0, 7.0, 7.0, 7.0] * (QUESTIONS // 2))
    comparison = compared(bench)
    ((title, panels),) = judged_panels(comparison).values()
    assert title == "MT-Bench, judged by gpt-x"
    assert [panel.title for panel in panels] == ["first turn", "second turn"]
    first, second = ({(point.series, point.x): point for point in panel.points} for panel in panels)
    assert set(first) == {("uniform", "writing"), ("dynamic", "writing")}
    assert first["dynamic", "writing"].y == 6.0
    assert second["dynamic", "writing"].y == 7.0
    assert second["uniform", "writing"].y == 6.0
    assert first["dynamic", "writing"].stderr == pytest.approx((12 / 11) ** 0.5 / 12**0.5)
    written = {path.name for path in write_report([comparison], tmp_path / "report")}
    assert "judge-mt_bench.png" in written
    draw_judged(title, panels, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "report" / "judge-mt_bench.png").read_bytes()
