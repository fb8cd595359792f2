"""``faithful`` is FastChat: its templates, what it reads from a reply, and its averages and win rates, bit for bit."""

from __future__ import annotations

import json
import random

import pandas
import pytest
from fake_judge import FakeJudge
from small_judgings import answer_file, bench_file, judged, lines, template_file

from evals.judge.faithful import Faithful, pair_winner, rating
from evals.judge.questions import load_bench, read_answers
from evals.judge.records import NEED_REFERENCE, Match, pair_outcome
from harness.errors import MoemixError


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Rating: [[5]]", 5),
        ("Rating: [[7.5]]", 7.5),
        ("[[7.]]", 7.0),
        ("[[100]]", 100),  # no bounds
        ("The answer says [[10]]. Rating: [[1]]", 10),  # the first counts
        ("[[7/10]]", -1),
        ("Rating: [6]", 6),  # the fallback
        ("see [1]; Rating: [[8]]", 8),  # double brackets first, wherever they stand
        ("[ [8] ]", 8),
        ("[[ 8 ]]", -1),
        ("[[-3]]", -1),
        ("Rating: 5", -1),
        ("[[five]]", -1),
        ("", -1),
        ("$ERROR$", -1),
        ("[[0]]", 0),
        ("[[07]]", -1),
    ],
)
def test_a_rating_is_read_as_fastchat_reads_it(reply, score):
    assert rating(reply) == score
    assert isinstance(rating(reply), type(score))


@pytest.mark.parametrize(
    ("reply", "winner"),
    [
        ("[[A]]", "A"),
        ("I first thought [[B]], but [[A]]", "A"),  # A is looked for first
        ("[[C]] no, [[B]]", "B"),
        ("[[C]]", "tie"),
        ("[[a]]", "error"),
        ("[A]", "error"),
        ("", "error"),
    ],
)
def test_a_pairwise_verdict_is_read_as_fastchat_reads_it(reply, winner):
    assert pair_winner(reply) == winner


@pytest.mark.parametrize(
    ("games", "outcome"),
    [
        (("model_1", "model_1"), "model_1"),
        (("model_2", "model_2"), "model_2"),
        (("model_1", "model_2"), "tie"),
        (("tie", "model_1"), "tie"),
        (("model_2", "tie"), "tie"),
        (("tie", "tie"), "tie"),
        (("error", "model_1"), "error"),
        (("error", "error"), "error"),
    ],
)
def test_two_games_make_one_outcome(games, outcome):
    assert pair_outcome(*games) == outcome


@pytest.fixture
def small(tmp_path):
    bench_file(tmp_path, 30)
    answer_file(tmp_path, "mine", 30)
    answer_file(tmp_path, "base", 30)
    template_file(tmp_path)
    return tmp_path


def test_scores_and_averages_are_those_of_fastchat(small):
    rng = random.Random(0)
    # Sums of these are exact in floating point, so every way to sum them gives the same bits.
    ratings = ["[[1]]", "[[9.5]]", "[[6]]", "[[100]]", "no rating", "[7]", "[[3]] not [[9]]"]
    with FakeJudge(lambda *_: rng.choice(ratings)) as judge:
        summary = judged(small, judge.url, protocol="faithful")
    # FastChat's own computation, on our file
    table = pandas.read_json(small / "out" / "judgments-fake.jsonl", lines=True)[["model", "score", "turn"]]
    table = table[table["score"] != -1]
    assert summary.average.value == table[["model", "score"]].groupby(["model"]).mean()["score"].iloc[0]
    for turn, score in ((1, summary.first_turn), (2, summary.second_turn)):
        assert score.value == table[table["turn"] == turn].groupby(["model", "turn"]).mean()["score"].iloc[0]
    assert summary.judged == len(table)
    assert summary.failed == {"no_verdict": 60 - len(table)}
    assert summary.flags["score_out_of_range"]  # 100 counts, as in FastChat, and is pointed out


