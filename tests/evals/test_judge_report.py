"""The judge measured: planted biases come back within the report's intervals, and a fair judge is not accused."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from click.testing import CliRunner
from fake_judge import FakeJudge
from length_coefficients import MODELS, simulated
from scipy.stats import spearmanr
from small_judgings import answer_file, bench_file, judged, template_file, write_lines

from evals.judge import win_rates
from evals.judge.biases import stability
from evals.judge.report import as_text, make_report
from evals.judge.verdicts import Pair, Rating, krippendorff_of_scores, krippendorff_of_verdicts
from evals.judge.win_rates import bradley_terry, length_controlled, win_rate
from harness.cli import cli
from harness.errors import MoemixError

COUNT = 60
STRENGTH = 0.6  # how often a biased judge follows its bias; else it is fair
JUDGES = ("first", "longer", "mine", "fair", "another")


def verdict(payload):
    """A judge by its name: over two answers of equal quality, so a fair verdict is chance (fixed by the prompt)."""
    prompt = payload["messages"][-1]["content"]
    rng = random.Random(f"{payload['model']} {prompt}")
    shown = re.findall(r"> (mine|base) says[^\n]*", prompt)
    lengths = [len(line) for line in re.findall(r"> (?:mine|base) says[^\n]*", prompt)]
    if "turn 2" in prompt:  # both turns are shown, answers to the second last
        shown, lengths = shown[-2:], lengths[-2:]
    fair = rng.choice("ABC")
    if rng.random() > STRENGTH:
        return fair
    return {
        "first": "A",
        "longer": "A" if lengths[0] > lengths[1] else "B",
        "mine": "A" if shown[0] == "mine" else "B",
    }.get(payload["model"], fair)


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """Five judges over the same pairs of answers, whose lengths have nothing to do with anything."""
    folder = tmp_path_factory.mktemp("panel")
    rng = random.Random(3)
    bench_file(folder, COUNT)
    for model in ("mine", "base"):
        answer_file(folder, model, COUNT, lambda n, m=model: [f"{m} says {'word ' * rng.randint(1, 80)}" for _ in "12"])

    def script(payload, _):
        return json.dumps({"explanation": "", "winner": {"C": "tie"}.get(found := verdict(payload), found)})

    with FakeJudge(script) as judge:
        judged(folder, judge.url, judge_model=JUDGES, mode="pairwise", baseline=folder / "base.jsonl", concurrency=8)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Win rates have intervals from two refits, where their intervals do not matter."""
    monkeypatch.setattr(win_rates, "_REFITS", 2)


@pytest.fixture(scope="module")
def report(panel):
    return make_report([panel / "out"], None)


def holds(found, value):
    assert found["low"] <= value <= found["high"], found
    return found


def test_a_pull_of_the_first_place_is_recovered(report):
    found = holds(report["judges"]["first"]["position"]["first_place"], STRENGTH)
    assert found["away"]
    assert report["judges"]["first"]["position"]["consistency"]["value"] < 0.4


def test_a_pull_of_length_is_recovered(report):
    said = report["judges"]["longer"]["verbosity"]
    assert said["longer_wins"]["away"]
    assert said["partial_correlation"]["low"] > 0.3
    assert said["controlled_for"] == ["models", "other raters"]
    # a pair counts when both games agree: both follow the bias, or chance agrees with it or against it
    p, q = STRENGTH + (1 - STRENGTH) / 3, (1 - STRENGTH) / 3
    holds(said["longer_wins"], p * p - q * q)


def test_a_preference_for_its_own_answers_is_recovered_against_the_others(report):
    said = report["judges"]["mine"]["self_preference"]
    p, q = STRENGTH + (1 - STRENGTH) / 3, (1 - STRENGTH) / 3
    holds(said["excess"], p * p - q * q)
    assert said["excess"]["away"]
    assert report["judges"]["fair"]["self_preference"] is None


def test_a_fair_judge_is_accused_of_nothing(report):
    accused = {text.split()[0] for text in report["biases"]}
    assert accused == {"first", "longer", "mine"}
    for judge in ("fair", "another"):
        holds(report["judges"][judge]["position"]["first_place"], 0.0)
        holds(report["judges"][judge]["verbosity"]["longer_wins"], 0.0)


