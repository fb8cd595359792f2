"""``moemix power``: the variances, the accuracies and the costs are those of the data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from run_records import Bench

from harness.records import Stage
from harness.statistics.estimates import Part, estimate
from harness.statistics.power import accuracy_of_seeds, variances, winner, worth
from leaderboards.cli import power

HOUR = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T01:00:00+00:00", "status": "done"}


def scores(seed: int, share: float, spread: float) -> list[float]:
    generator = np.random.default_rng(seed)
    return [float(right) for right in generator.random(200) < share + spread * generator.normal()]


@pytest.fixture
def ran(bench: Bench) -> Bench:
    """Three strategies over four seeds: one is far ahead in words, and seeds decide nothing there."""
    for at, (label, share) in enumerate({"uniform": 0.4, "dynamic": 0.7, "datasize": 0.3}.items()):
        for seed in range(4):
            tasks = {"words": scores(100 * at + seed, share, 0.0), "code": scores(900 + 10 * at + seed, 0.5, 0.15)}
            stages = {"train": Stage(**HOUR), "eval:kr": Stage(**HOUR)}
            bench.run(label, tasks, seed=seed, stages=stages)
    return bench


def asked(ran: Bench, *more: str) -> str:
    done = CliRunner().invoke(power, [str(ran.runs[0].folder.parent), *more])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_variances_of_a_world_are_found():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(60):
        noise = 0.1 * generator.normal(size=(6, 1)) + 0.5 * generator.normal(size=200)
        found.append(estimate([Part(1.0, noise + generator.normal(size=(6, 200)), np.arange(200))]))
    here = variances(found)
    assert here.seed == pytest.approx(0.01, rel=0.35)
    assert here.question == pytest.approx(0.25 / 200, rel=0.15)
    assert here.rest == pytest.approx(1 / 200, rel=0.1)
    assert here.error(6)[0] == pytest.approx(np.sqrt(np.mean([one.se**2 for one in found])), rel=0.05)


def test_more_seeds_and_more_questions_detect_less_and_the_correction_costs():
    here = variances([estimate([Part(1.0, np.random.default_rng(1).normal(size=(4, 50)), np.arange(50))])])
    assert here.detectable(8) < here.detectable(4)
    assert here.detectable(4, 4.0) < here.detectable(4)
    assert here.detectable(4, comparisons=6) > here.detectable(4)
    enough = here.seeds_for(here.detectable(7))
    assert enough == 7
    assert worth(1.96, 1e6) == pytest.approx(1.0, abs=1e-3)


def test_the_winner_of_few_seeds_is_counted_over_all_choices_of_them():
    table = np.array([[1.0, 1.0, 0.0], [0.5, 0.5, 0.6]])
    assert winner(table) == 0
    assert accuracy_of_seeds(table, 1, 0) == pytest.approx(2 / 3)
    assert accuracy_of_seeds(table, 2, 0) == pytest.approx(1 / 3)


def test_a_report_names_variances_winners_seeds_and_hours(ran, tmp_path):
    document = json.loads(asked(ran, "--format", "json"))
    [table] = document["tables"]
    assert table["seeds"] == 4
    assert (table["train_hours"], table["eval_hours"]) == (3.0, 3.0)
    columns = {column["name"]: column for column in table["columns"]}
    words, code = columns["words"], columns["code"]
    assert words["snr"] > 5 > code["snr"]
    assert words["by_seeds"]["1"] == 1.0 > code["by_seeds"]["1"]
    assert code["score"]["seed"] > 10 * words["score"]["seed"]
    [nine] = [hours for seeds, share, _, hours in words["detectable"] if (seeds, share) == (8, 1.0)]
    assert nine == 8 * 6.0
    assert words["seeds_for_signal"] < (code["seeds_for_signal"] or 201)


def test_the_text_says_how_many_seeds_and_the_figure_is_drawn(ran, tmp_path):
    text = asked(ran, "--figure", str(tmp_path / "power.png"))
    assert "signal/noise" in text
    assert "One more seed of these rows takes 6.00 h" in text
    assert (tmp_path / "power.png").stat().st_size > 5000


def test_one_seed_has_nothing_to_say_and_says_why(bench, answers):
    for label in ("uniform", "dynamic"):
        bench.run(label, {"words": answers(1, 100, 0.5)})
    assert "two trained rows with two seeds in common; there are 2 rows with 1" in asked(bench)


def test_a_wild_row_is_named_and_left_out_of_the_forecast(bench: Bench):
    for at, label in enumerate(("uniform", "dynamic", "datasize", "random", "sequential")):
        for seed in range(6):
            spread = 0.4 if label == "sequential" else 0.0
            stages = {"train": Stage(**HOUR), "eval:kr": Stage(**HOUR)}
            words = scores(100 * at + seed, 0.3 + 0.02 * at, spread)
            bench.run(label, {"words": words, "code": words}, seed=seed, stages=stages)
    (found,) = json.loads(asked(bench, "--format", "json"))["tables"]
    assert found["left_out"] == ["sequential"]
    assert "leave out sequential" in asked(bench)
    (words,) = (column for column in found["columns"] if column["name"] == "words")
    assert words["pair"]["seed"] < 0.2 * words["score"]["seed"]


def test_rows_with_fewer_seeds_are_named_and_cost_the_others_none_of_theirs(ran: Bench):
    for seed in range(2):
        stages = {"train": Stage(**HOUR), "eval:kr": Stage(**HOUR)}
        ran.run("random", {"words": scores(seed, 0.4, 0.0), "code": scores(seed, 0.5, 0.0)}, seed=seed, stages=stages)
    (found,) = json.loads(asked(ran, "--format", "json"))["tables"]
    assert (found["seeds"], found["few"], found["train_hours"]) == (4, ["random"], 3.0)
    assert "Left out: random, which lack some of these seeds." in asked(ran)
