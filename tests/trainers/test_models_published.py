"""The paper's two architectures are what the published code computes, and live in today's transformers like its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published_models import Published, write_weights
from safetensors.torch import load_file
from small_runs import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from harness.errors import MoemixError
from harness.memory import SHAPES
from trainers.models.checkpoints import load_checkpoint
from trainers.models.packing import prepare_packing
from trainers.models.routers import RouterObserver
from trainers.models.trainable import freeze

FIXTURES = ["llama_moe", "molm"]
PATHS = [("llama_moe", "eager"), ("llama_moe", "sdpa"), ("molm", "eager")]


@pytest.fixture
def fixture(request: pytest.FixtureRequest) -> Published:
    published: Published = request.getfixturevalue(f"{request.param}_fixture")
    return published


@pytest.fixture
def folder(fixture: Published, tmp_path: Path) -> Path:
    return fixture.write(tmp_path / "published", shards=3)


def load(folder: Path, attention: str = "eager") -> Any:
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=attention, dtype=torch.float32, output_loading_info=True
    )
    assert not any(found.values()), found
    return model.eval()


def gate_load(model: Any, sources: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
    """Of the last layer, summed over sources; -1 is padding."""
    observer = RouterObserver(model)
    with torch.no_grad(), observer.count(sources, 1):
        model(**inputs, use_cache=False)
    return torch.from_numpy(observer.take()[0, -1])


@pytest.mark.parametrize(("fixture", "attention"), PATHS, indirect=["fixture"])
def test_logits_and_gate_load_of_the_published_code_are_reproduced(fixture: Published, folder: Path, attention: str):
    model = load(folder, attention)
    with torch.no_grad():
        logits = model(input_ids=fixture.ids, attention_mask=fixture.mask, use_cache=False).logits
    torch.testing.assert_close(logits, fixture.logits, atol=1e-4, rtol=0)
    everything = torch.zeros_like(fixture.ids)
    counted = gate_load(model, everything, input_ids=fixture.ids, attention_mask=fixture.mask)
    assert torch.equal(counted, fixture.gate_load.long())


@pytest.mark.parametrize(("fixture", "attention"), PATHS, indirect=["fixture"])
def test_padding_is_left_out_of_the_gate_load_on_every_attention_path(fixture: Published, folder: Path, attention: str):
    model = load(folder, attention)
    short = fixture.ids[1:, :8]
    alone = gate_load(model, torch.zeros_like(short), input_ids=short)
    mask = torch.tensor([[1] * 12, [1] * 8 + [0] * 4])
    sources = torch.where(mask.bool(), torch.tensor([[-1], [0]]), -1)  # the first row is not counted at all
    padded = gate_load(model, sources, input_ids=fixture.ids, attention_mask=mask)
    assert torch.equal(padded, alone)
    assert int(alone.sum()) == 8 * 2


@pytest.mark.parametrize("fixture", FIXTURES, indirect=True)
def test_what_is_saved_has_the_published_names_and_loads_again(fixture: Published, folder: Path, tmp_path: Path):
    model = load(folder)
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    stored = {name for name in fixture.weights if not name.endswith((".mask", ".cum_weight"))}
    assert saved.keys() == stored
    assert all(torch.equal(saved[name], fixture.weights[name]) for name in stored)
    again = load(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    told = json.loads((tmp_path / "saved" / "config.json").read_text())
    expected = fixture.config.keys() & told.keys()
    assert {key: told[key] for key in expected if key != "transformers_version"} == {
        key: fixture.config[key] for key in expected if key != "transformers_version"
    }


@pytest.mark.parametrize("fixture", FIXTURES, indirect=True)
def test_tied_embeddings_load_without_an_output_layer_and_stay_tied(fixture: Published, tmp_path: Path):
    del fixture.weights["lm_head.weight"]
    model = load(fixture.write(tmp_path / "tied", shards=2, tie_word_embeddings=True))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "saved")
    assert "lm_head.weight" not in load_file(tmp_path / "saved" / "model.safetensors")
    load(tmp_path / "saved")


@pytest.mark.parametrize("fixture", FIXTURES, indirect=True)
def test_a_checkpoint_with_other_parameters_is_refused_with_their_names(fixture: Published, tmp_path: Path):
    byte_tokenizer().save_pretrained(fixture.write(tmp_path / "wrong"))
    load_checkpoint(str(tmp_path / "wrong"))
    lost = next(name for name in fixture.weights if "layernorm" in name or "ln_1.weight" in name)
    fixture.weights["model.stranger.weight"] = fixture.weights.pop(lost)
    write_weights(fixture.weights, tmp_path / "wrong")
    with pytest.raises(MoemixError) as error:
        load_checkpoint(str(tmp_path / "wrong"))
    assert lost in str(error.value)
    assert "stranger.weight" in str(error.value)


@pytest.mark.parametrize("fixture", ["llama_moe"], indirect=True)
def test_an_expert_that_is_lost_is_missed(fixture: Published, tmp_path: Path):
    byte_tokenizer().save_pretrained(fixture.write(tmp_path / "wrong"))
    del fixture.weights["model.layers.1.mlp.calculator.experts.weight_up.3"]
    write_weights(fixture.weights, tmp_path / "wrong")
    with pytest.raises(MoemixError, match=r"layers\.1\.mlp\.experts\.up_proj"):
        load_checkpoint(str(tmp_path / "wrong"))


@pytest.mark.parametrize("fixture", FIXTURES, indirect=True)
def test_code_that_comes_with_a_checkpoint_is_not_run(fixture: Published, tmp_path: Path):
    bait = {
        "AutoConfig": "configuration_stranger.Stranger",
        "AutoModelForCausalLM": "modeling_stranger.StrangerForCausalLM",
    }
    folder = fixture.write(tmp_path / "bait", auto_map=bait)
    ran = tmp_path / "ran"
    for file in ("configuration_stranger.py", "modeling_stranger.py"):
        (folder / file).write_text(f"open({str(ran)!r}, 'w')\n")
    byte_tokenizer().save_pretrained(folder)
    model, _ = load_checkpoint(str(folder))
    assert not ran.exists()
    assert type(model).__module__.startswith("trainers.models.")


@pytest.mark.parametrize("fixture", FIXTURES, indirect=True)
def test_generation_with_a_cache_writes_what_it_writes_without_one(fixture: Published, folder: Path):
    model = load(folder)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(fixture.ids, **options)
    assert torch.equal(cached, model.generate(fixture.ids, **options, use_cache=False))
    # padded on the left, as batches of prompts are
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), fixture.ids[:1, :7]], dim=1)
    both = torch.cat([padded, fixture.ids[1:]])
    mask = torch.tensor([[0] * 5 + [1] * 7, [1] * 12])
    together = model.generate(both, attention_mask=mask, **options)
    assert torch.equal(together[0, 5:], model.generate(fixture.ids[:1, :7], **options)[0])


@pytest.mark.parametrize("fixture", FIXTURES, indirect=True)
def test_gradient_checkpointing_changes_no_gradient(fixture: Published, folder: Path):
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = load(folder).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        runs: list[int] = []
        layers = model.model.layers if hasattr(model, "model") else model.transformer.h
        inner = layers[0].mlp if hasattr(layers[0], "mlp") else layers[0].mlpf
        inner.register_forward_pre_hook(lambda *_: runs.append(1))
        torch.manual_seed(0)  # of the gate noise
        model(input_ids=fixture.ids, labels=fixture.ids, use_cache=False).loss.backward()
        assert len(runs) == 1 + checkpointing
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize(("fixture", "attention"), PATHS, indirect=["fixture"])
def test_packed_examples_see_only_themselves(fixture: Published, folder: Path, attention: str):
    model = load(folder, attention)
    prepare_packing(model, 64)
    parts = [fixture.ids[0, :5], fixture.ids[1], fixture.ids[0, 5:]]
    row = torch.cat(parts)[None]
    positions = torch.cat([torch.arange(len(part)) for part in parts])[None]
    with torch.no_grad():
        packed = model(input_ids=row, position_ids=positions, use_cache=False).logits[0]
        alone = torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in parts])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    counted = gate_load(model, torch.zeros_like(row), input_ids=row, position_ids=positions)
    separate = sum(gate_load(model, torch.zeros_like(part[None]), input_ids=part[None]) for part in parts)
    assert torch.equal(counted, separate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_experts": [[8] * 7 + [9]] * 3}, "must have the same size"),
        ({"size_experts": [[8] * 8]}, "3 lists of 8 sizes"),
        ({"num_selects": 9}, "num_selects=9 of 8 experts"),
        ({"gate_network": "cnn"}, "neither 'mlp' nor 'linear'"),
        ({"calculator_type": "SwitchDropTokenCalculator"}, "calculator_type='SwitchDropTokenCalculator'"),
    ],
)
def test_a_configuration_that_is_not_implemented_is_refused(
    change: dict[str, Any], message: str, llama_moe_fixture: Published, tmp_path: Path
):
    folder = llama_moe_fixture.write(tmp_path, **change)
    byte_tokenizer().save_pretrained(folder)
    with pytest.raises(MoemixError, match=message):
        load_checkpoint(str(folder))


LLAMA_2 = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
MOLM = {"n_embd": 1024, "att_hidden": 1024, "ffd_hidden": 2048, "n_head": 16, "n_att_experts": 16, "n_mlp_experts": 32}


@pytest.mark.parametrize(
    ("hub", "kind", "settings"),
    [
        ("llama-moe/LLaMA-MoE-v1-3_5B-2_8", "llama_moe", LLAMA_2 | {"num_experts": 8, "num_selects": 2}),
        ("llama-moe/LLaMA-MoE-v1-3_5B-4_16", "llama_moe", LLAMA_2 | {"num_experts": 16, "num_selects": 4}),
        ("ibm/MoLM-700M-4B", "moduleformer", MOLM | {"k_att": 4, "k_mlp": 4}),
    ],
)
def test_the_shapes_that_a_plan_reckons_with_are_those_of_the_model_code(hub: str, kind: str, settings: dict[str, int]):
    config = AutoConfig.for_model(kind, num_hidden_layers=2, **settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = dataclasses.replace(SHAPES[hub], layers=2)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    for frozen in ("none", "router", "paper"):
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        freeze(model, frozen)  # type: ignore[arg-type]
        assert shape.trained(frozen) == sum(p.numel() for p in model.parameters() if p.requires_grad), frozen


def test_molm_has_the_parameters_that_its_cards_tell():
    """The widths behind the shapes are inferred from these."""
    for hub, billions, active in (("350M-4B", 4, 350), ("700M-4B", 4, 700), ("700M-8B", 8, 700)):
        shape = SHAPES[f"ibm/MoLM-{hub}"]
        outside = 2 * shape.vocabulary * shape.width
        assert round((shape.parameters - outside) / 1e9) == billions
        shared = 2 * shape.width * shape.width  # keys and values
        met = 2 * shape.width * (shape.queries + shape.selected * shape.neurons // shape.experts) + shared
        assert abs(shape.layers * met / 1e6 - active) < 50
