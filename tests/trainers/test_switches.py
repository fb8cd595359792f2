"""The paper's switches act in training only, what is frozen stays, and adapters leave an ordinary checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from small_runs import fit_request, lines, small_model, small_sources, training
from transformers import AutoModelForCausalLM

from harness.errors import MoemixError
from harness.recipe import LoRA
from trainers.data.batches import GlobalBatch, Layout
from trainers.mixing import load_strategy
from trainers.models import architectures
from trainers.models.loss import TargetLosses
from trainers.models.routers import RouterObserver
from trainers.models.trainable import _expert_tensors, add_adapters, fixed_biases, freeze, merge_adapters
from trainers.training.loop import fit

PAPER = {"model_type": "llama_moe", "num_experts": 4, "num_selects": 2}


def run(folder, sources, model, **changes):
    folder.mkdir()
    fit(fit_request(model, sources, load_strategy("uniform"), folder, training=training(**changes)))
    return model


def same_model(*, noise: bool):
    """The same weights, with and without those of the noise."""
    model = small_model(**PAPER, gate_add_noise=noise)
    model.load_state_dict(small_model(**PAPER).state_dict(), strict=False)
    return model


def test_the_papers_balance_loss_moves_routers_and_not_the_reported_loss(tmp_path):
    sources = small_sources(tmp_path / "sources")
    models = [
        run(tmp_path / name, sources, small_model(**PAPER, gate_add_noise=False), balance_loss=name)
        for name in ("none", "paper")
    ]
    first = [lines(tmp_path / name / "metrics.jsonl", without="seconds")[0]["loss"] for name in ("none", "paper")]
    assert first[0] == first[1]
    assert not torch.equal(*(model.model.layers[0].mlp.gate.gate_network[0].weight for model in models))


def test_noise_and_balance_loss_act_in_training_only(tmp_path):
    model, sources = small_model(**PAPER), small_sources(tmp_path)
    batch = GlobalBatch.of(sources, np.arange(3), np.zeros(3, dtype=np.int64), Layout(128, True, 9, 0))
    forward = next(iter(batch.forwards(0, 1, torch.device("cpu"))))
    losses = TargetLosses(model, balance="paper")
    losses.train()
    noisy = [losses(forward) for _ in range(2)]
    assert noisy[0].balance > 0
    assert noisy[0].total != noisy[1].total
    losses.eval()
    quiet = [losses(forward) for _ in range(2)]
    assert quiet[0].balance == quiet[1].balance == 0
    assert quiet[0].total == quiet[1].total


def test_gate_noise_can_be_switched_off_and_asked_for_only_where_there_is_some(tmp_path):
    sources = small_sources(tmp_path / "sources")
    configured, on, off, without = (
        run(tmp_path / name, sources, same_model(noise=name != "without"), **changes)
        for name, changes in (
            ("configured", {}),
            ("on", {"gate_noise": True}),
            ("off", {"gate_noise": False}),
            ("without", {}),
        )
    )
    for name, expected in without.named_parameters():
        assert torch.equal(off.get_parameter(name), expected), name
    for name, expected in configured.named_parameters():
        assert torch.equal(on.get_parameter(name), expected), name
    assert not torch.equal(on.lm_head.weight, off.lm_head.weight)
    with pytest.raises(MoemixError, match="has no gate noise"):
        run(tmp_path / "none", sources, small_model(), gate_noise=True)


@pytest.mark.parametrize("which", ["router", "paper"])
def test_under_adapters_all_but_their_layers_stays_to_the_bit(tmp_path, which):
    before = small_model(**PAPER)
    lora = {"r": 4, "targets": ["q_proj", "v_proj"]}
    model = run(tmp_path / "run", small_sources(tmp_path / "sources"), small_model(**PAPER), freeze=which, lora=lora)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in before.named_parameters()]
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before.get_parameter(name))
        assert moved == ("q_proj" in name or "v_proj" in name), name
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name


@torch.no_grad()
def test_merging_adapters_keeps_what_the_model_computes():
    model, ids = small_model(**PAPER).eval(), torch.arange(1, 40)[None]
    plain = model(ids).logits
    names = add_adapters(model, LoRA(r=4), "router", seed=0)
    assert not any("gate_network" in name for name in names)
    assert torch.equal(model(ids).logits, plain), "adapters begin by changing nothing"
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted = model(ids).logits
    assert (adapted - plain).abs().max() > 0.1
    merge_adapters(model)
    torch.testing.assert_close(model(ids).logits, adapted, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name, _ in model.named_modules())


@pytest.mark.parametrize("kind", ["deepseek_v3", "ernie4_5_moe", "mixtral", "gpt_oss", "llama4_text", "jetmoe"])
@pytest.mark.parametrize("experts", ["none", "shared", "all"])
def test_adapters_of_experts_learn_are_merged_and_saved(tmp_path, kind, experts, caplog):
    caplog.set_level("INFO", "moemix.training")
    before = architectures.small_model(kind, scale=None)
    lora = {"r": 2, "experts": experts}
    sources = small_sources(tmp_path / "sources")
    model = run(tmp_path / "run", sources, architectures.small_model(kind, scale=None), lora=lora, steps=2)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert dict(model.named_parameters()).keys() == dict(before.named_parameters()).keys()
    routed = set(_expert_tensors(before))
    assert routed
    assert routed <= moved if experts == "all" else not routed & moved
    assert any("shared" in name for name in moved) == (
        experts != "none" and kind in ("deepseek_v3", "ernie4_5_moe", "llama4_text")
    )
    assert not any("router" in name or name.endswith("gate.weight") for name in moved)
    assert "adapters reach" in caplog.text
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        ("mixtral", {"experts": "none"}),
        ("mixtral", {"experts": "all"}),
        ("deepseek_v3", {"experts": "shared"}),  # peft takes the names of its layers for those of experts
        ("llama_moe", {"experts": "all"}),
    ],
)
def test_peft_loads_kept_adapters_into_the_base_model_and_computes_what_the_merged_one_does(tmp_path, kind, lora):
    model, ids = architectures.small_model(kind), torch.arange(1, 40)[None]
    model.save_pretrained(tmp_path / "base")
    sources = small_sources(tmp_path / "sources")
    run(tmp_path / "run", sources, model, lora={"r": 2, "keep": True, **lora}, steps=2)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        plain, merged = base(ids).logits, model.eval()(ids).logits
        assert (merged - plain).abs().max() > 1e-2
        adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")(ids).logits
    torch.testing.assert_close(adapted, merged, rtol=1e-3, atol=1e-3)


def test_adapters_that_peft_could_not_load_are_refused_before_training():
    model = architectures.small_model("laguna")
    with pytest.raises(
        MoemixError, match=r"could not load these adapters of Laguna[\s\S]*shared_experts[\s\S]*keep=false"
    ):
        add_adapters(model, LoRA(keep=True), "none", seed=0)
    add_adapters(architectures.small_model("laguna"), LoRA(keep=True, experts="none"), "none", seed=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["deepseek_v3", "mixtral", "gpt_oss", "jetmoe", "llama_moe", "moduleformer"])
def test_merged_adapters_of_experts_compute_what_the_adapters_did_and_are_counted_alike(kind):
    model, ids = architectures.small_model(kind), torch.arange(1, 40)[None]
    plain, observer = model(ids).logits, RouterObserver(model)
    add_adapters(model, LoRA(r=2, experts="all"), "router", seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapting = RouterObserver(model)
    with adapting.count(torch.zeros_like(ids), 1):
        adapted = model(ids).logits
    assert (adapted - plain).abs().max() > 1e-3
    merge_adapters(model)
    with observer.count(torch.zeros_like(ids), 1):
        merged = model(ids).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(observer.take(), adapting.take())


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "llama4_text", "qwen3_moe", "granitemoeshared"])
def test_the_papers_freezing_keeps_the_gate_half_of_fused_experts_and_trains_the_up_half(tmp_path, kind):
    before = architectures.small_model(kind, scale=None)
    sources = small_sources(tmp_path / "sources")
    model = run(tmp_path / "run", sources, architectures.small_model(kind, scale=None), freeze="paper", steps=2)
    halves = 0
    for name, parameter in model.named_parameters():
        if "gate_up_proj" not in name or "bias" in name:
            continue
        old, halves = before.get_parameter(name), halves + 1
        axis = 2 if kind in ("gpt_oss", "llama4_text") else 1
        size = parameter.shape[axis]
        gate = range(0, size, 2) if kind == "gpt_oss" else range(size // 2)
        up = [i for i in range(size) if i not in gate]
        assert torch.equal(parameter.index_select(axis, torch.tensor(gate)), old.index_select(axis, torch.tensor(gate)))
        assert not torch.equal(*(t.index_select(axis, torch.tensor(up)) for t in (parameter, old)))
    assert halves
    with pytest.raises(MoemixError, match="weight decay would change the frozen half"):
        run(tmp_path / "decay", sources, before, freeze="paper", weight_decay=0.1)


def test_freezing_leaves_what_an_architecture_holds_fixed():
    model = architectures.small_model("ernie4_5_moe")
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert fixed
    freeze(model, "none")
    assert fixed == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert fixed_biases(model)


def test_adapters_for_what_is_not_there_are_refused():
    with pytest.raises(MoemixError, match=r"no linear layer 'q_prj'[\s\S]*did you mean 'q_proj'"):
        add_adapters(small_model(), LoRA(targets=("q_prj",)), "none", seed=0)
    with pytest.raises(MoemixError, match=r"DbrxForCausalLM has no tensors[\s\S]*experts=shared"):
        add_adapters(architectures.small_model("dbrx"), LoRA(experts="all"), "none", seed=0)
    with pytest.raises(MoemixError, match="no dropout"):
        add_adapters(small_model(), LoRA(experts="all", dropout=0.1), "none", seed=0)
    with pytest.raises(MoemixError, match="peft"), pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "peft", None)
        add_adapters(small_model(), LoRA(), "none", seed=0)
