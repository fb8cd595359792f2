"""Gate loads are what the experts really computed with, for every MoE architecture, padding left out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import trainers.models  # noqa: F401  (registers LLaMA-MoE)
from harness.errors import MoemixError, StageError
from trainers.models import architectures
from trainers.models.packing import prepare_packing
from trainers.models.routers import RouterObserver

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DEEPSEEK = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 0,
}
ARCHITECTURES = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "olmoe": {"num_experts": 6, "num_experts_per_tok": 3},
    "granitemoe": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "jetmoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "input_jitter_noise": 0.0},
    "deepseek_v2": DEEPSEEK | {"topk_method": "group_limited_greedy", "n_shared_experts": 1},
    "deepseek_v3": DEEPSEEK,
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "ernie4_5_moe": {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 0},
    "llama_moe": {"num_experts": 6, "num_selects": 2, "size_experts": [[16] * 6] * 2},
    "moduleformer": {
        "n_positions": 64,
        "att_hidden": 16,
        "ffd_hidden": 24,
        "gating_size": 16,
        "n_att_experts": 4,
        "n_mlp_experts": 6,
        "k_att": 2,
        "k_mlp": 2,
    },
    "llama4_text": {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 16, "head_dim": 8},
}
# Architectures whose every layer is run a second time under activation checkpointing.
CHECKPOINTING = [name for name in ARCHITECTURES if name != "jetmoe"]
# transformers makes gpt-oss's attention masks without looking at positions, so packed examples would see each other.


def tiny(architecture: str, **changes) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **{**COMMON, **ARCHITECTURES[architecture], **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():  # initial weights are small or zero: make selections differ between tokens
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            if "bias" in name:  # DeepSeek V3's correction of its scores: a selection that logits alone do not tell
                buffer.copy_(torch.randn_like(buffer) * 0.2)
    return model


def batch(rows: int = 3, tokens: int = 12, sources: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and source ids [R, T]: rows of mixed sources, with padding at their ends."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, 97, (rows, tokens), generator=generator)
    source_ids = torch.randint(0, sources, (rows, tokens), generator=generator)
    for row in range(1, rows):
        input_ids[row, -2 * row :], source_ids[row, -2 * row :] = 0, -1
    return input_ids, source_ids


def observe(model: torch.nn.Module, input_ids: torch.Tensor, source_ids: torch.Tensor, sources: int = 3) -> np.ndarray:
    observer = RouterObserver(model)
    with observer.count(source_ids, sources):
        model(input_ids=input_ids, use_cache=False)
    return observer.take()


def moe_blocks(model: torch.nn.Module) -> list[tuple[torch.nn.Module, torch.nn.Parameter]]:
    """Each feed-forward MoE block with the parameter [E, …] that its experts' outputs come from."""
    blocks = []
    for module in model.modules():
        experts = getattr(module, "experts", None)
        if experts is not None and hasattr(experts, "down_proj"):
            blocks.append((module, experts.down_proj))
        elif type(module).__name__ == "JetMoeMoE":
            blocks.append((module, module.output_linear.weight))
        elif type(module).__name__ == "ModuleFormerMoE":
            blocks.append((module, module.output_experts.weight))
    return blocks


