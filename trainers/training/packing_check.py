"""Whether a model keeps packed examples apart, helped where it can be, found out by trying."""

from __future__ import annotations

from typing import Any

import torch
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from harness.errors import MoemixError
from trainers.training.packed_attention import use_packed_attention

_LENGTH = 8  # tokens in each of two trial examples
_TOLERANCE = 1e-2  # of the hidden states' size; an example that sees its neighbour moves by far more


_MASKED = ("gpt_oss",)
"""Model types that make their masks without looking at positions, and take ready-made ones by the kind of layer."""


def prepare_packing(model: Any) -> None:
    """Let a model keep packed examples apart, without computing what lies between them, and see that it does.

    Raises:
        MoemixError: it does not.
    """
    if model.config.model_type in _MASKED:
        model.base_model.register_forward_pre_hook(_with_masks, with_kwargs=True)
    use_packed_attention(model)
    check_packing(model)


def _with_masks(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give the decoder the masks that follow from positions, where it is called as training does."""
    ids, positions = kwargs.get("input_ids"), kwargs.get("position_ids")
    if ids is None or positions is None or kwargs.get("attention_mask") is not None or kwargs.get("use_cache"):
        return args, kwargs
    like = decoder.get_input_embeddings().weight.new_empty((*ids.shape, 0))
    given = {
        "config": decoder.config,
        "inputs_embeds": like,
        "attention_mask": None,
        "past_key_values": None,
        "position_ids": positions,
    }
    masks = {
        "full_attention": create_causal_mask(**given),
        "sliding_attention": create_sliding_window_causal_mask(**given),
    }
    return args, {**kwargs, "attention_mask": masks}


@torch.no_grad()
def check_packing(model: Any) -> None:
    """Run two short examples in one row and each alone, and compare the decoder's hidden states.

    Packing rests on attention masks that transformers makes from restarted positions. Layers that carry something
    else along a row (recurrent states, convolutions, masks of their own making) may not restart.

    Raises:
        MoemixError: the second example is not what it is alone.
    """
    tokens_2T = torch.arange(2 * _LENGTH, device=model.device).view(2, _LENGTH) % model.config.vocab_size
    positions_2T = torch.arange(_LENGTH, device=model.device).expand(2, _LENGTH)
    was_training = model.training
    model.eval()
    # Hidden states, or logits where an architecture hides its decoder (Llama 4).
    packed = model.base_model(
        input_ids=tokens_2T.reshape(1, -1), position_ids=positions_2T.reshape(1, -1), use_cache=False
    )[0].view(2, _LENGTH, -1)
    alone = model.base_model(input_ids=tokens_2T, position_ids=positions_2T, use_cache=False)[0]
    model.train(was_training)
    apart_T = (packed[1] - alone[1]).norm(dim=-1) / alone[1].norm(dim=-1)
    if not apart_T.median() < _TOLERANCE:
        raise MoemixError(
            f"{type(model).__name__} lets packed examples see each other (attention: "
            f"{model.config._attn_implementation}), so packing would change what is learnt",
            where="training.pack",
            hint="set training.pack=false",
        )
