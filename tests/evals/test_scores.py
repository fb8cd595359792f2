"""Columns and averages are weighted sums of task results, and so are their standard errors."""

from __future__ import annotations

import math

import pytest

from evals.scores import columns, refused_result
from evals.suites import Suite
from harness.errors import MoemixError
from harness.records import EvalResult


def result(task, value, stderr, n=100, metric="acc", filter="none"):
    return EvalResult(
        task=task,
        metric=metric,
        filter=filter,
        value=value,
        stderr=stderr,
        n=n,
        shots=0,
        task_version="1",
        prompt_hash="x",
    )


def suite(aggregation="macro"):
    return Suite.model_validate(
        {
            "name": "s",
            "columns": [
                {"name": "many", "tasks": ["group"], "metric": "acc", "aggregation": aggregation},
                {"name": "one", "tasks": ["c"], "metric": "acc"},
            ],
            "averages": [{"name": "mean", "of": ["many", "one"]}, {"name": "nested", "of": ["mean", "one"]}],
        }
    )


LEAVES = {"group": ("a", "b"), "c": ("c",)}
RESULTS = [result("a", 0.2, 0.03, n=100), result("b", 0.6, 0.04, n=300), result("c", 0.9, 0.01)]


def test_a_macro_average_has_the_standard_error_of_the_macro_average():
    made = columns(suite(), LEAVES, RESULTS)
    assert made["many"].value == pytest.approx(0.4)
    assert made["many"].stderr == pytest.approx(math.sqrt(0.03**2 + 0.04**2) / 2)
    assert made["many"].n == 400
    assert made["many"].tasks == ("a", "b")
    assert made["mean"].value == pytest.approx((0.4 + 0.9) / 2)
    assert made["mean"].stderr == pytest.approx(math.sqrt(made["many"].stderr ** 2 + 0.01**2) / 2)


def test_a_micro_average_counts_questions():
    made = columns(suite("micro"), LEAVES, RESULTS)["many"]
    assert made.value == pytest.approx((20 + 180) / 400)
    assert made.stderr == pytest.approx(math.sqrt((0.25 * 0.03) ** 2 + (0.75 * 0.04) ** 2))


def test_a_part_that_is_averaged_twice_is_not_taken_for_two_independent_ones():
    made = columns(suite(), LEAVES, RESULTS)["nested"]  # a/8 + b/8 + c/4 + c/2
    assert made.value == pytest.approx(0.2 / 8 + 0.6 / 8 + 0.9 * 0.75)
    assert made.stderr == pytest.approx(math.sqrt((0.03 / 8) ** 2 + (0.04 / 8) ** 2 + (0.01 * 0.75) ** 2))


def test_a_column_with_a_missing_part_is_missing_and_so_are_its_averages():
    refused = refused_result(suite().columns[0], "b", "no sandbox")
    made = columns(suite(), LEAVES, [RESULTS[0], refused, RESULTS[2]])
    assert made["many"].value is None
    assert made["mean"].value is None
    assert made["one"].value == 0.9
    assert refused.note == "no sandbox"


def test_columns_that_were_not_asked_for_are_left_out():
    assert list(columns(suite(), {"c": ("c",)}, [RESULTS[2]])) == ["one"]


def test_a_metric_that_a_task_does_not_have_names_its_neighbour():
    results = [*RESULTS[:2], result("c", 0.5, 0.1, metric="acc_norm")]
    with pytest.raises(MoemixError, match="did you mean 'acc_norm"):
        columns(suite(), LEAVES, results)