def test_pairwise_win_rates_are_those_of_fastchat(small):
    rng = random.Random(1)
    with FakeJudge(lambda *_: rng.choice(["[[A]]", "[[A]]", "[[B]]", "[[C]]", "?"])) as judge:
        summary = judged(small, judge.url, protocol="faithful", mode="pairwise", baseline=small / "base.jsonl")
    table = pandas.read_json(small / "out" / "judgments-fake.jsonl", lines=True)
    assert len(table) == 60
    table = table[(table["g1_winner"] != "error") & (table["g2_winner"] != "error")]
    tie = (table["g1_winner"] == "tie") | (table["g1_winner"] != table["g2_winner"])
    won = ~tie & (table["g1_winner"] == "model_1")
    assert (summary.win, summary.tie, summary.loss) == (won.sum(), tie.sum(), len(table) - won.sum() - tie.sum())
    assert summary.adjusted_win_rate == (won.sum() + 0.5 * tie.sum()) / len(table)
    assert summary.judged == len(table)
    assert summary.failed == {"no_verdict": 60 - len(table)}


def test_both_orders_are_played_and_references_guide_where_fastchat_has_them(small):
    with FakeJudge(lambda *_: "[[A]]") as judge:
        judged(small, judge.url, protocol="faithful", mode="pairwise", baseline=small / "base.jsonl", limit=1)
        prompts = {request["messages"][1]["content"] for request in judge.requests}
    assert "question=ask 2 first | answer_a=mine says 2 first | answer_b=base says 2 first" in prompts
    assert "question=ask 2 first | answer_a=base says 2 first | answer_b=mine says 2 first" in prompts
    math = "question=ask 1 first | answer_a=mine says 1 first | answer_b=base says 1 first | ref_answer_1=ref 1 one"
    assert math in prompts
    assert len(prompts) == 8
    assert all(request["temperature"] == 0 and request["max_tokens"] == 2048 for request in judge.requests)
    assert all("response_format" not in request and "seed" not in request for request in judge.requests)


def test_files_are_of_fastchats_shape(small):
    with FakeJudge(lambda *_: "Good. [[8]]") as judge:
        judged(small, judge.url, protocol="faithful")
    first = lines(small / "out" / "judgments-fake.jsonl")[0]
    for key in ("question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"):
        assert key in first
    assert first["judge"][0] == "fake"
    assert first["judge"][1] in ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")


def test_without_templates_it_says_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.delenv("MOEMIX_DATA_ROOT", raising=False)
    bench_file(tmp_path)
    answer_file(tmp_path)
    with pytest.raises(MoemixError, match=r"--judge-prompts FILE"):
        judged(tmp_path, "http://127.0.0.1:1", protocol="faithful")


@pytest.mark.data
def test_the_published_bench_and_templates_make_fastchats_prompts(real_data):
    bench = load_bench("mt_bench", real_data)
    assert len(bench.questions) == 80
    assert sum(len(question.turns) for question in bench.questions) == 160
    references = read_answers(real_data / "mt_bench" / "reference_answer" / "gpt-4.jsonl").answers
    assert sorted(references) == [q.id for q in bench.questions if q.category in NEED_REFERENCE]
    assert all(q.reference == references[q.id] for q in bench.questions if q.id in references)
    rules = Faithful(bench.prompts)
    templates = {row["name"]: row for row in map(json.loads, (real_data / "mt_bench/judge_prompts.jsonl").open())}
    answer = ("first {answer}", "second [[9]]")
    question = next(q for q in bench.questions if q.id == 112)
    prompt = rules.prompt(Match(question, 2, ("m",), (answer,)))
    expected = templates["single-math-v1-multi-turn"]["prompt_template"].format(
        question_1=question.turns[0], question_2=question.turns[1], answer_1=answer[0], answer_2=answer[1],
        ref_answer_1=question.reference[0], ref_answer_2=question.reference[1],
    )  # fmt: skip
    assert prompt.user == expected
    assert prompt.system == templates["single-math-v1-multi-turn"]["system_prompt"]
    open_ended = next(q for q in bench.questions if q.id == 81)
    assert rules.prompt(Match(open_ended, 1, ("m",), (answer,))).name == "single-v1"
    assert [q.temperature for q in bench.questions if q.id in (81, 91, 101, 151)] == [0.7, 0.7, 0.0, 0.1]


@pytest.mark.data
def test_published_reference_answers_are_read_as_answers(real_data):
    held = read_answers(real_data / "vicuna_bench" / "reference_answer" / "gpt-4.jsonl")
    assert held.model == "gpt-4"
    bench = load_bench("vicuna_bench", real_data)
    assert len(bench.questions) == 80
    assert all(len(question.turns) == 1 for question in bench.questions)
