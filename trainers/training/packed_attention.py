"""Attention over packed rows, example by example: what lies outside the blocks of a row is not computed.

An attention function like those of transformers. It is given the mask that SDPA would be given, and where that says
that each token sees the earlier ones of its own example, as in packed rows, it asks SDPA for one triangle after another
in place of a masked square. Any other mask (a sliding window shorter than an example, chunks) goes to SDPA as it is, so
the result is SDPA's everywhere.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainers.data import block_mask

_NAME = "packed_sdpa"
Pieces = list[tuple[int, bool]]
"""Tokens that follow each other: how many, and whether they are one example, or padding that sees itself alone."""


def use_packed_attention(model: Any) -> None:
    """Let a model that attends by SDPA on a CPU attend so. (A GPU would have to wait until the blocks are known.)"""
    if model.config._attn_implementation == "sdpa" and model.device.type == "cpu":
        AttentionInterface.register(_NAME, packed_attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Of queries f[R, H, T, D], and keys and values of as many heads or fewer.

    Returns:
        f[R, T, H, D], and nothing for the attention weights.
    """
    plain = attention_mask is None or dropout > 0 or kwargs.get("position_bias") is not None
    pieces = None if plain else _pieces(attention_mask, query, key)
    if pieces is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **kwargs)
    causal = {**kwargs, "is_causal": True}
    counts = [count for count, _ in pieces]
    parts = (_one_row(states).split(counts, dim=2) for states in (query, key, value))
    found = []
    for (_, together), query_1HND, key_1HND, value_1HND in zip(pieces, *parts, strict=True):
        if together:
            found.append(sdpa_attention_forward(module, query_1HND, key_1HND, value_1HND, None, **causal)[0])
        else:
            found.append(repeat_kv(value_1HND, query.shape[1] // value.shape[1]).transpose(1, 2))
    return torch.cat(found, dim=1).view(len(query), query.shape[2], *found[0].shape[2:]), None


def _one_row(states_RHTD: Tensor) -> Tensor:
    """f[1, H, R · T, D], the rows one after another."""
    states_NHD = states_RHTD.transpose(1, 2).flatten(0, 1)
    return states_NHD.transpose(0, 1)[None]


_last: tuple[weakref.ref[Tensor], Pieces | None] | None = None
"""All layers of a forward pass are given the same mask."""


def _pieces(mask: Any, query: Tensor, key: Tensor) -> Pieces | None:
    """What a mask of packed rows is made of, row after row; None for any other mask."""
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
