"""The loop is reproducible to the bit, goes on where it stopped, and says plainly why it cannot."""

from __future__ import annotations

import itertools
import json
import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_runs import fit_request, lines, mixing, small_model, small_source, small_sources, training

from harness.errors import MoemixError, StageError
from harness.files import hash_tree
from trainers.mixing import MixingStrategy, MixtureState, load_strategy
from trainers.mixing.dynamic import Dynamic
from trainers.training.loop import fit, learning_rate
from trainers.training.state import States


@dataclass(frozen=True)
class Crashing(Dynamic):
    """``dynamic``, until the process breaks down in the middle of an update."""

    crash_at: int = 0

    def update(self, state, seen):
        if seen.step == self.crash_at:
            raise RuntimeError("a cosmic ray")
        return super().update(state, seen)


@dataclass(frozen=True)
class Interrupted(Dynamic):
    """``dynamic``, until somebody asks the process to stop."""

    signal: int = 0
    stop_at: int = 0

    def update(self, state, seen):
        if seen.step == self.stop_at:
            os.kill(os.getpid(), self.signal)
        return super().update(state, seen)


def run(folder, sources, strategy="dynamic", *, model=None, mix=None, seed=0, **changes):
    """Fit a fresh small model; the model, and the result."""
    folder.mkdir(exist_ok=True)
    model = model or small_model(attention_dropout=0.1)
    strategy = load_strategy(strategy) if isinstance(strategy, str) else strategy
    plan = {"training": training(**changes), "mixing": mixing(**mix or {}), "seed": seed}
    result = fit(fit_request(model, sources, strategy, folder, **plan))
    return model, result


def assert_same_run(one, other, folder_one, folder_other):
    for (name, expected), found in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(expected, found), name
    assert lines(folder_one / "mixture.jsonl", without="cost") == lines(folder_other / "mixture.jsonl", without="cost")
    found = lines(folder_other / "metrics.jsonl", without="seconds")
    assert lines(folder_one / "metrics.jsonl", without="seconds") == found
    assert hash_tree(folder_one / "adapter") == hash_tree(folder_other / "adapter")


