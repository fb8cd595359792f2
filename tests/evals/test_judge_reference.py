"""The reference grader: right or wrong by a fixed rule, on a bench of our own, under a name of its own."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from small_judgings import answer_file, bench_file, judged, write_lines

from evals.judge.questions import load_bench
from evals.judge.reference import find_error, validate_checks
from evals.sandbox import available
from harness.errors import MoemixError
from trainers.data.world import split
from trainers.data.world_families import FAMILIES


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        ({"kind": "text", "value": "Again: a b."}, "again:  A b", True),
        ({"kind": "text", "value": "Again: a b."}, "Again: a b c.", False),
        ({"kind": "text", "value": "a"}, "", False),
        ({"kind": "number", "value": 7}, "3 + 4 = 7\n#### 7", True),
        ({"kind": "number", "value": 7}, "7 is wrong\n#### 8", False),
        ({"kind": "number", "value": 1200}, "It is 1,200.", True),
        ({"kind": "number", "value": 7}, "none", False),
        ({"kind": "contains", "value": ["red", "blue"]}, "Blue and red", True),
        ({"kind": "contains", "value": ["red"]}, "reddish", False),
    ],
)
def test_answers_are_compared_as_the_check_says(check, answer, right):
    assert (find_error(check, answer) == "") is right


def test_a_program_is_run_with_its_tests_in_the_sandbox():
    if available():
        pytest.skip(available())
    check = {"kind": "program", "tests": ["assert f(2) == 4"]}
    assert find_error(check, "def f(x):\n    return x * 2") == ""
    assert find_error(check, "Here:\n```python\ndef f(x):\n    return x + 2\n```\nThat is it.") == ""
    assert "Assertion" in find_error(check, "def f(x):\n    return x")


def test_unknown_checks_are_refused():
    with pytest.raises(MoemixError, match="valid: contains"):
        validate_checks(({"kind": "guess"},), "bench, question 1")
    with pytest.raises(MoemixError, match="needs `value`"):
        validate_checks(({"kind": "text"},), "bench, question 1")


def test_the_bundled_bench_has_every_category_and_its_references_are_right(tmp_path):
    bench = load_bench("quickstart", None)
    assert {question.category for question in bench.questions} == {
        "writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities",
    }  # fmt: skip
    assert all(len(question.turns) == 2 for question in bench.questions)
    checked = [question for question in bench.questions if question.checks]
    assert {question.category for question in checked} == {"reasoning", "math", "coding", "extraction"}
    rows = [{"question_id": q.id, "model_id": "right", "choices": [{"turns": list(q.reference)}]} for q in checked]
    write_lines(tmp_path / "mine.jsonl", rows)
    summary = judged(tmp_path, "", judge_url=(), judge_model=(), bench="quickstart")
    assert summary.average.n + sum(summary.failed.values()) == 80
    assert summary.average.value == 1
    assert set(summary.failed) <= {"no_sandbox"}
    assert summary.title == "Reference grader (quickstart)"
    assert summary.requests == 0
    assert "MT-Bench" not in summary.model_dump_json()
    assert any("not by a judge" in note for note in summary.notes)


def test_the_long_bench_has_four_times_the_turns_and_its_references_are_right(tmp_path):
    bench = load_bench("quickstart_long", None)
    counts = Counter(question.category for question in bench.questions)
    assert counts == dict.fromkeys(("reasoning", "math", "coding", "extraction"), 40)
    assert len({turn for question in bench.questions for turn in question.turns}) == 320
    turns = {question.id: list(question.reference) for question in bench.questions}
    rows = [{"question_id": q, "model_id": "right", "choices": [{"turns": turns[q]}]} for q in turns]
    write_lines(tmp_path / "mine.jsonl", rows)
    summary = judged(tmp_path, "", judge_url=(), judge_model=(), bench="quickstart_long")
    assert summary.average.n + sum(summary.failed.values()) == 320
    assert summary.average.value == 1


@pytest.mark.parametrize("name", ["quickstart", "quickstart_long"])
def test_no_question_of_a_bundled_bench_is_taught_in_the_quickstarts_world(name):
    taught, held_out = ({FAMILIES[p.family].ask(p, random.Random(0)).prompt for p in side} for side in split(0))
    asked = {turn for q in load_bench(name, None).questions if q.checks for turn in q.turns}
    assert asked <= held_out
    assert not asked & taught


def test_a_bench_without_checks_needs_a_judge(tmp_path):
    bench_file(tmp_path)
    answer_file(tmp_path)
    with pytest.raises(MoemixError, match="--judge-model"):
        judged(tmp_path, "", judge_url=(), judge_model=())
