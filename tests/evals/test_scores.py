"""Columns and averages are weighted sums of task results, and so are their standard errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evals.scores import columns, refused_result, task_results
from evals.suites import Suite
from harness.errors import MoemixError
from harness.records import EvalResult
from harness.statistics.estimates import FRACTION, Part, estimate


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


def raw_results(scores, passages, value=None, stderr=0.01):
    """What lm-eval returns for one task whose questions are about passages."""
    samples = [
        {"doc_id": i, "doc": {"passage": f"passage {at}"}, "doc_hash": f"{i:064x}", "filter": "none", "acc": score,
         "arguments": [("a prompt", " a")]}
        for i, (score, at) in enumerate(zip(scores, passages, strict=True))
    ]  # fmt: skip
    numbers = {"acc,none": float(np.mean(scores)) if value is None else value, "acc_stderr,none": stderr}
    return {"samples": {"c": samples}, "results": {"c": numbers}, "n-samples": {"c": {"effective": len(scores)}},
            "higher_is_better": {"c": {"acc": True}}, "n-shot": {"c": 0}, "versions": {"c": 1}}  # fmt: skip


def test_a_task_and_its_column_have_the_error_of_clustered_questions():
    """Questions about one passage are not independent; lm-eval's own error, which ignores that, stays in its file."""
    scores, passages = [1.0] * 12 + [0.0] * 8 + [1.0] * 4, np.arange(24) // 4
    (found,) = task_results(raw_results(scores, passages), {})
    expected = estimate([Part(1.0, np.array([scores]), passages)])
    assert (found.stderr, found.clusters) == (pytest.approx(expected.se), 6)
    assert expected.se > 1.8 * np.std(scores, ddof=1) / math.sqrt(24)
    assert (found.lower, found.upper) == pytest.approx(expected.interval(FRACTION))
    column = columns(suite(), {"c": ("c",)}, [found])["one"]
    assert (column.stderr, column.lower, column.upper) == (found.stderr, found.lower, found.upper)


def test_a_metric_that_is_no_mean_over_questions_keeps_the_error_of_lm_eval():
    (found,) = task_results(raw_results([0.0, 1.0, 1.0], [0, 1, 2], value=0.5, stderr=0.07), {})
    assert (found.value, found.stderr, found.clusters) == (0.5, 0.07, 3)
    assert found.lower < 0.36
