"""Every MoE architecture that the installed transformers has, as a small random model to try things on."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import trainers.models  # noqa: F401  (registers this project's architectures with transformers)

OURS = ("llama_moe", "moduleformer")
_NOT_TEXT = ("gemma4", "llama4", "qwen3_5_moe", "qwen4_exp")  # their text models are types of their own
_EXPERTS = ("top_k_index", "router_indices", "num_experts", "num_local_experts")

# The size of each field, where a configuration has it.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "ple_embed_dim"), 32),
    **dict.fromkeys(("intermediate_size", "dense_intermediate_size", "ffn_hidden_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("linear_num_value_heads", "n_heads", "mamba_d_state", "mamba_dt_rank", "ssm_state_size"), 4),
    **dict.fromkeys(("d_rel", "index_block_size", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 6),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("linear_num_key_heads", "index_n_heads", "index_topk_blocks", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("mamba_expand", "n_groups", "num_layers", "zero_expert_num", "o_groups", "n_layers"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "num_dense_layers"), 1),
    **dict.fromkeys(("moe_layer_start_index", "mamba_n_groups"), 1),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "linear_key_head_dim"), 8),
    **dict.fromkeys(("linear_value_head_dim", "linear_head_dim", "index_topk", "rotary_dim", "kv_channels"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "mamba_num_heads", "mamba_head_dim", "swa_head_dim"), 8),
    **dict.fromkeys(("chunk_size", "block_size", "hidden_size_per_layer_input", "hc_lowrank"), 8),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_chunk_size"), 12),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("intermediate_size_mlp", "moe_shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank", "index_head_dim", "mamba_chunk_size"), 16),
    "router_hidden_size": 16,
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 96),
    **dict.fromkeys(("max_position_embeddings", "max_seq_len", "n_positions"), 512),
    "rel_extent": 64,
    "ngram_vocab_size_base": 50,
    "enable_moe_block": True,
    "is_moe": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
_SPARSE = ["dense", "sparse", "sparse", "sparse"]


def _alternating(*kinds: str) -> list[str]:
    return list(kinds) * 2


# What an architecture needs beside.
_SPECIAL: dict[str, dict[str, Any]] = {
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 6, "moe_top_k": 2},
        "num_key_value_heads": 2,
    },
    "doge": {"num_experts": 16},
    "deepseek_v4": {
        "rope_parameters": {"main": _ROPE, "compress": _ROPE},
        "partial_rotary_factor": 0.5,
        "num_key_value_heads": 1,
        "layer_types": [
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
        ],
        "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    },
    "gemma4_text": {"layer_types": _alternating("sliding_attention", "full_attention"), "per_layer_config": {}},
    "granitemoehybrid": {"layer_types": _alternating("linear_attention", "full_attention")},
    "inkling_text": {"layer_types": _alternating("hybrid_sliding", "hybrid"), "mlp_layer_types": _SPARSE},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 1, "expert_layer_offset": 0},
    "kimi_linear": {
        "layer_types": _alternating("linear_attention", "full_attention"),
        "mlp_layer_types": _SPARSE,
        "q_lora_rank": None,
    },
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "llama4_text": {
        "moe_layers": [1, 3],
        "no_rope_layers": [1, 0, 1, 0],
        "layer_types": _alternating("chunked_attention", "full_attention"),
        "num_experts_per_tok": 1,
    },
    "llama_moe": {"num_selects": 2, "size_experts": [[16] * 6] * 4},
    "mimo_v2_flash": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
        "layer_types": _alternating("full_attention", "sliding_attention"),
        "mlp_layer_types": _SPARSE,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "minimax_m3_vl_text": {
        "layer_types": _alternating("full_attention", "minimax_m3_sparse"),
        "mlp_layer_types": _SPARSE,
        "num_key_value_heads": 2,
    },
    "moduleformer": {
        "n_layer": 2,
        "n_head": 2,
        "att_hidden": 16,
        "ffd_hidden": 24,
        "gating_size": 16,
        "n_att_experts": 4,
        "n_mlp_experts": 6,
        "k_att": 2,
        "k_mlp": 2,
    },
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "split_ngram_parts": 1,
        "output_gate_type": "sigmoid",
        "ple_layer_ids": [1],
        "layer_types": _alternating("linear_attention", "indexed_attention"),
        "head_dim": 8,
    },
    "zaya": {
        "num_experts_per_tok": 1,
        "layer_types": ["hybrid", "hybrid", "hybrid", "hybrid_sliding"],
        "num_key_value_heads": 2,
    },
}


def moe_types() -> list[str]:
    """Return the model types of all causal MoE language models, those of this project last."""
    found = []
    for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        model = None if kind in _NOT_TEXT else getattr(transformers, name, None)
        source = inspect.getsource(sys.modules[model.__module__]) if model is not None else ""
        if any(word in source for word in _EXPERTS) and _has_experts(kind):
            found.append(kind)
    return [*found, *OURS]


def _has_experts(kind: str) -> bool:
    """Return whether a model has experts; some only mention them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small_config(kind))
    names = [type(module).__name__.lower() for module in model.modules()]
    return any("expert" in name or "moe" in name for name in names[1:] if not name.endswith("forcausallm"))


def small_config(kind: str, **changes: Any) -> PreTrainedConfig:
    """Return a configuration of an architecture whose models have a hundred thousand parameters or so."""
    special = _SPECIAL.get(kind, {})
    try:
        known = CONFIG_MAPPING[kind]()
    except Exception:  # some have no valid default
        known = CONFIG_MAPPING[kind](**special)
    names = set(known.to_dict()) | set(known.attribute_map)
    sizes = {name: size for name, size in _SIZES.items() if name in names}
    return AutoConfig.for_model(kind, **sizes | special | changes)


def small_model(kind: str, seed: int = 0, scale: float | None = 0.3, **changes: Any) -> PreTrainedModel:
    """Return a small random model of an architecture, in float32 and evaluation mode.

    ``scale`` is the standard deviation of its matrices, large enough that tokens differ; None for transformers' own.
    The changes are fields of its configuration.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(small_config(kind, **changes), dtype=torch.float32)
        for parameter in model.parameters():
            if scale is not None and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=scale)
    model.eval()
    return model