SETTINGS = {
    "online": {},
    "probe": {"mix": {"gate_load": "probe"}},
    "few tokens": {"mix": {"min_tokens": 150}},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "bfloat16": {"dtype": "bfloat16"},
    "padded, several rows": {"pack": False, "rows_per_forward": 3},
    "balance loss, frozen router": {"balance_loss": "model", "freeze": "router"},
    "adapters, the paper's balance loss": {"lora": {"r": 4, "dropout": 0.1, "keep": True}, "balance_loss": "paper"},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_run_that_broke_down_goes_on_to_the_same_bits(tmp_path, setting):
    sources = small_sources(tmp_path / "sources")
    setting = {"steps": 10, "save_every": 3, "log_every": 2, **setting}
    mix = {"interval": 4, **setting.pop("mix", {})}
    whole, result = run(tmp_path / "whole", sources, mix=mix, **setting)
    with pytest.raises(StageError, match="a cosmic ray"):
        run(tmp_path / "broken", sources, Crashing(crash_at=8), mix=mix, **setting)
    assert States(tmp_path / "broken" / "state").steps() == [3, 6]
    resumed, again = run(tmp_path / "broken", sources, mix=mix, **setting)
    assert_same_run(whole, resumed, tmp_path / "whole", tmp_path / "broken")
    assert (tmp_path / "broken" / "adapter" / "adapter_model.safetensors").is_file() == ("lora" in setting)
    timing = {"seconds", "mixing_seconds", "peak_memory_bytes"}
    assert again.model_dump(exclude=timing) == result.model_dump(exclude=timing)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_run_that_is_asked_to_stop_writes_a_state_and_goes_on_to_the_same_bits(tmp_path, number, caplog):
    sources = small_sources(tmp_path / "sources")
    whole, _ = run(tmp_path / "whole", sources)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", sources, Interrupted(signal=number, stop_at=2))
    assert signal.getsignal(number) is before
    assert States(tmp_path / "stopped" / "state").steps() == [3]  # the signal came with the update after step 2
    resumed, _ = run(tmp_path / "stopped", sources)
    assert "resuming from step 3" in caplog.text
    assert_same_run(whole, resumed, tmp_path / "whole", tmp_path / "stopped")


def test_a_damaged_newest_state_costs_steps_and_no_bits(tmp_path, caplog):
    sources = small_sources(tmp_path / "sources")
    whole, _ = run(tmp_path / "whole", sources, steps=8)
    with pytest.raises(StageError, match="a cosmic ray"):
        run(tmp_path / "broken", sources, Crashing(crash_at=6), steps=8, save_every=2)
    newest = tmp_path / "broken" / "state" / "step-00000004" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    resumed, _ = run(tmp_path / "broken", sources, steps=8, save_every=2)
    said = caplog.text
    assert "step-00000004 is damaged" in said
    assert "resuming from step 2" in said
    assert_same_run(whole, resumed, tmp_path / "whole", tmp_path / "broken")


def test_another_seed_is_another_run(tmp_path):
    sources = small_sources(tmp_path / "sources")
    run(tmp_path / "zero", sources, seed=0)
    run(tmp_path / "one", sources, seed=1)
    first, other = (lines(tmp_path / name / "metrics.jsonl", without="seconds")[0] for name in ("zero", "one"))
    assert first["tokens"] != other["tokens"]


def test_training_lowers_the_loss_and_grouping_rows_into_forwards_changes_nothing_but_rounding(tmp_path):
    sources = small_sources(tmp_path / "sources")
    calm = {"attention_dropout": 0.0}
    _one, result = run(tmp_path / "one", sources, "uniform", model=small_model(**calm), steps=12)
    _many, _ = run(tmp_path / "many", sources, "uniform", model=small_model(**calm), steps=12, rows_per_forward=4)
    losses = [line["loss"] for line in lines(tmp_path / "one" / "metrics.jsonl", without="seconds")]
    assert losses[-1] < losses[0] - 0.5
    grouped = [line["loss"] for line in lines(tmp_path / "many" / "metrics.jsonl", without="seconds")]
    np.testing.assert_allclose(grouped, losses, rtol=1e-4)
    assert result.final_loss == losses[-1]


def test_the_trace_and_the_totals_agree_with_each_other(tmp_path):
    sources = small_sources(tmp_path / "sources")
    _, result = run(tmp_path / "run", sources, steps=9, mix={"interval": 3})
    trace = [json.loads(line) for line in (tmp_path / "run" / "mixture.jsonl").read_text().splitlines()]
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in trace] == [0, 3, 6], (
        "no update after the last step: nothing would be drawn with it"
    )
    assert trace[0]["before"] == trace[0]["after"] == [1 / 3] * 3
    for earlier, later in itertools.pairwise(trace):
        assert later["before"] == earlier["after"]
        assert sum(later["realised_examples"]) == 3 * 8
        assert sum(later["realised_tokens"]) == sum(m["tokens"] for m in metrics[earlier["step"] : later["step"]])
        load_KLE = np.array(later["observation"]["gate_load"])
        np.testing.assert_array_equal(load_KLE.sum(axis=2)[:, 0], 2 * np.array(later["realised_tokens"]))
        assert later["cost"].keys() == {"gate_load", "update"}
    assert trace[-1]["after"] != trace[-1]["before"]
    assert result.final_weights == dict(zip("abc", trace[-1]["after"], strict=True))
    assert result.steps == 9
    assert result.examples == sum(result.realised_examples.values()) == 9 * 8
    assert result.tokens == sum(result.realised_tokens.values()) == sum(m["tokens"] for m in metrics)
    assert result.target_tokens == sum(m["target_tokens"] for m in metrics)
    assert result.epochs["c"] == result.realised_examples["c"] / 11
    assert result.seconds >= result.mixing_seconds > 0
    for line in metrics:
        assert line["tokens"] <= line["computed_tokens"]
        assert (
            min(v for v in line["source_loss"].values() if v)
            <= line["loss"]
            <= max(v for v in line["source_loss"].values() if v)
        )


def test_a_static_strategy_measures_nothing_and_its_trace_is_its_weights(tmp_path):
    sources = small_sources(tmp_path / "sources")
    _, result = run(tmp_path / "run", sources, "datasize", model=small_model("llama"))
    trace = lines(tmp_path / "run" / "mixture.jsonl", without="cost")
    assert [line["step"] for line in trace] == [0]
    np.testing.assert_allclose(trace[0]["after"], np.array([40, 40, 11]) / 91)
    assert result.mixing_seconds == 0


