"""Held-out losses and continuous forms of a run stand in tables, with their own direction and units."""

from __future__ import annotations

import math

import pytest

from harness.errors import MoemixError
from harness.files import append_jsonl
from harness.records import ContinuousScores, HeldOutLosses
from leaderboards.measures import CONTINUOUS
from leaderboards.selection import from_folders


def measure(run, step: int, name: str, nats: tuple[float, ...]) -> None:
    losses = HeldOutLosses(step=step, set=name, keys=("a", "b"), nats=nats, targets=(2, 4), bytes=(4, 8))
    append_jsonl(run.held_out, losses.model_dump(mode="json"))


@pytest.fixture
def comparisons(bench):
    for label, factor in (("uniform", 1.0), ("dynamic", 0.5)):
        run = bench.run(label, {"arc": [1.0, 0.0]})
        measure(run, 5, "chat", (9.0, 9.0))
        measure(run, 10, "chat", (2.0 * factor, 8.0 * factor))
        measure(run, 10, "math", (4.0 * factor, 4.0 * factor))
        scores = ContinuousScores(
            task="arc", measure="choice_probability", doc_ids=(0, 1), doc_hashes=("x", "y"), values=(factor, factor / 2)
        )
        append_jsonl(run.folder / "evals" / "kr" / CONTINUOUS, scores.model_dump(mode="json"))
    return {each.suite: each.tables[0] for each in from_folders([bench.root / "bench"], "uniform").compare()}


def test_the_mean_of_the_last_losses_stands_beside_the_scores(comparisons):
    uniform, dynamic = sorted(comparisons["kr"].rows, key=lambda row: row.label, reverse=True)
    # chat: (2/2 + 8/4) / 2 nats per target token; math: (4/2 + 4/4) / 2
    assert uniform.cells["held_out"].score.value == pytest.approx((1.5 + 1.5) / 2)
    assert dynamic.cells["held_out"].difference.value == pytest.approx(-0.75)
    assert dynamic.cells["held_out"].best, "a lower loss is better"


def test_each_set_has_its_losses_and_bits_in_a_table_of_their_own(comparisons):
    table = comparisons["held-out losses"]
    assert {column.name for column in table.columns} == {
        f"{name}{ending}"
        for name in ("held_out:chat", "held_out:math", "held_out")
        for ending in ("", ":bits_per_byte")
    }
    assert not any(column.higher_is_better for column in table.columns)
    (uniform,) = (row for row in table.rows if row.label == "uniform")
    bits = (2 / 4 + 8 / 8) / 2 / math.log(2)
    assert uniform.cells["held_out:chat:bits_per_byte"].score.value == pytest.approx(bits)


def test_the_continuous_form_of_a_column_has_the_columns_questions(comparisons):
    table = comparisons["continuous forms"]
    (column,) = table.columns
    assert (column.name, column.higher_is_better) == ("arc", True)
    (dynamic,) = (row for row in table.rows if row.label == "dynamic")
    assert dynamic.cells["arc"].score.value == pytest.approx(0.375)
    assert dynamic.cells["arc"].difference.value == pytest.approx(-0.375)


def test_a_damaged_line_is_named(bench):
    run = bench.run("uniform", {"arc": [1.0, 0.0]})
    append_jsonl(run.held_out, {"step": 1})
    with pytest.raises(MoemixError, match=r"held_out\.jsonl:1"):
        from_folders([bench.root / "bench"], "uniform").compare()
