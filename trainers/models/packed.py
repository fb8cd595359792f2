"""Compute packed rows so that each example is as if it were alone: its attention, or whole modules, one by one.

A forward pass takes note of its rows (:func:`enter`); what runs in it then knows where examples begin.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import inspect
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask, sdpa_mask

NAME = "packed"
_packed_sequence_indices = masking_utils.find_packed_sequence_indices
# torch 2.11's kernel takes fewer heads of keys than of queries as they are; later ones want to be told.
_GROUPED_HEADS: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
)

Rows = tuple[tuple[int, ...], ...]
"""The lengths of the examples in each row, in order; padding at the end of a row is one more of them."""


class Packed(NamedTuple):
    """The rows of the forward pass in progress.

    Attributes:
        rows: the lengths of its examples.
        shape: R, T.
        unmasked: their positions, where no mask keeps the examples apart.
    """

    rows: Rows
    shape: tuple[int, int]
    unmasked: weakref.ref[Tensor] | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of all examples, row after row."""
        return tuple(itertools.chain.from_iterable(self.rows))


# A pass that activation checkpointing runs again in the backward pass still finds its rows here.
_current: Packed | None = None
_announced: tuple[weakref.ref[Tensor], Rows] | None = None


def current() -> Packed | None:
    """Return the rows of the forward pass in progress; None outside one, and where training did not start it."""
    return _current


def announce(position_RT: Tensor, rows: Rows) -> None:
    """Say which rows belong to these positions, so that nobody has to read them from the device."""
    global _announced
    _announced = weakref.ref(position_RT), rows


def rows_of(position_RT: Tensor) -> Rows:
    """Return the lengths of the examples, which begin where the position does not follow from the one before."""
    rows = []
    for position_T in position_RT.cpu():
        starts = ((position_T.diff() != 1).nonzero().flatten() + 1).tolist()
        rows.append(tuple(end - start for start, end in itertools.pairwise([0, *starts, len(position_T)])))
    return tuple(rows)


