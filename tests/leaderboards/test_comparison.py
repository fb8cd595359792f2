"""What a table says about runs: differences, marks, and the reason for everything that is missing."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from run_records import ENGINE, config_of  # type: ignore[import-not-found]
from scipy import stats

from harness.errors import MoemixError
from harness.recipe import Comparisons
from harness.records import Stage
from harness.statistics.estimates import p_value
from harness.store import Run
from leaderboards.comparison import compare
from leaderboards.differences import difference
from leaderboards.table import Row, Table


def table_of(bench, baseline: str = "uniform", *, checkpoints: bool = False, **declared) -> Table:
    (table,) = compare(
        bench.runs, bench.folders, baseline, declared=Comparisons(**declared), checkpoints=checkpoints
    ).tables
    return table


def row(table: Table, label: str) -> Row:
    return next(row for row in table.rows if row.label == label)


def test_a_difference_is_paired_by_question(bench, answers):
    base, other = answers(1, 80, 0.4), answers(2, 80, 0.6)
    bench.run("uniform", {"arc": base})
    bench.run("dynamic", {"arc": other})
    table = table_of(bench)
    cell = row(table, "dynamic").cells["arc"]
    assert cell.score.value == pytest.approx(0.6)
    assert cell.n == 80
    assert cell.difference.value == pytest.approx(0.2)
    assert cell.difference.se == pytest.approx(stats.sem(np.array(other) - np.array(base)))
    assert cell.to_base.p == pytest.approx(stats.ttest_rel(other, base).pvalue)
    assert row(table, "uniform").cells["arc"].difference is None
    compared = table_of(bench, checkpoints=True)
    assert compared.columns[0].detectable > 2.7 * cell.difference.se
    assert row(compared, "dynamic").cells["arc"].to_base.p == cell.to_base.p


def test_checkpoints_are_corrected_over_every_pair_of_rows_in_every_column(bench, answers):
    for number, label in enumerate(("none", "uniform", "dynamic")):
        bench.run(label, {task: answers(10 * number + i, 60, 0.3 + 0.2 * number) for i, task in enumerate("ab")})
    table = table_of(bench, checkpoints=True)
    tests = [cell.to_base for r in table.rows for cell in r.cells.values() if cell.to_base]
    assert len(tests) == 2 * 3
    assert table.comparisons == {"pairs": 3 * 3}
    assert all(test.p < test.p_adjusted <= 9 * test.p for test in tests)


def test_the_best_and_those_that_cannot_be_told_apart_are_marked(bench, answers):
    good = answers(1, 200, 0.8)
    near = [*good[:-1], 1.0 - good[-1]]
    bench.run("uniform", {"arc": answers(3, 200, 0.2)})
    bench.run("dynamic", {"arc": good})
    bench.run("datasize", {"arc": near})
    table = table_of(bench, checkpoints=True)
    assert [sorted(group) for group in table.columns[0].groups] == [["datasize", "dynamic"], ["uniform"]]
    assert {r.label: r.cells["arc"].ranks for r in table.rows} == {
        "uniform": (3, 3),
        "dynamic": (1, 2),
        "datasize": (1, 2),
    }
    marks = {r.label: (r.cells["arc"].best, r.cells["arc"].tied) for r in table.rows}
    best, second = ("dynamic", "datasize") if sum(good) > sum(near) else ("datasize", "dynamic")
    assert marks == {"uniform": (False, False), best: (True, False), second: (False, True)}


def test_a_row_is_never_both_significantly_worse_than_the_best_and_tied_with_it(new_bench):
    generator = np.random.default_rng(1)
    seen = 0
    for number in range(20):
        bench = new_bench(str(number))
        for label, share in (("uniform", 0.4), ("dynamic", 0.65), ("datasize", 0.45), ("random", 0.5)):
            bench.run(label, {"arc": (generator.random(80) < share).astype(float).tolist()}, trained=False)
        cells = {r.label: r.cells["arc"] for r in table_of(bench).rows}
        for label, cell in cells.items():
            if cell.significant and (cell.best or cells["uniform"].best):
                seen += 1
                assert not cells["uniform"].tied
                assert not cells[label].tied
    assert seen >= 3


def test_rows_that_are_all_equal_are_all_best_and_differ_from_none(bench):
    for label in ("uniform", "dynamic", "datasize"):
        bench.run(label, {"arc": [1.0, 0.0, 1.0]})
    table = table_of(bench)
    assert all(r.cells["arc"].best for r in table.rows)
    assert row(table, "dynamic").cells["arc"].to_base.p == 1.0
    assert math.isnan(table.columns[0].detectable)


def test_the_order_of_the_runs_changes_no_number_and_no_mark(bench, answers):
    for number, label in enumerate(("none", "uniform", "datasize", "dynamic")):
        bench.run(label, {t: answers(7 * number + i, 40, 0.3 + 0.1 * number) for i, t in enumerate("abc")})
    first = {r.label: r.cells for r in table_of(bench).rows}
    for seed in range(5):
        random.Random(seed).shuffle(bench.runs)
        assert {r.label: r.cells for r in table_of(bench).rows} == first


def test_equal_strategies_are_seldom_told_apart_from_the_best(new_bench):
    """The best of several is picked by looking; a table of equal rows still calls all of them tied, 19 times in 20."""
    generator = np.random.default_rng(0)
    wrong = 0
    for number in range(60):
        bench = new_bench(str(number))
        for label in ("uniform", "dynamic", "datasize", "random"):
            bench.run(label, {"arc": generator.random(60).round(4).tolist()}, trained=False)
        wrong += not all(r.cells["arc"].best or r.cells["arc"].tied for r in table_of(bench).rows)
    assert wrong <= 7  # 3 expected at 5 %; more than 7 has probability 1 %


def test_seeds_make_one_row_and_pair_with_the_same_seeds(bench, answers):
    for seed in (0, 1, 2):
        bench.run("uniform", {"arc": answers(seed, 60, 0.4)}, seed=seed)
        bench.run("dynamic", {"arc": answers(10 + seed, 60, 0.5 + 0.05 * seed)}, seed=seed)
    table = table_of(bench)
    assert [(r.label, [m.seed for m in r.members]) for r in table.rows] == [
        ("uniform", [0, 1, 2]),
        ("dynamic", [0, 1, 2]),
    ]
    cell = row(table, "dynamic").cells["arc"]
    assert cell.score.value == pytest.approx(0.55)
    assert cell.difference.value == pytest.approx(0.15)
    assert cell.n == 60


def test_with_several_seeds_a_lucky_agreement_of_one_pair_is_judged_by_how_seeds_vary_in_the_whole_table(
    bench, answers
):
    """Two rows whose three seeds agree by chance, in a table where seeds matter: the pair alone looks significant."""
    for label, shares in {
        "uniform": (0.50, 0.50, 0.50), "dynamic": (0.68, 0.68, 0.68),
        "random": (0.35, 0.60, 0.80), "sequential": (0.30, 0.75, 0.50), "datasize": (0.80, 0.55, 0.30),
    }.items():  # fmt: skip
        for seed, share in enumerate(shares):
            bench.run(label, {"arc": answers(10 * len(label) + seed, 200, share)}, seed=seed)
    table = table_of(bench)
    cell = row(table, "dynamic").cells["arc"]
    alone = difference(row(table, "dynamic"), row(table, "uniform"), table.columns[0])
    assert p_value(alone) < 0.002
    assert cell.to_base.p > 0.05
    assert cell.difference.se > 2 * alone.se
    assert not cell.significant
    assert table.columns[0].detectable > 0.18
    assert cell.score.seeds == 3
    assert cell.score.seed_se == pytest.approx(0.0, abs=0.02) != row(table, "random").cells["arc"].score.seed_se


def test_the_untrained_model_pairs_with_every_seed(bench, answers):
    bench.run("none", {"arc": answers(5, 60, 0.2)}, trained=False)
    values = [answers(seed, 60, 0.4 + 0.1 * seed) for seed in (0, 1, 2)]
    for seed in (0, 1, 2):
        bench.run("uniform", {"arc": values[seed]}, seed=seed)
    cell = row(table_of(bench), "none").cells["arc"]
    assert cell.difference.value == pytest.approx(0.2 - np.mean(values))


def test_without_a_common_seed_there_is_no_difference_and_a_reason(bench, answers):
    bench.run("uniform", {"arc": answers(0, 20, 0.5)}, seed=0)
    bench.run("dynamic", {"arc": answers(1, 20, 0.5)}, seed=1)
    cell = row(table_of(bench), "dynamic").cells["arc"]
    assert cell.score is not None
    assert cell.difference is None
    assert "no seed in common with uniform" in cell.note


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (
            {"train": Stage(status="failed", error="the loss is NaN at step 7")},
            "training failed: the loss is NaN at step 7",
        ),
        ({"train": Stage(status="running")}, "training has not finished"),
        ({"train": Stage()}, "training has not run yet"),
        ({"train": Stage(status="done")}, "not evaluated on this suite"),
        (
            {"train": Stage(status="done"), "eval:kr": Stage(status="failed", error="the server died")},
            "evaluation failed: the server died",
        ),
    ],
)
def test_a_run_without_scores_keeps_its_row_and_says_why(bench, stages, told):
    bench.run("uniform", {"arc": [1.0, 0.0, 1.0]})
    bench.run("dynamic", stages=stages)
    failed = row(table_of(bench), "dynamic")
    assert failed.notes == [told]
    assert failed.cells["arc"].score is None


def test_a_planned_run_that_never_started_keeps_its_row(bench):
    bench.run("uniform", {"arc": [1.0, 0.0]})
    config = config_of("dynamic", 0, "tiny-0123456789ab")
    waiting = Run(bench.root / "bench" / config.id)
    (table,) = compare([*bench.runs, waiting], bench.folders, "uniform", planned={waiting.folder: config}).tables
    assert row(table, "dynamic").notes == ["has not run yet"]


def test_a_table_of_nothing_but_failures_is_still_a_table(bench):
    bench.run("uniform", stages={"train": Stage(status="failed", error="no space")})
    table = table_of(bench)
    assert table.columns == []
    assert table.rows[0].notes == ["training failed: no space"]


def test_a_task_that_one_row_lacks_is_missing_there_only_and_so_is_its_average(bench):
    bench.run("uniform", {"arc": [1.0, 0.0, 1.0], "code": [0.0, 0.0, 1.0]})
    bench.run("dynamic", {"arc": [1.0, 1.0, 1.0], "code": None}, note="no sandbox on this machine")
    cells = row(table_of(bench), "dynamic").cells
    assert cells["arc"].difference.value == pytest.approx(1 / 3)
    assert cells["code"].score is None
    assert cells["code"].note == "no score (no sandbox on this machine)"
    assert cells["average"].score is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"limit": 10}, "questions per task: 10, not all"),
        ({"suite_hash": "6" * 64}, "suite: kr (666666666666), not kr (555555555555)"),
        ({"engine": {**ENGINE, "name": "vllm"}}, "engine: vllm 5.19.0, not transformers 5.19.0"),
        ({"engine": {**ENGINE, "dtype": "bfloat16"}}, "precision: bfloat16, not float32"),
    ],
)
def test_rows_evaluated_differently_are_shown_and_not_compared(bench, changed, told):
    bench.run("uniform", {"arc": [1.0, 0.0, 1.0]})
    bench.run("dynamic", {"arc": [1.0, 1.0, 1.0]}, **changed)
    unlike = row(table_of(bench), "dynamic")
    assert unlike.notes == [f"NOT COMPARED with the other rows: {told}"]
    cell = unlike.cells["arc"]
    assert cell.score.value == 1.0
    assert cell.difference is None
    assert not cell.best


def test_seeds_evaluated_differently_are_not_averaged(bench):
    bench.run("uniform", {"arc": [1.0, 0.0]}, seed=0)
    bench.run("uniform", {"arc": [1.0]}, seed=1, limit=1)
    (found,) = table_of(bench).rows
    assert "its seeds were evaluated under different conditions (questions per task: 1, not all)" in found.notes[0]
    assert not found.cells


def test_other_questions_under_the_same_conditions_are_refused(bench):
    bench.run("uniform", {"arc": [1.0, 0.0]})
    run = bench.run("dynamic", {"arc": [1.0, 0.0]})
    path = run.folder / "evals" / "kr" / "samples_arc.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["doc_hash"] = "f" * 64
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(MoemixError, match="question 1 of arc is not the one in") as error:
        table_of(bench)
    assert error.value.where == str(path)


def test_an_evaluation_of_another_checkpoint_is_not_shown(bench):
    bench.run("uniform", {"arc": [1.0, 0.0]})
    run = bench.run("dynamic", {"arc": [1.0, 0.0]})
    run.update(checkpoint_hash="d" * 64)
    assert "is of another checkpoint" in row(table_of(bench), "dynamic").notes[0]


def test_each_model_is_a_table_of_its_own(bench, answers):
    for number, model in enumerate(("tiny-0123456789ab", "smol-0123456789ab")):
        bench.run("uniform", {"arc": answers(number, 30, 0.4)}, model_id=model)
        bench.run("dynamic", {"arc": answers(9 - number, 30, 0.6)}, model_id=model)
    tables = compare(bench.runs, bench.folders, "uniform").tables
    assert [table.model for table in tables] == ["tiny", "smol"]
    assert all(sum(r.cells["arc"].best for r in table.rows) == 1 for table in tables)


def test_two_models_of_one_name_are_told_apart_by_their_hashes(bench):
    bench.run("uniform", {"arc": [1.0]}, model_id="tiny-0123456789ab")
    bench.run("uniform", {"arc": [1.0]}, model_id="tiny-ba9876543210")
    assert [t.model for t in compare(bench.runs, bench.folders, "uniform").tables] == [
        "tiny-0123456789ab",
        "tiny-ba9876543210",
    ]


def test_two_configurations_under_one_label_are_two_rows_named_by_what_differs(bench):
    bench.run("uniform", {"arc": [1.0, 0.0]})
    bench.run("dynamic", {"arc": [1.0, 0.0]})
    bench.run("dynamic", {"arc": [0.0, 0.0]}, training={"steps": 50})
    labels = [r.label for r in table_of(bench).rows]
    assert labels == ["uniform", "dynamic (training.steps=100)", "dynamic (training.steps=50)"]
    with pytest.raises(MoemixError, match="2 rows could be the baseline"):
        table_of(bench, baseline="dynamic")


def test_without_the_baseline_there_are_no_differences_but_marks(bench):
    bench.run("datasize", {"arc": [1.0, 0.0, 1.0]})
    bench.run("dynamic", {"arc": [1.0, 1.0, 1.0]})
    table = table_of(bench)
    assert "No row is 'uniform'" in table.notes[0]
    assert row(table, "dynamic").cells["arc"].best
    assert row(table, "dynamic").cells["arc"].difference is None


def test_one_question_gives_a_score_without_error_and_calls_nobody_worse(bench):
    bench.run("uniform", {"arc": [0.0]})
    bench.run("dynamic", {"arc": [1.0]})
    cells = {r.label: r.cells["arc"] for r in table_of(bench, checkpoints=True).rows}
    assert math.isnan(cells["dynamic"].score.se)
    assert cells["dynamic"].best
    assert not cells["uniform"].tied
    assert not cells["dynamic"].significant
