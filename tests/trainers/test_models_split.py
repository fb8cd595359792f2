"""A split model has the dense one's neurons, each once, and with all experts selected it is the dense one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from test_models_upcycle import dense, three_sources
from transformers import AutoModelForCausalLM

from harness.errors import MoemixError
from harness.recipe import SplitModel
from trainers.commands.models import model as command
from trainers.making.from_dense import cluster, split
from trainers.making.tokenizer import train_tokenizer

IDS = torch.randint(3, 250, (2, 40), generator=torch.Generator().manual_seed(1))


def recipe(**changes):
    return SplitModel(
        **{"kind": "split", "name": "split", "source": "x", "experts": 4, "router_examples": 40, **changes}
    )


def tokenizer():
    return train_tokenizer((), vocab_size=0, max_length=128)


@torch.no_grad()
@pytest.mark.parametrize(
    ("partition", "architecture"),
    [("contiguous", "mixtral"), ("random", "mixtral"), ("clustered", "mixtral"), ("clustered", "llama_moe")],
)
def test_with_all_experts_selected_it_is_the_dense_model_and_with_fewer_it_is_not(tmp_path, partition, architecture):
    original, sources = dense(), three_sources(tmp_path / "sources")
    written = {"partition": partition, "architecture": architecture}
    whole, report = split(original, tokenizer(), recipe(top_k=4, **written), sources)
    whole.save_pretrained(tmp_path / "made")
    expected = original(IDS).logits
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "made")(IDS).logits
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert report["largest_logit_difference"] < 1e-5 * report["largest_logit"]
    assert report["same_first_choice"] == 1
    half, report = split(original, tokenizer(), recipe(**written), sources)
    assert half.config.model_type == architecture
    assert half.config.num_experts_per_tok == 2
    new = 2 if architecture == "llama_moe" else 1  # matrices of a router: it has noise weights as well
    assert sum(p.numel() for p in half.parameters()) - sum(p.numel() for p in original.parameters()) == new * 3 * 4 * 48
    assert report["kl_divergence"] > 1e-4
    assert report["same_first_choice"] < 1
    assert len(report["routers"]["distance"]) == 3


@torch.no_grad()
def test_both_architectures_compute_the_same(tmp_path):
    original, sources = dense(), three_sources(tmp_path / "sources")
    made = [split(original, tokenizer(), recipe(architecture=name), sources)[0] for name in ("mixtral", "llama_moe")]
    expected, found = (model(IDS).logits for model in made)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert made[1].config.score_scale_factor == 4
    made[1].save_pretrained(tmp_path / "made")
    names = load_file(tmp_path / "made" / "model.safetensors").keys()
    assert {f"model.layers.2.mlp.calculator.experts.weight_{part}.3" for part in ("gate", "up", "down")} <= names
    assert "model.layers.2.mlp.gate.gate_network.weight" in names


def test_every_neuron_is_in_one_expert_and_the_partitions_differ(tmp_path):
    original, sources = dense(), three_sources(tmp_path)
    made = {
        name: split(original, tokenizer(), recipe(partition=name), sources)[0]
        for name in ("contiguous", "random", "clustered")
    }
    neurons = original.model.layers[1].mlp.gate_proj.weight
    expected = {tuple(row) for row in neurons.tolist()}
    orders = {}
    for name, moe in made.items():
        rows = moe.model.layers[1].mlp.experts.gate_up_proj[:, :16].reshape(-1, 48)
        assert {tuple(row) for row in rows.tolist()} == expected
        orders[name] = rows
    assert torch.equal(orders["contiguous"], neurons)
    assert not torch.equal(orders["random"], neurons)
    assert not torch.equal(orders["clustered"], orders["random"])


def test_neurons_that_fire_together_share_an_expert():
    random = np.random.default_rng(0)
    group = random.permutation(np.repeat(np.arange(4), 8))
    topic = random.integers(0, 4, 300)
    active = (topic[:, None] == group[None, :]) + 0.1 * random.standard_normal((300, 32))
    members = cluster(torch.tensor(active, dtype=torch.float32), 4, seed=0)
    assert sorted(members.ravel().tolist()) == list(range(32))
    assert [len(set(group[row].tolist())) for row in members] == [1, 1, 1, 1]


def test_what_cannot_be_split_is_refused_in_words(tmp_path):
    with pytest.raises(MoemixError, match="64 neurons cannot be divided evenly among 5 experts"):
        split(dense(), tokenizer(), recipe(experts=5, router_init="random"), ())
    with pytest.raises(MoemixError, match="top_k=5 of 4"):
        split(dense(), tokenizer(), recipe(top_k=5, router_init="random"), ())
    with pytest.raises(MoemixError, match="partition=clustered needs data"):
        split(dense(), tokenizer(), recipe(partition="clustered", router_init="random"), ())
    with pytest.raises(MoemixError, match="qwen2 model cannot be upcycled or split"):
        split(dense("qwen2"), tokenizer(), recipe(router_init="random"), ())
    with pytest.raises(MoemixError, match="`sliding_window`, and llama_moe does not support it"):
        split(dense("mistral"), tokenizer(), recipe(architecture="llama_moe", router_init="random"), ())


@pytest.mark.parametrize(("kind", "written"), [("upcycle", []), ("split", ["--architecture=llama_moe"])])
def test_the_command_makes_a_checkpoint_with_a_report(tmp_path, kind, written):
    dense(vocab_size=400).save_pretrained(tmp_path / "dense")
    tokenizer().save_pretrained(tmp_path / "dense")
    for name in ("a", "b", "c"):
        rows = [{"instruction": f"{name} {i}", "input": "", "output": f"{name * (i % 9 + 1)} {i}"} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"--source={name}=alpaca:{tmp_path / name}.jsonl" for name in ("a", "b", "c")]
    arguments = [kind, str(tmp_path / "dense"), "--out", str(tmp_path / "out"), "--experts", "4"]
    done = CliRunner().invoke(command, [*arguments, *written, *given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "outputs moved from the dense model: KL divergence" in done.output
    assert "sources over experts: mean distance of gate loads" in done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["kind"], report["router_init"], report["moe_layers"]) == (kind, "data", 3)
    assert (report["largest_logit_difference"] < 1e-4) == (kind == "upcycle")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert made.config.model_type == ("llama_moe" if written else "mixtral")
    assert made.model.layers[0].mlp.experts.num_experts == 4
    with pytest.raises(MoemixError, match="exists and is not empty"):
        CliRunner().invoke(command, [*arguments, *given], catch_exceptions=False)
    elsewhere = [*arguments[:3], str(tmp_path / "elsewhere")]
    with pytest.raises(MoemixError, match="none was given"):
        CliRunner().invoke(command, [*elsewhere, "--router-init", "data"], catch_exceptions=False)
    with pytest.raises(MoemixError, match="expected NAME=ADAPTER:FILE"):
        CliRunner().invoke(command, [*elsewhere, "--source", "a"], catch_exceptions=False)