def test_win_rates_have_intervals_and_length_is_taken_out(report):
    # no answer is better than another, so at equal length each wins half
    for judge in ("longer", "fair", "first"):
        holds(report["win_rates"][judge]["mine"]["length_controlled"], 0.5)
    assert report["win_rates"]["mine"]["mine"]["adjusted"]["low"] > 0.5
    both = [report["win_rates"]["fair"][model]["adjusted"]["value"] for model in ("mine", "base")]
    assert sum(both) == pytest.approx(1)


def test_judges_agree_by_chance_and_with_people_as_far_as_they_do(panel, report, tmp_path, quick):
    pair = report["agreement"]["fair and another"]["all"]
    assert pair["with_ties"]["n"] == 2 * COUNT
    assert report["agreement"]["alpha_of_verdicts"]["low"] < 0.1
    # people who say what `mine` says, but for one in four
    rng = random.Random(5)
    rows = []
    games = [json.loads(line) for line in (panel / "out" / "judgments-mine.jsonl").open()]
    for line in games:
        same = line["g1_winner"] == line["g2_winner"]
        winner = {"model_1": "model_a", "model_2": "model_b"}.get(line["g1_winner"], "tie") if same else "tie"
        for who in ("expert_1", "expert_2"):
            said = winner if rng.random() > 0.25 else rng.choice(["model_a", "model_b", "tie"])
            rows.append({"question_id": line["question_id"], "turn": line["turn"], "model_a": line["model_1"],
                         "model_b": line["model_2"], "winner": said, "judge": [who, "x"]})  # fmt: skip
    with_people = make_report([panel / "out"], write_lines(tmp_path / "human.jsonl", rows))["agreement"]
    holds(with_people["mine and human"]["all"]["with_ties"], 0.75 + 0.25 / 3)
    assert set(with_people["mine and human"]) == {"all", "turn_1", "turn_2"}
    assert with_people["mine and human"]["turn_1"]["without_ties"]["n"] < with_people["mine and human"]["turn_1"][
        "with_ties"]["n"]  # fmt: skip
    assert with_people["people among themselves"]["all"]["with_ties"]["n"] == 2 * COUNT
    assert with_people["mine and human"]["all"]["with_ties"]["low"] > with_people["fair and human"]["all"]["with_ties"][
        "high"]  # fmt: skip


def test_noise_between_repeats_is_told_apart_from_differences_between_answers(tmp_path):
    bench_file(tmp_path, COUNT)
    answer_file(tmp_path, count=COUNT)
    rng = random.Random(0)
    quality = {(n, turn): rng.gauss(5.5, 1.0) for n in range(1, COUNT + 1) for turn in (False, True)}

    def script(payload, _):
        prompt = payload["messages"][-1]["content"]
        number = int(re.search(r"mine says (\d+)", prompt)[1])
        noise = random.Random(f"{prompt} {payload['seed']}").gauss(0, 0.7)
        return json.dumps({"rating": min(10.0, max(1.0, quality[number, "turn 2" in prompt] + noise))})

    with FakeJudge(script) as judge:
        summary = judged(tmp_path, judge.url, repeats=3)
    said = make_report([tmp_path / "out"], None)["judges"]["fake"]
    holds(said["stability"]["judge_sd"], 0.7)
    holds(said["stability"]["reliability"], 1 / (1 + 0.49))
    assert summary.variance["judge"] == pytest.approx(0.49, rel=0.25)
    assert summary.variance["question"] == pytest.approx(1.0, rel=0.5)
    assert summary.variance["judge_stderr"] == pytest.approx(0.7 / (3 * 2 * COUNT) ** 0.5, rel=0.2)
    assert summary.average.n == 2 * COUNT
    assert said["verbosity_of_scores"]["partial_correlation"]["low"] < 0.35


def test_a_judge_that_rolls_dice_is_called_unreliable_and_a_steady_one_is_not(tmp_path):
    bench_file(tmp_path, COUNT)
    answer_file(tmp_path, count=COUNT)

    def script(payload, _):
        prompt = payload["messages"][-1]["content"]
        steady = payload["model"] == "steady"
        dice = random.Random(prompt if steady else f"{prompt} {payload['seed']}")
        return json.dumps({"rating": dice.choice([1.0, 4.0, 7.0, 10.0])})

    with FakeJudge(script) as judge:
        judged(tmp_path, judge.url, judge_model=("dice", "steady"), repeats=3)
    dice, steady = re.split(r"(?=judge steady)", as_text(make_report([tmp_path / "out"], None)))
    assert "unreliable: repeated scores" in dice
    assert "unreliable" not in steady


