"""A judge is tested before it is believed: chance and constants are refused, the right one passes, biases are seen."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from click.testing import CliRunner
from fake_judge import FakeJudge, Say
from known_judges import KNOWN, reply
from small_judgings import answer_file, bench_file, judged, write_lines

from evals.judge import qualify as qualification
from evals.judge.integrity import masked
from evals.judge.known_answers import INJECTIONS, PADDING, bundled, published
from evals.judge.reference import find_error
from harness.cli import cli
from harness.errors import MoemixError
from harness.judging import Qualification


@pytest.fixture
def few(monkeypatch):
    """A question of each kind, which are enough to tell these judges apart."""
    monkeypatch.setattr(qualification, "bundled", lambda: [one for one in bundled() if one.id[-1] == "1"])


@pytest.fixture
def served():
    with FakeJudge(reply) as judge:
        yield judge


def run(name, served, out, *options):
    arguments = ["judge", "qualify", name, "--judge-url", served.url, "--out", str(out), *options]
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def stored(out, name) -> Qualification:
    return Qualification.read(out / name / "qualification.json")


def test_right_answers_are_right_and_wrong_ones_are_not():
    questions = bundled()
    assert len({one.text for one in questions}) == len(questions) == len(KNOWN)
    for one in (one for one in questions if one.check):
        assert not find_error(one.check, one.right), one
        assert not find_error(one.check, one.right + PADDING), one
        assert find_error(one.check, one.wrong), one
    for number, one in enumerate(questions):
        assert one.right != one.wrong
        assert masked(one.right + PADDING, one.text)[1] == 0
        text, removed = masked(one.wrong + INJECTIONS[number % len(INJECTIONS)], one.text)
        assert text.startswith(one.wrong)
        assert removed


@pytest.mark.parametrize(
    ("name", "scores", "pairs"),
    [("perfect", True, True), ("dice", False, False), ("constant", False, False), ("longer", False, False),
     ("first", True, False)],
)  # fmt: skip
def test_a_judge_is_qualified_for_what_it_can_do(few, served, tmp_path, name, scores, pairs):
    said = run(name, served, tmp_path)
    found = stored(tmp_path, name).verdict
    assert (found.scores, found.pairs) == (scores, pairs), said.output
    assert bool(found.reasons) == (not (scores and pairs))
    assert said.exit_code == (0 if scores or pairs else 1)
    assert ("NOT qualified for scores" in said.output) == (not scores)


def test_biases_are_measured_on_answers_of_equal_worth(few, served, tmp_path):
    for name in ("longer", "first", "own", "perfect"):
        run(name, served, tmp_path)
    longer, first, own, perfect = (
        stored(tmp_path, name).measures["known"] for name in ("longer", "first", "own", "perfect")
    )
    assert longer["pairs"]["length_effect"]["low"] > 0.9
    assert longer["scores"]["length_effect"]["low"] > 5
    assert first["pairs"]["first_place"]["value"] == 1
    assert first["pairs"]["consistency"]["value"] == 0
    assert own["scores"]["self_preference"]["value"] == 1
    assert own["pairs"]["self_preference"]["low"] > 0
    for part in ("scores", "pairs"):
        for bias in ("length_effect", "injection_effect", "self_preference"):
            assert perfect[part][bias]["value"] == 0
    assert perfect["scores"]["same_score"]["value"] == 1


def test_what_was_answered_is_not_asked_again_and_a_test_holds_for_its_conditions(few, tmp_path):
    answered = Counter()

    def script(payload, before):
        if sum(answered.values()) == 100 and not paid:
            return Say(status=402, body="Insufficient Balance")
        answered[json.dumps([payload["messages"], payload.get("seed")])] += 1
        return reply(payload, before)

    paid = False
    price = ("--price", "1000000,1000000", "--yes")
    with FakeJudge(script) as served:
        stopped = run("perfect", served, tmp_path, *price, "--concurrency", 1)
        assert "no credit left" in str(stopped.exception)
        paid = True
        done = run("perfect", served, tmp_path, *price)
        assert done.exit_code == 0, done.output
        assert set(answered.values()) == {1}
        test = stored(tmp_path, "perfect")
        assert (test.questions, test.requests) == ({"known": 8}, len(answered))
        assert test.cost == 110 * len(answered)  # the judge's own answers are paid for too
        assert "8 questions (known)" in done.output
        before = len(served.requests)
        assert run("perfect", served, tmp_path).exit_code == 0
        assert len(served.requests) == before
        other = run("perfect", served, tmp_path, "--judge-temperature", 0.7)
    assert "tested with another temperature" in str(other.exception)


def test_published_pairs_of_a_data_root_are_asked_too(few, served, tmp_path):
    root, rows = tmp_path / "root", [KNOWN[text] for text in list(KNOWN)[:8]]
    for name in ("judgebench", "rewardbench"):
        (root / name).mkdir(parents=True)
    write_lines(root / "judgebench" / "gpt.jsonl", [
        {"question": one.text, "response_A": one.wrong, "response_B": one.right, "label": "B>A", "source": "x"}
        for one in rows])  # fmt: skip
    write_lines(root / "rewardbench" / "filtered.jsonl", [
        {"prompt": one.text, "chosen": [one.right], "rejected": [one.wrong, "x"], "subset": "y"} for one in rows]
    )  # fmt: skip
    assert {name: len(found) for name, found in published(root).items()} == {"judgebench": 8, "rewardbench": 8}
    run("perfect", served, tmp_path / "out", "--data-root", root)
    measures = stored(tmp_path / "out", "perfect").measures
    assert measures["judgebench"]["pairs"]["accuracy_plain"]["value"] == 1
    assert measures["rewardbench"]["scores"]["auc_plain"]["value"] == 1
    write_lines(
        root / "judgebench" / "gpt.jsonl", [{"question": "q", "response_A": "a", "response_B": "b", "label": "A"}]
    )
    with pytest.raises(MoemixError, match=r"gpt.jsonl:1: .*label 'A'"):
        published(root)


def test_a_judging_can_require_a_qualified_judge(few, served, tmp_path):
    bench_file(tmp_path, 2)
    answer_file(tmp_path, count=2)
    tests = tmp_path / "tests"
    given = ["judge", "--answers", tmp_path / "mine.jsonl", "--bench", tmp_path / "bench.jsonl",
             "--judge-url", served.url, "--qualification", tests]  # fmt: skip

    def judge(name, *options):
        arguments = [*given, "--judge-model", name, "--out", tmp_path / name, *options]
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    untested = judge("constant")
    assert "constant was not tested" in str(untested.exception)
    refused = judge("constant", "--require", "qualified")
    assert "not qualified for scores (constant: not for scores: known: auc" in str(refused.exception)
    assert not (tmp_path / "constant").exists()
    run("first", served, tests)
    assert "not qualified for pairs" in str(
        judge("first", "--require", "qualified", "--mode", "pairwise", "--baseline", tmp_path / "bad.jsonl").exception
    )


def test_a_summary_says_what_the_test_of_its_judge_says(few, tmp_path):
    bench_file(tmp_path, 2)
    answer_file(tmp_path, count=2)

    def script(payload, before):
        return '{"rating": 5}' if "mine says" in json.dumps(payload) else reply(payload, before)

    with FakeJudge(script) as judge:
        plain = judged(tmp_path, judge.url, judge_model=("perfect",))
        assert not plain.qualified
        run("perfect", judge, tmp_path / "tests")
        options = ["--answers", tmp_path / "mine.jsonl", "--bench", tmp_path / "bench.jsonl", "--judge-url", judge.url,
                   "--judge-model", "perfect", "--out", tmp_path / "out",
                   "--qualification", tmp_path / "tests"]  # fmt: skip
        assert CliRunner().invoke(cli, ["judge", *map(str, options)]).exit_code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tested"]["perfect"]["scores"] is True
    assert summary["tested"]["perfect"]["auc"]["value"] == 1
