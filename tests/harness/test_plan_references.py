"""A strategy that starts from another run finds it in the plan: ordered before it, made once, the recipe's own row."""

from __future__ import annotations

import pytest

from harness.errors import MoemixError
from harness.jobs import Plan
from harness.plan import build
from harness.recipe import Recipe
from harness.requests import EvalJobRequest
from harness.store import Store


def plan(folder, strategies, **more) -> Plan:
    (folder / "a.jsonl").write_text('{"prompt": "1+1", "completion": "2"}\n')
    source = {"name": "a", "parts": [{"adapter": "prompt_completion", "files": ["a.jsonl"]}], "probe_examples": 1}
    recipe = Recipe.model_validate(
        {
            "name": "mine",
            "models": [{"kind": "tiny", "name": "tiny"}],
            "data": {"sources": [source]},
            "strategies": strategies,
            **more,
        }
    )
    return build(recipe, Store(folder / "store"), folder)


def trained(plan: Plan) -> list[str]:
    return [job.title.split()[1] for job in plan.jobs if job.kind == "train"]


def test_what_is_needed_comes_first_and_once(tmp_path):
    made = plan(tmp_path, ["ref_loss", "final_static", "sheared", "doremi", "uniform", "dynamic"], seeds=[0, 1])
    order = trained(made)
    assert sorted(order) == sorted(2 * ["ref_loss", "final_static", "sheared", "doremi", "uniform", "dynamic"])
    jobs = [job.id for job in made.jobs]
    for planned in made.runs:
        if planned.config.reference:
            job = next(job for job in made.jobs if job.id == f"train:{planned.config.id}")
            assert f"train:{planned.config.reference}" in job.after
            assert jobs.index(f"train:{planned.config.reference}") < jobs.index(job.id)
            assert planned.config.reference.split("-")[1] == f"s{planned.config.seed}", "the run of the same seed"


def test_what_is_needed_and_no_row_of_the_recipe_is_run_all_the_same(tmp_path):
    assert trained(plan(tmp_path, ["ref_loss"])) == ["uniform", "ref_loss"]


def test_of_several_rows_the_one_called_like_the_strategy_is_meant(tmp_path):
    rows = [{"name": "dynamic", "label": "slow", "options": {"eta": 1}}, "final_static"]
    alone = plan(tmp_path, rows)
    assert next(r for r in alone.runs if r.config.strategy.label == "final_static").config.reference.startswith("slow-")
    both = plan(tmp_path, ["dynamic", *rows])
    chosen = next(r for r in both.runs if r.config.strategy.label == "final_static").config.reference
    assert chosen.startswith("dynamic-")
    with pytest.raises(MoemixError, match="the recipe has several"):
        plan(tmp_path, [*rows, {"name": "dynamic", "label": "fast", "options": {"eta": 100}}])


def test_a_model_may_change_the_recipe_for_itself_and_is_the_same_model(tmp_path):
    plain = {"kind": "tiny", "name": "plain"}
    other = {"kind": "tiny", "name": "other", "overrides": {"mixing.interval": 7, "strategies": ["uniform", "dynamic"]}}
    made = plan(tmp_path, ["none", "dynamic"], models=[plain, other])
    rows = [(r.model, r.config.strategy.label, r.config.mixing.interval) for r in made.runs]
    assert rows == [
        ("plain", "none", 100),
        ("plain", "dynamic", 100),
        ("other", "uniform", 100),
        ("other", "dynamic", 7),
    ]
    again = plan(tmp_path, ["dynamic"], models=[{"kind": "tiny", "name": "other"}])
    assert {r.config.model_id for r in made.runs if r.model == "other"} == {again.runs[0].config.model_id}


def test_another_reference_is_another_run(tmp_path):
    ids = [
        next(r.config.id for r in plan(tmp_path, [row, "ref_loss"]).runs if r.config.strategy.label == "ref_loss")
        for row in ("uniform", {"name": "uniform", "overrides": {"training.learning_rate": 1e-3}})
    ]
    assert ids[0] != ids[1]


def test_a_strategy_that_only_begins_with_an_observation_depends_on_how_it_is_taken(tmp_path):
    made = plan(tmp_path, ["gate_load_static", "uniform"], mixing={"probe_batches": 7})
    batches = {r.config.strategy.name: r.config.mixing.probe_batches for r in made.runs}
    assert batches == {"gate_load_static": 7, "uniform": 5}


def test_a_panel_of_judges_goes_into_every_judging_with_its_keys_and_its_test(tmp_path):
    judging = {
        "benches": ["quickstart"],
        "panel": [
            {"name": "one", "url": "http://a/v1", "key_env": "KEY_ONE", "weight": 2},
            {"name": "two", "url": "http://b/v1"},
        ],
        "require": "qualified",
    }
    made = plan(tmp_path, ["uniform", "dynamic"], judging=judging)
    requests = [job.request for job in made.jobs if job.kind == "judge"]
    assert len(requests) == 2
    for request in requests:
        assert [(judge.name, judge.url, judge.weight) for judge in request.config.judges] == [
            ("one", "http://a/v1", 2.0),
            ("two", "http://b/v1", 1.0),
        ]
        assert request.judge_key_env == ("KEY_ONE", "-")
        assert request.require == "qualified"
    assert len({request.qualification for request in requests}) == 1, "the same judges are tested once"
    for wrong in ({**judging, "judge": "http://c/v1", "judge_model": "c"}, {**judging, "panel": []}):
        with pytest.raises(ValueError, match=r"not both|needs a judge"):
            plan(tmp_path, ["uniform"], judging=wrong)


def test_programs_without_a_sandbox_are_run_by_every_evaluation_and_nothing_else_changes(tmp_path):
    made = plan(tmp_path, ["uniform", "dynamic"], evaluation={"suites": ["quickstart"]})
    unsafe = made.with_unsafe_code()
    evaluations = [job for job in unsafe.jobs if isinstance(job.request, EvalJobRequest)]
    assert len(evaluations) == 2
    assert all(job.request.unsafe_code for job in evaluations)
    assert not any(job.request.unsafe_code for job in made.jobs if isinstance(job.request, EvalJobRequest))
    assert [job for job in unsafe.jobs if job not in evaluations] == [job for job in made.jobs if job.kind != "eval"]
