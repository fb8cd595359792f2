"""Trial steps are taken back to the last bit, and show what a step would have done."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from small_runs import fit_request, lines, mixing, small_model, small_sources, training

from trainers.mixing import MixingStrategy, load_strategy
from trainers.signals.losses import example_losses
from trainers.training.loop import _Loop, fit


@dataclasses.dataclass(frozen=True)
class Trying(MixingStrategy):
    """Tries steps on every source, and changes nothing."""

    name = "trying"
    signals = frozenset({"look_ahead", "trial_fall"})
    at_start = frozenset({"look_ahead"})

    def start(self, state, seen):
        return state

    def update(self, state, seen):
        return state


def loop(folder, sources, rule, dropout=0.1, **changes):
    folder.mkdir()
    model = small_model(attention_dropout=dropout)
    plan = training(**{"steps": 6, "batch_examples": 4, "weight_decay": 0.1} | changes)
    return _Loop(fit_request(model, sources, rule, folder, training=plan, mixing=mixing()))


def everything(run: _Loop) -> dict[str, object]:
    """All that a step may change, copied."""
    optimizer = {
        f"{number}/{name}": value.clone()
        for number, state in enumerate(run.optimizer.state.values())
        for name, value in state.items()
    }
    source_ids, indices = run._draw().source_ids, [e.input_ids.tobytes() for e in run._draw().examples]
    return {
        **{name: tensor.detach().clone() for name, tensor in run.model.state_dict().items()},
        **optimizer,
        "moments": len(run.optimizer.state),
        "rates": [group["lr"] for group in run.optimizer.param_groups],
        "gradients": [parameter.grad for parameter in run.model.parameters()],
        "training": run.losses.training,
        "random": torch.get_rng_state(),
        "draws": (source_ids.tobytes(), indices),
        "history": [(draw, weights.tobytes()) for draw, weights in run.mixture.history],
        "seen": run.seen.arrays()["tokens"].tobytes(),
    }


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


@pytest.mark.parametrize("steps", [0, 3], ids=["before the first step", "after three steps"])
def test_weights_optimizer_draws_and_random_state_are_bit_identical_after_a_trial(tmp_path, steps):
    sources = small_sources(tmp_path / "sources")
    run = loop(tmp_path / "run", sources, load_strategy("uniform"))
    run._resume()
    run.losses.train()
    interrupts = type("None", (), {"pending": False})()
    for _ in range(steps):
        run._advance(interrupts, None)
    before = everything(run)
    batches = [[sources[1].train[i] for i in range(4)], [sources[1].train[i] for i in range(4, 7)]]
    with run.trials(steps, batches):
        changed = [name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])]
        assert len(changed) > 10, "the trial trained"
    assert_same(before, everything(run))
    with pytest.raises(RuntimeError, match="a cosmic ray"), run.trials(steps, batches):
        raise RuntimeError("a cosmic ray")
    assert_same(before, everything(run))


def test_a_training_with_trials_is_the_training_without_them(tmp_path):
    sources = small_sources(tmp_path / "sources")
    trained = {}
    for name, rule in {"trying": Trying(), "uniform": load_strategy("uniform")}.items():
        (tmp_path / name).mkdir()
        model = small_model("llama_moe", num_experts=4, num_selects=2, size_experts=[[12] * 4] * 2)
        plan = training(gate_noise=True, balance_loss="paper")  # both draw or watch in every forward pass
        fit(fit_request(model, sources, rule, tmp_path / name, training=plan))
        trained[name] = model
    for one, other in zip(trained["trying"].parameters(), trained["uniform"].parameters(), strict=True):
        assert torch.equal(one, other)
    one, other = (lines(tmp_path / name / "metrics.jsonl", without="seconds") for name in trained)
    assert one == other
    trace = lines(tmp_path / "trying" / "mixture.jsonl", without="cost")
    assert [line["step"] for line in trace] == [0, 2, 4]
    assert np.shape(trace[1]["observation"]["trial_fall"]) == (3, 3)


def test_looking_ahead_shows_what_a_step_by_hand_does(tmp_path):
    sources = small_sources(tmp_path / "sources")
    run = loop(tmp_path / "run", sources, Trying(), dropout=0.0, warmup=0.0, schedule="constant", weight_decay=0.0)
    run._resume()
    signal = run.mixture._signals["look_ahead"]
    found, context = signal.observe(0), signal._context
    for k in range(3):
        (batch,) = context.trial_batches(k, 0, 1)
        other = copy.deepcopy(context.losses)
        before, targets = example_losses(other, batch, context.layout, context.ranks)
        optimizer = torch.optim.AdamW(other.parameters(), lr=run.training.learning_rate, weight_decay=0.0)
        rows = context.layout.forwards(np.array([len(e.input_ids) for e in batch]))
        for forward in context.layout.shares(rows, batch, [0] * len(batch), 0, 1, context.device):
            (other(forward).total / targets.sum()).backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
        after, _ = example_losses(other, batch, context.layout, context.ranks)
        assert found[k] == pytest.approx(np.mean((before - after) / before), rel=1e-3)
        assert found[k] > 0
