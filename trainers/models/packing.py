"""Packed rows in a model: examples attend to themselves alone, and nothing between them is computed.

:func:`prepare_packing` makes a model keep packed examples apart, and checks by a trial that it does.
:func:`packed_attention` is an attention function like those of transformers. It gets the mask that SDPA would get.
Where that mask says that each token sees the earlier tokens of its own example, as in packed rows, it asks SDPA for one
triangle after another instead of a masked square. Any other mask (a sliding window shorter than an example, chunks)
goes to SDPA unchanged, so the result equals SDPA's everywhere.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import itertools
import weakref
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask, sdpa_mask

from harness.errors import MoemixError
from trainers.data import block_mask

_NAME = "packed_sdpa"
_LENGTH = 8  # tokens in each of two trial examples
_TOLERANCE = 1e-2  # relative to the hidden states; an example that sees its neighbour moves by far more
_WITHOUT_POSITIONS = ("gpt_oss",)
"""Model types that ignore positions in their masks, and accept ready-made masks by the kind of layer."""

Pieces = list[tuple[int, bool]]
"""Runs of tokens: their number, and whether they are one example (or padding, whose tokens see only themselves)."""


def prepare_packing(model: PreTrainedModel) -> None:
    """Make a model keep packed examples apart without computing what lies between them, and check that it does.

    Raises:
        MoemixError: it does not.
    """
    if model.config.model_type in _WITHOUT_POSITIONS:
        model.base_model.register_forward_pre_hook(_add_masks, with_kwargs=True)
    # A GPU would have to wait until the blocks are known, so only a CPU attends piece by piece.
    if model.config._attn_implementation == "sdpa" and model.device.type == "cpu":
        AttentionInterface.register(_NAME, packed_attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)
    check_packing(model)


@torch.no_grad()
def check_packing(model: PreTrainedModel) -> None:
    """Run two short examples in one row and each alone, and compare the decoder's hidden states.

    Packing relies on attention masks that transformers makes from restarted positions. Layers that carry something
    else along a row (recurrent states, convolutions, masks of their own) may not restart.

    Raises:
        MoemixError: the second example differs from what it is alone.
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


def _add_masks(
    decoder: PreTrainedModel, args: tuple[object, ...], kwargs: dict[str, Any]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Give the decoder the masks that follow from positions, where it is called as training calls it."""
    ids, positions = kwargs.get("input_ids"), kwargs.get("position_ids")
    if ids is None or positions is None or kwargs.get("attention_mask") is not None or kwargs.get("use_cache"):
        return args, kwargs
    like = cast("Tensor", decoder.get_input_embeddings().weight).new_empty((*ids.shape, 0))
    masks = {
        kind: create(decoder.config, like, attention_mask=None, past_key_values=None, position_ids=positions)
        for kind, create in (
            ("full_attention", create_causal_mask),
            ("sliding_attention", create_sliding_window_causal_mask),
        )
    }
    return args, {**kwargs, "attention_mask": masks}


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with queries f[R, H, T, D] to keys and values of as many heads or fewer.

    Returns:
        f[R, T, H, D], and None for the attention weights.
    """
    pieces = None
    if attention_mask is not None and dropout == 0 and kwargs.get("position_bias") is None:
        pieces = _pieces(attention_mask, query, key)
    if pieces is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **kwargs)
    causal = {**kwargs, "is_causal": True}
    counts = [count for count, _ in pieces]
    parts = (_one_row(states).split(counts, dim=2) for states in (query, key, value))
    outputs: list[Tensor] = []
    for (_, together), query_1HND, key_1HND, value_1HND in zip(pieces, *parts, strict=True):
        if together:
            outputs.append(sdpa_attention_forward(module, query_1HND, key_1HND, value_1HND, None, **causal)[0])
        else:
            outputs.append(repeat_kv(value_1HND, query.shape[1] // value.shape[1]).transpose(1, 2))
    return torch.cat(outputs, dim=1).view(len(query), query.shape[2], *outputs[0].shape[2:]), None


def _one_row(states_RHTD: Tensor) -> Tensor:
    """Return f[1, H, R · T, D], the rows one after another."""
    states_NHD = states_RHTD.transpose(1, 2).flatten(0, 1)
    return states_NHD.transpose(0, 1)[None]


_last: tuple[weakref.ref[Tensor], Pieces | None] | None = None
"""The pieces of the last mask: all layers of a forward pass get the same mask."""


def _pieces(mask: Tensor, query: Tensor, key: Tensor) -> Pieces | None:
    """Return the pieces of a mask of packed rows, row after row; None for any other mask."""
    global _last
    rows, _, tokens, _ = query.shape
    if mask.dtype != torch.bool or mask.shape != (rows, 1, tokens, tokens) or key.shape[2] != tokens:
        return None
    if _last is None or _last[0]() is not mask:
        _last = weakref.ref(mask), _blocks(mask)
    return _last[1]


def _blocks(mask_R1TT: Tensor) -> Pieces | None:
    rows, _, tokens, _ = mask_R1TT.shape
    begins_RT = torch.ones(rows, tokens, dtype=torch.bool)
    begins_RT[:, 1:] = ~mask_R1TT[:, 0].diagonal(-1, dim1=1, dim2=2)
    if not torch.equal(mask_R1TT, block_mask(begins_RT.cumsum(dim=1))):
        return None
    starts = [*begins_RT.flatten().nonzero().flatten().tolist(), begins_RT.numel()]
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    pieces: Pieces = []
    for alone, group in itertools.groupby(lengths, key=lambda length: length == 1):
        run = list(group)
        pieces += [(len(run), False)] if alone else [(length, True) for length in run]
    return pieces