@torch.no_grad()
def brute_force(model: torch.nn.Module, input_ids: torch.Tensor, source_ids: torch.Tensor, sources: int) -> np.ndarray:
    """Gate load [K, L, E] without looking at any router: whose output changes when an expert's weights change?"""
    blocks = moe_blocks(model)
    inputs: list[tuple] = []

    def keep(_, args, kwargs):
        inputs.append(([copy.deepcopy(arg) for arg in args], copy.deepcopy(kwargs)))

    hooks = [block.register_forward_pre_hook(keep, with_kwargs=True) for block, _ in blocks]
    model(input_ids=input_ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    load = np.zeros((sources, len(blocks), len(blocks[0][1])), dtype=np.int64)
    for layer, ((block, weights), given) in enumerate(zip(blocks, inputs, strict=True)):

        def run(block=block, given=given) -> torch.Tensor:
            args, kwargs = copy.deepcopy(given)
            output = block(*args, **kwargs)
            return (output[0] if isinstance(output, tuple) else output).reshape(source_ids.numel(), -1)

        untouched = run()
        for expert in range(len(weights)):
            kept = weights[expert].clone()
            weights[expert] += 1.0
            moved = (run() != untouched).any(dim=-1).view(source_ids.shape)
            weights[expert] = kept
            for source in range(sources):
                load[source, layer, expert] = (moved & (source_ids == source)).sum()
    return load


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gate_load_equals_which_experts_move_which_tokens(architecture: str):
    model = tiny(architecture)
    input_ids, source_ids = batch()
    counted = observe(model, input_ids, source_ids)
    np.testing.assert_array_equal(counted, brute_force(model, input_ids, source_ids, 3))
    config = model.config
    top_k = getattr(config, "num_experts_per_tok", None) or config.moe_k
    real = [(source_ids == source).sum().item() for source in range(3)]
    assert (counted.sum(axis=2) == top_k * np.array(real)[:, None]).all(), "each real token counts top-k times a layer"
    assert len(np.unique(counted[0, -1])) > 1, "a load that is the same for all experts proves nothing"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recorded_routing_is_what_is_counted_and_reaches_the_router(architecture: str):
    model = tiny(architecture)
    input_ids, source_ids = batch()
    observer = RouterObserver(model)
    with observer.record() as routings:
        model(input_ids=input_ids, use_cache=False)
    counted = observe(model, input_ids, torch.zeros_like(source_ids), sources=1)[0]
    for layer, routing in enumerate(routings):
        selected = torch.bincount(routing.selected_Nk.flatten(), minlength=routing.num_experts)
        np.testing.assert_array_equal(selected.numpy(), counted[layer])
        assert routing.scores_Nk.shape == routing.selected_Nk.shape
        assert (routing.scores_Nk > 0).all(), "a selected expert has a weight"
    sum(routing.scores_Nk.square().sum() for routing in routings).backward()
    learnt = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("router" in name or "gate" in name for name in learnt)


@pytest.mark.parametrize("architecture", CHECKPOINTING)
@pytest.mark.parametrize("backward_inside", [False, True])
def test_activation_checkpointing_does_not_count_twice(architecture: str, backward_inside: bool):
    model = tiny(architecture).train()
    input_ids, source_ids = batch()
    torch.manual_seed(2)
    plain = observe(model, input_ids, source_ids)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    runs = 0

    def running(*_: object) -> None:
        nonlocal runs
        runs += 1

    moe_blocks(model)[0][0].register_forward_pre_hook(running)
    observer = RouterObserver(model)
    torch.manual_seed(2)
    with observer.count(source_ids, 3):
        loss = model(input_ids=input_ids, labels=input_ids, use_cache=False).loss
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    assert runs == 2, "the layer was not run again: this test would prove nothing"
    np.testing.assert_array_equal(observer.take(), plain)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_examples_are_counted_as_each_alone(architecture: str):
    model = tiny(architecture)
    prepare_packing(model)
    if architecture in CHECKPOINTING:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
        for module in model.modules():
            if hasattr(module, "add_noise"):
                module.add_noise = False
    input_ids, lengths = batch()[0].reshape(1, -1), (5, 19, 12)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    sources = torch.cat([torch.full((length,), k) for k, length in enumerate(lengths)])[None]
    observer = RouterObserver(model)
    with observer.count(sources, 3):
        out = model(input_ids=input_ids, position_ids=positions, labels=input_ids, use_cache=False)
    if architecture in CHECKPOINTING:
        out.loss.backward()
    packed = observer.take()
    model.eval()
    for k, example in enumerate(input_ids.split(lengths, dim=1)):
        alone = observe(model, example, torch.zeros_like(example), sources=1)
        np.testing.assert_array_equal(packed[k], alone[0])


def test_tokens_that_zaya_skips_are_not_counted():
    model = architectures.small_model("zaya")
    for name, buffer in model.named_buffers():
        if "balancing_biases" in name:
            buffer.zero_()  # at first no token is skipped
    input_ids, source_ids = batch()
    counted = observe(model, input_ids, source_ids)
    np.testing.assert_array_equal(counted, brute_force(model, input_ids, source_ids, 3))
    assert counted.sum() < (source_ids >= 0).sum() * counted.shape[1], "no token was skipped"


def test_counts_add_up_over_forward_passes_and_start_again_after_take():
    model = tiny("mixtral")
    input_ids, source_ids = batch()
    observer = RouterObserver(model)
    assert (observer.num_layers, observer.num_experts) == (2, 4)
    with observer.count(source_ids, 3):
        model(input_ids=input_ids)
    once = observer.take()
    for row in range(len(input_ids)):
        with observer.count(source_ids[row : row + 1], 3):
            model(input_ids=input_ids[row : row + 1])
    np.testing.assert_array_equal(observer.take(), once)
    with pytest.raises(ValueError, match="nothing was counted"):
        observer.take()


def test_forward_passes_outside_the_context_are_not_counted_and_leave_no_hooks():
    model = tiny("olmoe")
    input_ids, source_ids = batch()
    observer = RouterObserver(model)
    with observer.count(source_ids, 3):
        model(input_ids=input_ids)
    model(input_ids=input_ids)
    assert observer.take().sum() == 3 * 2 * (source_ids >= 0).sum()
    assert not any(module._forward_hooks for module in model.modules())


def test_a_dense_model_is_refused_in_words():
    config = AutoConfig.for_model("llama", **COMMON)
    with pytest.raises(MoemixError, match="LlamaForCausalLM has no MoE layers"):
        RouterObserver(AutoModelForCausalLM.from_config(config))


def test_an_unobservable_moe_is_refused_with_what_is_missing():
    class StrangeRouter(torch.nn.Linear):
        pass

    class StrangeMoe(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = StrangeRouter(4, 4)

    with pytest.raises(MoemixError, match=r"(?s)StrangeMoe, StrangeRouter.*num_experts.*top_k_index"):
        RouterObserver(StrangeMoe())


def test_a_batch_that_does_not_match_its_source_ids_is_an_error():
    model = tiny("mixtral")
    input_ids, source_ids = batch()
    observer = RouterObserver(model)
    with (
        pytest.raises(StageError, match="routed 36 tokens, but 33 have a source"),
        observer.count(source_ids[:, :-1], 3),
    ):
        model(input_ids=input_ids)
    with pytest.raises(StageError, match="did not run"), RouterObserver(model).count(source_ids, 3):
        model.model.embed_tokens(input_ids)
