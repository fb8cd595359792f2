"""Scores are read from lm-eval's samples, and nothing that contradicts the summary gets into a table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_records import sample_line, write_samples  # type: ignore[import-not-found]

from harness.errors import MoemixError
from harness.records import Column, EvalResult
from harness.statistics.columns import Key
from leaderboards.scores import Evaluation, read_samples


def result(
    n: int, value: float | None, *, task: str = "arc", metric: str = "acc", filter_name: str = "none"
) -> EvalResult:
    return EvalResult(
        task=task,
        metric=metric,
        filter=filter_name,
        value=value,
        stderr=None,
        n=n,
        shots=0,
        task_version="1",
        prompt_hash="p",
    )


def lines_of(values, *, metric: str = "acc", filter_name: str = "none") -> list[dict]:
    return [sample_line(i, "arc", {metric: value}, filter_name) for i, value in enumerate(values)]


def test_samples_become_a_vector_in_the_order_of_the_questions(tmp_path: Path):
    path = write_samples(tmp_path, "arc", lines_of([1.0, 0.0, True])[::-1])
    found = read_samples(path, result(3, 2 / 3))
    assert found.values.tolist() == [1.0, 0.0, 1.0]
    assert [question for question, _ in found.questions] == [0, 1, 2]


def test_each_filter_is_its_own_score(tmp_path: Path):
    strict = lines_of([0.0, 0.0], metric="exact_match", filter_name="strict-match")
    flexible = lines_of([1.0, 0.0], metric="exact_match", filter_name="flexible-extract")
    path = write_samples(tmp_path, "arc", [line for pair in zip(strict, flexible, strict=True) for line in pair])
    wanted = result(2, 0.5, metric="exact_match", filter_name="flexible-extract")
    assert read_samples(path, wanted).values.tolist() == [1.0, 0.0]


def test_a_question_that_the_benchmark_holds_twice_is_one_cluster(tmp_path: Path):
    lines = lines_of([1.0, 0.0, 1.0])
    lines[2]["doc_hash"] = lines[0]["doc_hash"]
    clusters = read_samples(write_samples(tmp_path, "arc", lines), result(3, 2 / 3)).clusters
    assert clusters[0] == clusters[2] != clusters[1]
    assert sorted(np.unique(clusters)) == [0, 1]


def test_questions_about_one_passage_are_one_cluster(tmp_path: Path):
    lines = lines_of([1.0, 0.0, 1.0, 1.0])
    for line, passage in zip(lines, ("On ice", "On fire", "On ice", " "), strict=True):
        line["doc"]["passage"] = passage
    clusters = read_samples(write_samples(tmp_path, "boolq", lines), result(4, 0.75)).clusters
    assert clusters[0] == clusters[2]
    assert len(np.unique(clusters)) == 3  # an empty passage joins nothing


def twice(lines):
    lines[2]["doc_id"] = 1


def without_hash(lines):
    del lines[2]["doc_hash"]


def no_number(lines):
    lines[2]["acc"] = float("nan")


def a_list(lines):
    lines[2]["acc"] = [1, 2]


def no_object(lines):
    lines[2] = [1, 2]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (twice, "question 1 comes twice"),
        (without_hash, "`doc_hash` is missing"),
        (no_number, "`acc` of question 2 is not a number: nan"),
        (a_list, "is not a number: [1, 2]"),
        (no_object, "a sample is a JSON object"),
    ],
)
def test_a_bad_sample_is_named_with_file_and_line(tmp_path: Path, damage, told):
    lines = lines_of([1.0, 0.0, 1.0, 0.0])
    damage(lines)
    path = write_samples(tmp_path, "arc", lines)
    with pytest.raises(MoemixError) as error:
        read_samples(path, result(4, 0.5))
    assert error.value.where == f"{path}:3"
    assert told in error.value.message


def test_samples_that_are_missing_or_do_not_give_the_recorded_value_are_refused(tmp_path: Path):
    path = write_samples(tmp_path, "arc", lines_of([1.0, 0.0]))
    with pytest.raises(MoemixError, match="2 questions where the summary says 3"):
        read_samples(path, result(3, 0.5))
    with pytest.raises(MoemixError, match=r"acc is 0\.5 by its samples and 0\.75 by the summary"):
        read_samples(path, result(2, 0.75))
    with pytest.raises(MoemixError, match="are missing"):
        read_samples(tmp_path / "samples_none.jsonl", result(2, 0.5))


def test_a_column_that_its_samples_do_not_give_is_refused(bench):
    run = bench.run("uniform", {"arc": [1.0, 0.0]})
    path = run.folder / "evals" / "kr" / "summary.json"
    tree = json.loads(path.read_text())
    tree["columns"]["arc"]["value"] = 0.9
    path.write_text(json.dumps(tree))
    with pytest.raises(MoemixError, match=r"column 'arc' is 0\.5 by its samples and 0\.9 by the summary"):
        Evaluation.open(path.parent).column("arc")


def test_averages_are_resolved_into_their_tasks(bench):
    columns = {
        "small": Column(value=0.5, stderr=None, n=2, tasks=("a",), metric="acc"),
        "both": Column(value=0.375, stderr=None, n=6, tasks=("a", "b"), metric="acc"),
        "pooled": Column(value=2 / 6, stderr=None, n=6, tasks=("a", "b"), metric="acc", aggregation="micro"),
        "mean": Column(value=(0.5 + 0.375) / 2, stderr=None, n=6, columns=("small", "both")),
    }
    run = bench.run("uniform", {"a": [1.0, 0.0], "b": [1.0, 0.0, 0.0, 0.0]}, columns=columns)
    held = Evaluation.open(run.folder / "evals" / "kr")
    a, b = Key("a", "acc", "none"), Key("b", "acc", "none")
    assert held.shares("both") == {a: 0.5, b: 0.5}
    assert held.shares("pooled") == pytest.approx({a: 1 / 3, b: 2 / 3})
    assert held.shares("mean") == pytest.approx({a: 0.75, b: 0.25})
    for name in columns:
        assert set(held.column(name)) == set(held.shares(name))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"x": Column(value=0.5, stderr=None, n=2, columns=("y",))}, "unknown column 'y'"),
        ({"x": Column(value=0.5, stderr=None, n=2, columns=("x",))}, "mean of itself"),
        ({"x": Column(value=0.5, stderr=None, n=2)}, "either `tasks` or `columns`"),
        ({"x": Column(value=0.5, stderr=None, n=2, tasks=("a",), metric="f1")}, "task a has no f1"),
    ],
)
def test_a_column_that_cannot_be_computed_is_named(bench, columns, told):
    run = bench.run("uniform", {"a": [1.0, 0.0]}, columns=columns)
    with pytest.raises(MoemixError, match=told):
        Evaluation.open(run.folder / "evals" / "kr").shares("x")