def enter(decoder: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
    """Take note of the rows of a forward pass, where the decoder is called as training calls it."""
    global _current
    position_RT, _current = kwargs.get("position_ids"), None
    if position_RT is None or kwargs.get("attention_mask") is not None or kwargs.get("use_cache"):
        return
    known = _announced is not None and _announced[0]() is position_RT
    rows = cast("tuple[Any, Rows]", _announced)[1] if known else rows_of(position_RT)
    by_example = cast("Any", decoder).config.get_text_config()._attn_implementation == NAME
    _current = Packed(rows, (len(rows), position_RT.shape[1]), weakref.ref(position_RT) if by_example else None)


@contextmanager
def _within(rows: Rows | None) -> Iterator[None]:
    """Compute other rows than those of the whole forward pass."""
    global _current
    before, _current = _current, None if rows is None else Packed(rows, (len(rows), sum(rows[0])))
    try:
        yield
    finally:
        _current = before


def add_chunked_masks(
    decoder: PreTrainedModel, args: tuple[object, ...], kwargs: dict[str, Any]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Give the decoder masks whose chunks begin with each example; transformers' begin with the row."""
    if _current is None:
        return args, kwargs
    position_RT, size = kwargs["position_ids"], decoder.config.get_text_config().attention_chunk_size
    like = cast("Tensor", decoder.get_input_embeddings().weight).new_empty((*position_RT.shape, 0))
    create = partial(create_causal_mask, decoder.config.get_text_config(), like, None, None, position_RT)

    def same_chunk(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.eq(position_RT[b, q] // size, position_RT[b, k] // size)

    masks = {"full_attention": create(), "chunked_attention": create(and_mask_function=same_chunk)}
    return args, {**kwargs, "attention_mask": masks}


# --- attention ------------------------------------------------------------------------------------


def attends_by_example(model: PreTrainedModel) -> bool:
    """Return whether attention takes no mask but a window's size, as a FlashAttention kernel does, and no dropout."""
    config = model.config.get_text_config()
    return (
        config._attn_implementation == "sdpa"
        and bool(model._supports_flash_attn)
        and not getattr(config, "attention_dropout", 0)
        and not getattr(config, "attention_chunk_size", None)
    )


def attend_by_example(model: PreTrainedModel) -> None:
    """Give a model attention that takes the examples of a row one by one."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    masking_utils.find_packed_sequence_indices = _find_packed_sequence_indices  # type: ignore[assignment]
    model.set_attn_implementation(NAME)


def _find_packed_sequence_indices(position_RT: Tensor) -> Tensor | None:
    """Find nothing where no mask is made; transformers' function has the host wait for the device."""
    unmasked = None if _current is None else _current.unmasked
    return None if unmasked is not None and unmasked() is position_RT else _packed_sequence_indices(position_RT)


def _no_mask(batch_size: int, q_length: int, kv_length: int, **kwargs: Any) -> Tensor | None:
    """Return no mask for packed rows, and that of SDPA otherwise."""
    if _current is not None and _current.shape[1] == q_length == kv_length:
        return None
    return sdpa_mask(batch_size, q_length, kv_length, **kwargs)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with queries f[R, H, T, D] to keys and values of as many heads or fewer, each example to itself.

    It returns f[R, T, H, D], and None for the attention weights.
    """
    packed, (rows, _, tokens, width), device = _current, query.shape, query.device
    if packed is None or attention_mask is not None or packed.shape != (rows, tokens):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if kwargs.get("position_bias") is not None or kwargs.get("dropout"):
        raise NotImplementedError("attention over packed rows has no position bias and no dropout")
    if torch.is_autocast_enabled(device.type):  # a rotation in float32 has undone the cast
        dtype = torch.get_autocast_dtype(device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    lengths = packed.lengths
    attend: Callable[..., Any] = partial(varlen_by_example, enable_gqa=True)
    on_kernel = device.type == "cuda" and query.dtype != torch.float32
    if on_kernel:
        attend = partial(varlen_attn, **_GROUPED_HEADS)
    heads = value.shape[-1]
    query_NHD, key_NHD, value_NHD = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    if on_kernel and heads != width:  # the kernel knows one width
        value_NHD = torch.nn.functional.pad(value_NHD, (0, width - heads))
    ends_S = _ends(lengths, device)
    attended_NHD = attend(
        query_NHD,
        key_NHD,
        value_NHD,
        ends_S,
        ends_S,
        max(lengths),
        max(lengths),
        scale=scaling,
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
    )
    return attended_NHD[..., :heads].unflatten(0, (rows, tokens)), None


def varlen_by_example(  # noqa: PLR0913  (the signature of torch's)
    query_NHD: Tensor,
    key_NHD: Tensor,
    value_NHD: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, 0),
    enable_gqa: bool = False,
) -> Tensor:
    """Compute what ``torch.nn.attention.varlen.varlen_attn`` does, on any device and in any dtype."""
    ends = cu_seq_q.tolist()
    parts = (
        s.transpose(0, 1).split([b - a for a, b in itertools.pairwise(ends)], 1)
        for s in (query_NHD, key_NHD, value_NHD)
    )
    outputs = []
    for query, key, value in zip(*parts, strict=True):
        mask, tokens = None, query.shape[1]
        if 0 <= window_size[0] < tokens - 1:
            mask = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril().triu(-window_size[0])
        outputs.append(
            scaled_dot_product_attention(
                query[None], key[None], value[None], mask, is_causal=mask is None, scale=scale, enable_gqa=enable_gqa
            )[0].transpose(0, 1)
        )
    return torch.cat(outputs)


@lru_cache(maxsize=1)
def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return i32[S + 1], the sums of the lengths; all layers of a forward pass share them."""
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    return (ends.pin_memory() if device.type == "cuda" else ends).to(device, non_blocking=True)


# --- modules, example by example -------------------------------------------------------------------


class _Parts(list[Any]):
    """What a module returns for each example, where it has no place in a row (attention weights, chosen positions)."""


def by_example(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a module's forward on one example after another, and join what it returns."""
    packed = _current
    whole = packed is not None and any(is_row(value, packed.shape) for value in (*args, *kwargs.values()))
    if packed is None or not whole or len(packed.lengths) == 1:
        return forward(*args, **kwargs)
    outputs, number = [], itertools.count()
    for row, lengths in enumerate(packed.rows):
        start = 0
        for length in lengths:
            span = slice(start, start + length)
            cut = partial(_cut, number=next(number), row=row, span=span, shape=packed.shape)
            with _within(((length,),)):
                outputs.append(forward(*cut(args), **cut(kwargs)))
            start += length
    return _join(outputs, packed)


def is_row(value: Any, shape: tuple[int, int]) -> bool:
    """Return whether a value has something for each token of the rows: a tensor [R, T, …]."""
    return isinstance(value, Tensor) and value.ndim > 2 and value.shape[:2] == shape


def _cut(value: Any, *, number: int, row: int, span: slice, shape: tuple[int, int]) -> Any:
    """Cut one example out of the arguments of a module: tensors [R or 1, T, …], and masks [R or 1, …, T, T]."""
    rows, tokens = shape
    if isinstance(value, _Parts):
        return value[number]
    if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[0] in (1, rows):
        at = slice(row, row + 1) if value.shape[0] == rows else slice(None)
        if value.shape[1] == tokens:
            return value[at, span]
        if value.ndim == 4 and value.shape[-2:] == (tokens, tokens):
            return value[at, :, span, span]
    cut = partial(_cut, number=number, row=row, span=span, shape=shape)
    if isinstance(value, tuple | list):
        return type(value)(map(cut, value))
    return {name: cut(part) for name, part in value.items()} if isinstance(value, dict) else value


def _join(outputs: list[Any], packed: Packed) -> Any:
    """Join the outputs of a module over examples: the inverse of :func:`_cut`."""
    first = outputs[0]
    if isinstance(first, tuple | list):
        return type(first)(_join(list(parts), packed) for parts in zip(*outputs, strict=True))
    shapes = [part.shape[2:] if isinstance(part, Tensor) else None for part in outputs]
    if first is not None and all(
        s == shapes[0] and part.shape[:2] == (1, n) for s, part, n in zip(shapes, outputs, packed.lengths, strict=True)
    ):
        return torch.cat(outputs, dim=1)[0].unflatten(0, packed.shape)
    return None if first is None else _Parts(outputs)