def test_a_judging_without_repeats_has_a_report(tmp_path):
    bench_file(tmp_path)
    answer_file(tmp_path)
    with FakeJudge(lambda *_: '{"rating": 5}') as judge:
        judged(tmp_path, judge.url)
    text = as_text(make_report([tmp_path / "out"], None))
    assert "judge fake: 12 judgments, 0.0 % failed" in text
    assert "unreliable" not in text


def test_a_judge_without_noise_has_none():
    scores = [Rating("j", q, 1, "m", "c", repeat, float(q % 7 + 1), 10) for q in range(20) for repeat in range(2)]
    assert stability(scores)["judge_sd"].value == 0
    assert stability(scores)["reliability"].value == 1


def test_krippendorffs_alpha_is_that_of_published_examples():
    # Krippendorff's own example (Computing Krippendorff's Alpha-Reliability, 2011, C): four observers, twelve units
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = {
        (unit, 1): {name: [row[unit]] for name, row in zip("ABCD", table, strict=True) if row[unit] is not None}
        for unit in range(12)
    }
    assert krippendorff_of_verdicts(units, list("ABCD")).value == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_of_scores(units, list("ABCD")).value == pytest.approx(0.849, abs=5e-4)


def test_length_control_finds_the_better_model_behind_a_judge_who_counts_words():
    rng = random.Random(0)
    pairs = []
    for question in range(300):
        lengths = (rng.randint(100, 300), rng.randint(200, 600))  # the other model talks more
        logit = 0.8 + 2.5 * np.tanh((lengths[0] - lengths[1]) / 130)
        winner = "model_1" if rng.random() < 1 / (1 + np.exp(-logit)) else "model_2"
        pairs.append(Pair("j", question, 1, ("terse", "wordy"), "c", 0, (winner, winner), lengths))
    assert win_rate(pairs, "terse").high < 0.5
    found = length_controlled(pairs, "terse")
    assert found.low <= 1 / (1 + np.exp(-0.8)) <= found.high
    assert found.low > 0.5


def test_length_controlled_rates_are_nearer_to_the_published_ones_than_plain_ones(quick):
    models = MODELS[::8]
    pairs, names = simulated(models, 400, chance=False), [f"m{number}" for number in range(len(models))]
    controlled = np.array([length_controlled(pairs, name).value for name in names])
    plain = np.array([win_rate(pairs, name).value for name in names])
    right = np.array([model.controlled for model in models]) / 100
    assert abs(controlled - right).mean() < 0.02 < abs(plain - right).mean()
    assert spearmanr(controlled, right)[0] > 0.95
    # a model that games length has the length taken away, and not its strength
    assert spearmanr(controlled, right)[0] > spearmanr(plain, right)[0]


def test_bradley_terry_places_every_checkpoint_and_style_is_taken_out():
    rng = np.random.default_rng(0)
    strength = {"a": 0.0, "b": 0.7, "c": -0.7, "base": 0.0}
    pairs = []
    for question in range(250):
        for model in "abc":
            bold = (int(rng.integers(0, 12)) if model == "a" else 0, 0)  # `a` has bold words, and this judge likes them
            p = 1 / (1 + np.exp(-(strength[model] + 0.4 * bold[0])))
            games = tuple("model_1" if rng.random() < p else "model_2" for _ in "12")
            pairs.append(
                Pair("j", question, 1, (model, "base"), "c", 0, games, (500, 500), ((0, 0, bold[0]), (0, 0, 0)))
            )
    plain, styled = bradley_terry(pairs, style=False), bradley_terry(pairs, style=True)
    assert list(plain) == ["a", "b", "c"]
    assert plain["a"].low > 0.7
    for model in "bc":
        truth = 1 / (1 + np.exp(-strength[model]))
        assert plain[model].low <= truth <= plain[model].high
    assert styled["a"].low <= 0.5 <= styled["a"].high
    assert bradley_terry([pair for pair in pairs if "a" in pair.models], style=False) == {}


