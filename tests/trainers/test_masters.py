"""Training in bfloat16: float32 weights that the optimizer changes, and bfloat16 copies that compute."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.recipe import Training
from tests.trainers.small_runs import fit_request, lines, small_model, small_sources, training
from trainers.data.batches import Layout
from trainers.mixing import load_strategy
from trainers.models import architectures
from trainers.parallel.base import make_optimizer
from trainers.parallel.masters import Masters
from trainers.training.loop import _Loop, fit


def test_gradients_of_many_passes_are_summed_in_float32_and_a_step_reaches_the_copies():
    model = torch.nn.Linear(8, 8)
    model._keep_in_fp32_modules_strict = None
    masters = Masters(model)
    kept = {name: master.detach().clone() for name, master in masters.learning.items()}
    for _ in range(1000):
        model.weight.sum().mul(1e-3).backward()
    gradient = masters.learning["weight"].grad
    assert (model.weight.grad, gradient.dtype) == (None, torch.float32)
    one = float(torch.tensor(1e-3, dtype=torch.bfloat16))
    torch.testing.assert_close(
        gradient, torch.full((8, 8), 1000 * one), rtol=1e-4, atol=0
    )  # bfloat16 would stop at 0.5
    optimizer = make_optimizer(masters.learning.values(), Training(learning_rate=1e-4))
    optimizer.step()
    masters.publish()
    changed = masters.learning["weight"]
    torch.testing.assert_close(changed, kept["weight"] - 1e-4, rtol=0, atol=1e-7)  # too small for most copies to show
    assert torch.equal(model.weight, changed.bfloat16())
    assert torch.equal(masters.learning["bias"], kept["bias"])


def test_what_is_frozen_comes_back_to_the_last_bit_and_what_an_architecture_keeps_in_float32_stays_so():
    model = architectures.small_model("deepseek_v3")
    model._keep_in_fp32_modules_strict = {"lm_head"}
    model.model.embed_tokens.requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    masters = Masters(model)
    assert model.lm_head.weight.dtype == torch.float32
    assert model.model.embed_tokens.weight.dtype == model.model.norm.weight.dtype == torch.bfloat16
    whole = masters.whole(dict(model.named_parameters()))
    assert all(torch.equal(whole[name], value) for name, value in before.items())
    masters.release(model)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_step_whose_gradient_is_no_number_changes_nothing_and_is_reported(tmp_path, monkeypatch):
    sources, model = small_sources(tmp_path / "sources"), small_model()
    loop = _Loop(fit_request(model, sources, load_strategy("uniform"), tmp_path, training=training(dtype="bfloat16")))
    loop.folder.mkdir(exist_ok=True)
    masters = loop.parallel._masters
    before = {name: master.detach().clone() for name, master in masters.learning.items()}
    loop._forward_backward(loop._draw())
    next(iter(masters.learning.values())).grad[0] = math.nan
    assert math.isnan(float(loop.parallel.step(loop.losses, loop.optimizer, 1.0)))
    assert all(torch.equal(master, before[name]) for name, master in masters.learning.items())
    assert all(float(state["step"]) == 0 for state in loop.optimizer.state.values())


def test_the_trained_model_is_in_float32_with_values_that_bfloat16_has_not(tmp_path):
    sources, model = small_sources(tmp_path / "sources"), small_model()
    fit(fit_request(model, sources, load_strategy("uniform"), tmp_path, training=training(dtype="bfloat16")))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    weight = model.lm_head.weight
    assert not torch.equal(weight, weight.bfloat16().float())


@pytest.mark.parametrize("packed", [True, False])
def test_forward_passes_are_filled_up_to_a_number_of_tokens(packed):
    lengths = np.random.default_rng(0).integers(3, 64, 50)
    layout = Layout(64, packed, 1, 0, 200)
    forwards = layout.forwards(lengths)
    assert sorted(i for rows in forwards for row in rows for i in row) == list(range(50))
    sizes = [layout.computed_tokens(rows, lengths) for rows in forwards]
    assert max(sizes) <= 200
    assert min(sizes[:-1]) > 200 - 64
    assert layout.forwards(np.array([64])) == [[[0]]]
    assert len(Layout(64, packed, 1, 0, 8).forwards(lengths)) == len(Layout(64, packed, 1, 0).forwards(lengths))


def test_newer_options_are_no_part_of_a_run_that_has_none_and_compiling_needs_bfloat16():
    assert "tokens_per_forward" not in Training().model_dump()  # runs of before keep their identity
    assert Training(tokens_per_forward=4096).model_dump()["tokens_per_forward"] == 4096
    with pytest.raises(ValueError, match="`compile` needs `dtype: bfloat16`"):
        Training(compile=True)


def test_the_host_reads_nothing_from_the_device_before_the_end_of_a_step(tmp_path, monkeypatch):
    """On a GPU each read waits for all that was computed so far; tests/gpu/run.sh counts them there."""
    sources, model = small_sources(tmp_path / "sources"), architectures.small_model("llama_moe")
    plan = training(rows_per_forward=1, batch_examples=16)
    loop = _Loop(fit_request(model, sources, load_strategy("uniform"), tmp_path, training=plan))
    batch = loop._draw()
    assert len(batch.all_forwards) > 2
    # a GPU has a kernel in its place
    monkeypatch.setattr("trainers.models.packed.varlen_by_example", lambda query, *_, **__: query)
    reads = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if any(word in str(function) for word in ("_local_scalar_dense", "nonzero")):
                reads.append(function)
            return function(*args, **(kwargs or {}))

    with Watch():
        found = loop._forward_backward(batch)
        loop._learn()
    assert (len(found.each_N), reads) == (int(batch.tally.targets.sum()), [])


def test_compiled_parts_train_as_others_and_their_routers_are_still_counted(tmp_path, monkeypatch):
    """Captured and differentiated as on a GPU, without the kernels, whose compiler takes half a minute here."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    sources, results = small_sources(tmp_path / "sources"), []
    for compiled in (False, True):
        plan = training(dtype="bfloat16", compile=compiled, steps=4)
        folder = tmp_path / str(compiled)
        folder.mkdir()
        model = architectures.small_model("llama_moe", num_hidden_layers=2, size_experts=[[16] * 6] * 2)
        fit(fit_request(model, sources, load_strategy("dynamic"), folder, training=plan))
        assert ("forward" in vars(model.model.layers[0].mlp.experts)) == compiled
        results.append([line["loss"] for line in lines(folder / "metrics.jsonl", without="seconds")])
        results[-1] += [w for line in lines(folder / "mixture.jsonl", without="cost") for w in line["after"]]
    np.testing.assert_allclose(results[1], results[0], rtol=2e-2)


def test_trial_steps_in_bfloat16_are_taken_back_to_the_last_bit(tmp_path):
    sources, model = small_sources(tmp_path / "sources"), small_model()
    loop = _Loop(fit_request(model, sources, load_strategy("uniform"), tmp_path, training=training(dtype="bfloat16")))

    def held():
        return [tensor.detach().clone() for tensor in loop.parallel.changing(loop.losses)]

    before = held()
    with loop.trials(1, [[sources[0].train[i] for i in range(4)]]):
        assert not all(map(torch.equal, held(), before))
    assert all(map(torch.equal, held(), before))
