"""A tiny MoE with random weights and a tokenizer of ASCII characters: a real checkpoint that answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

VOCABULARY = 128
CONTEXT = 1024


# What makes an architecture's feed-forward blocks small MoEs.
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2},
    "llama_moe": {
        "intermediate_size": 256,
        "num_experts": 4,
        "num_selects": 2,
        "score_scale_factor": 2.0,
        "gate_network": "mlp",
    },
    "moduleformer": {
        "att_hidden": 32,
        "ffd_hidden": 32,
        "gating_size": 16,
        "n_att_experts": 4,
        "n_mlp_experts": 4,
    },
}


def make_checkpoint(
    folder: Path,
    seed: int = 0,
    architecture: str = "mixtral",
    context: int = CONTEXT,
    texts: Sequence[str] = ("the question and the answer are in the text",),
    vocabulary: int = VOCABULARY,
) -> Path:
    """Make a checkpoint whose tokenizer is trained on texts: with a larger vocabulary, they have fewer tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from harness.plugins import register_architectures

    register_architectures()

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=["Ġ", "Ċ", *map(chr, range(33, 127))],  # ASCII alone, so whatever it generates is text
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts] * 4, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        **EXPERTS[architecture],
        max_position_embeddings=context,
        initializer_range=0.2,  # large enough that greedy choices are not ties
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