def test_dice_and_constants_are_found_in_pairs(tmp_path, quick):
    bench_file(tmp_path, COUNT)
    for model in ("mine", "base"):
        answer_file(tmp_path, model, COUNT)

    def script(payload, _):
        prompt = payload["messages"][-1]["content"]
        better = "A" if prompt.index("mine says") < prompt.index("base says") else "B"
        dice = random.Random(prompt).choice(["A", "B", "tie"])
        return json.dumps({"winner": {"dice": dice, "tie": "tie", "sees": better}[payload["model"]]})

    names = ("dice", "tie", "sees")
    with FakeJudge(script) as judge:
        judged(tmp_path, judge.url, judge_model=names, mode="pairwise", baseline=tmp_path / "base.jsonl")
    report = make_report([tmp_path / "out"], None)
    unreliable = {name: report["judges"][name]["unreliable"] for name in names}
    assert unreliable == {
        "dice": ["two answers shown in the other order mostly get another verdict"],
        "tie": ["every verdict is a tie"],
        "sees": [],
    }
    assert "unreliable: two answers shown in the other order" in as_text(report)


def test_the_reference_grader_is_the_measure_and_no_rater(tmp_path, quick):
    rows = [{"question_id": n, "category": "math", "turns": [f"{n} + {n}?"],
             "checks": [{"kind": "number", "value": 2 * n}]} for n in range(1, 31)]  # fmt: skip
    write_lines(tmp_path / "bench.jsonl", rows)
    answer_file(tmp_path, "mine", 30, lambda n: [str(2 * n + (n % 3 == 0))])
    answer_file(tmp_path, "base", 30, lambda n: [str(2 * n + (n % 4 == 0))])

    def script(payload, _):
        asked, *given = [int(number) for number in re.findall(r"^> (\d+)", payload["messages"][-1]["content"], re.M)]
        if payload["model"] == "dice":
            return json.dumps({"rating": random.Random(f"{payload}").randint(1, 10), "winner": "A"})
        if len(given) == 1:
            return json.dumps({"rating": 9 if given[0] == 2 * asked else 2})
        good = [number == 2 * asked for number in given]
        return json.dumps({"winner": "tie" if good[0] == good[1] else "A" if good[0] else "B"})

    files = (tmp_path / "mine.jsonl", tmp_path / "base.jsonl")
    with FakeJudge(script) as judge:
        names = {"judge_model": ("perfect", "dice")}
        judged(tmp_path, judge.url, **names, answers=files, out=tmp_path / "scores")
        judged(tmp_path, judge.url, **names, mode="pairwise", baseline=files[1], out=tmp_path / "pairs")
    judged(tmp_path, "", answers=files, judge_url=(), judge_model=(), out=tmp_path / "checked")
    report = make_report([tmp_path / name for name in ("scores", "pairs", "checked")], None)
    assert set(report["judges"]) == {"perfect", "dice"}
    perfect, dice = (report["judges"][name]["against_checks"] for name in ("perfect", "dice"))
    assert perfect["auc"]["value"] == perfect["accuracy"]["value"] == 1
    assert dice["auc"]["low"] < 0.5 < dice["auc"]["high"]
    assert dice["accuracy"]["value"] == 0.5
    assert not report["judges"]["perfect"]["unreliable"]
    with pytest.raises(MoemixError, match="only the reference grader"):
        make_report([tmp_path / "checked"], None)


def test_the_command_says_it_in_words_and_in_json(panel, quick):
    text = CliRunner().invoke(cli, ["judge", "report", str(panel / "out")])
    assert text.exit_code == 0, text.output
    assert "first prefers answers because of their position: +0." in text.output
    made = CliRunner().invoke(cli, ["judge", "report", str(panel / "out"), "--format", "json"])
    assert set(json.loads(made.output)["judges"]) == set(JUDGES)
    missing = CliRunner().invoke(cli, ["judge", "report", str(panel)])
    assert missing.exit_code != 0


def test_a_judge_under_two_protocols_counts_twice(tmp_path):
    bench_file(tmp_path)
    answer_file(tmp_path)
    prompts = template_file(tmp_path)
    with FakeJudge(lambda payload, _: "[[5]]" if "system of" in str(payload) else "[[8]]") as judge:
        judged(tmp_path, judge.url, out=tmp_path / "strict")
        judged(tmp_path, judge.url, out=tmp_path / "faithful", protocol="faithful", judge_prompts=prompts)
    both = make_report([tmp_path / "strict", tmp_path / "faithful"], None)["judges"]
    assert {name: measures["judgments"] for name, measures in both.items()} == {
        "fake (strict)": 12,
        "fake (faithful)": 12,
    }
    assert set(make_report([tmp_path / "strict"], None)["judges"]) == {"fake"}