def test_a_model_without_moe_layers_is_refused_before_training(tmp_path):
    with pytest.raises(MoemixError, match="no MoE layers"):
        run(tmp_path / "run", small_sources(tmp_path / "sources"), model=small_model("llama"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_two_sources_under_dynamic_get_the_reason_why_nothing_will_change(tmp_path, caplog):
    _, result = run(tmp_path / "run", small_sources(tmp_path / "sources")[:2])
    assert "give at least three sources" in caplog.text
    assert result.final_weights == {"a": 0.5, "b": 0.5}


def test_a_loss_that_is_no_number_stops_training_and_names_step_and_source(tmp_path):
    model = small_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[35] = torch.nan  # a token of source b alone
    with pytest.raises(StageError, match=r"loss of step \d+ .*worst source: b\n.*no state had been written"):
        run(tmp_path / "run", small_sources(tmp_path / "sources"), model=model)


def test_a_run_that_diverges_keeps_its_last_good_state(tmp_path):
    sources = small_sources(tmp_path / "sources")
    changes = {"steps": 30, "save_every": 1, "learning_rate": 1e15, "max_grad_norm": None, "warmup": 0.9}
    with pytest.raises(StageError, match=r"of step (\d+) is not a finite number") as failure:
        run(tmp_path / "run", sources, **changes)
    newest = States(tmp_path / "run" / "state").newest()
    assert f"of step {newest.step + 1} " in str(failure.value)
    assert f"the state of step {newest.step} is kept" in str(failure.value)
    assert all(tensor.isfinite().all() for tensor in newest.model.values())


def test_a_source_that_may_not_repeat_ends_training_with_a_note(tmp_path, caplog):
    sources = small_sources(tmp_path / "sources")
    _, result = run(tmp_path / "run", sources, "uniform", steps=50, exhausted="stop")
    assert 0 < result.steps < 50
    assert result.realised_examples["c"] <= 11
    assert "source c is used up" in caplog.text


@pytest.mark.parametrize(("which", "kept"), [("none", set()), ("router", {"gate.weight"}), ("paper", {"gate.weight"})])
def test_frozen_parameters_do_not_change_by_one_bit_and_all_others_do(tmp_path, which, kept):
    model, before = small_model(), small_model()
    run(tmp_path / "run", small_sources(tmp_path / "sources"), model=model, freeze=which)
    for (name, learnt), original in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(learnt, original) == any(part in name for part in kept), name


def test_the_balance_loss_moves_the_routers_and_not_the_reported_loss(tmp_path):
    sources = small_sources(tmp_path / "sources")
    models = [
        run(tmp_path / name, sources, "uniform", model=small_model(router_aux_loss_coef=1.0), balance_loss=name)[0]
        for name in ("none", "model")
    ]
    first = [lines(tmp_path / name / "metrics.jsonl", without="seconds")[0]["loss"] for name in ("none", "model")]
    assert first[0] == first[1]
    gates = [model.model.layers[0].mlp.gate.weight for model in models]
    assert not torch.equal(*gates)


@dataclass(frozen=True)
class Collapsing(MixingStrategy):
    name = "collapsing"

    def init(self, sources):
        return MixtureState(np.full(len(sources.names), 1 / len(sources.names)))

    def update(self, state, seen):
        return MixtureState(state.weights * np.nan)


def test_weights_that_are_no_distribution_stop_training_and_name_the_strategy(tmp_path):
    with pytest.raises(StageError, match="strategy 'collapsing' returned weights that are not finite"):
        run(tmp_path / "run", small_sources(tmp_path / "sources"), Collapsing())


def test_a_state_of_other_sources_is_not_taken_up(tmp_path):
    sources = small_sources(tmp_path / "sources")
    with pytest.raises(StageError, match="a cosmic ray"):
        run(tmp_path / "run", sources, Crashing(crash_at=4), save_every=2)
    other = (*sources[:2], small_source(tmp_path / "other", "c", range(1, 9)))
    with pytest.raises(StageError, match="does not belong"):
        run(tmp_path / "run", other, seed=3, save_every=2)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_warms_up_and_falls_as_scheduled(schedule):
    plan = training(steps=100, warmup=0.1, learning_rate=1.0, schedule=schedule)
    rates = [learning_rate(plan, step) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    middle, last = {"cosine": (0.5, 3e-4), "linear": (0.5, 1 / 90), "constant": (1.0, 1.0)}[schedule]
    assert rates[55] == pytest.approx(middle)
    assert rates[99] == pytest.approx(last, rel=0.02)
