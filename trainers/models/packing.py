"""Packed rows in a model: each example is computed as if it were alone, whatever the architecture.

:func:`prepare_packing` changes a model step by step until packed examples equal single ones, and proves it by a trial:

1. Attention takes the examples of a row one by one: in one variable-length kernel on a GPU, as one triangle after
   another elsewhere. No mask is made. A model whose attention cannot do that keeps masks.
2. Modules that carry something else along a row (recurrent states, convolutions, linear or sparse attention) are found
   by the trial too, and run example by example.

An architecture for which neither is enough is refused.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask, sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.errors import MoemixError
from trainers.models.routers import is_moe_layer

TOLERANCE = 1e-4  # relative to a token's hidden state; right models stay below 2e-5
_DRAWS = 3  # trials with other tokens, since rounding may flip the choice between two experts of equal score
_NAME = "packed"

Rows = tuple[tuple[int, ...], ...]
"""The lengths of the examples in each row, in order; padding at the end of a row is one more of them."""


class _Packed(NamedTuple):
    """The rows of the forward pass in progress.

    Attributes:
        rows: the lengths of its examples.
        shape: R, T.
    """

    rows: Rows
    shape: tuple[int, int]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of all examples, row after row."""
        return tuple(itertools.chain.from_iterable(self.rows))


# A pass that activation checkpointing runs again in the backward pass still finds its rows here.
_current: _Packed | None = None
_announced: tuple[weakref.ref[Tensor], Rows] | None = None


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


def prepare_packing(model: PreTrainedModel, max_length: int = 512) -> None:
    """Make a model, with weights in float32, compute packed examples as it computes them alone, and prove that it does.

    ``max_length`` is the number of tokens in the largest row.

    Raises:
        MoemixError: packed examples differ from single ones.
    """
    trial = _Trial(model, _trial_rows(max_length))
    ways = [partial(_attend_by_example, model)] if _attends_by_example(model) else []
    decoder = model.base_model
    decoder.register_forward_pre_hook(_enter, with_kwargs=True)
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        decoder.register_forward_pre_hook(_add_chunked_masks, with_kwargs=True)
    ways += [partial(model.set_attn_implementation, trial.attention), partial(_isolate_states, model, trial)]
    for way in ways:
        way()
        if trial.passes():
            return
    raise trial.error(f"rows of {max_length} tokens")


def check_rows(model: PreTrainedModel, rows: Rows, tokens: Sequence[Tensor]) -> None:
    """Check real rows: each example in them gives what it gives alone.

    Raises:
        MoemixError: one does not.
    """
    trial = _Trial(model, rows, tokens)
    if not trial.passes():
        raise trial.error("the first rows of the training data")


class _Trial:
    """Examples packed in rows and each alone, the latter by the model as it was when this was made.

    Args:
        model: a model in float32.
        rows: the lengths of the examples in each row.
        tokens: the token ids of each example; random if there are none, or where these do not pass.
    """

    def __init__(self, model: PreTrainedModel, rows: Rows, tokens: Sequence[Tensor] = ()) -> None:
        self.model, self.rows, self.attention = model, rows, model.config._attn_implementation
        lengths = list(itertools.chain.from_iterable(rows))
        generator = torch.Generator().manual_seed(0)
        vocabulary = cast("nn.Embedding", model.get_input_embeddings()).num_embeddings
        draws = [torch.randint(vocabulary, (sum(lengths),), generator=generator).split(lengths) for _ in range(_DRAWS)]
        self.draws: list[Sequence[Tensor]] = [tokens, *draws] if tokens else list(draws)
        self.apart = [float("inf")] * len(self.draws)
        with self._quiet():
            self.alone = [[self._decode(example[None]) for example in draw] for draw in self.draws[:1]]

    def passes(self) -> bool:
        """Run the trial with one draw of tokens after another, until one shows no difference at all."""
        with self._quiet():
            for i, draw in enumerate(self.draws):
                if i == len(self.alone):
                    used = self.model.config._attn_implementation
                    self.model.set_attn_implementation(self.attention)
                    self.alone.append([self._decode(example[None]) for example in draw])
                    self.model.set_attn_implementation(used)
                self.apart[i] = self._apart(self._packed(draw), self.alone[i])
                if self.apart[i] <= TOLERANCE:
                    return True
        return False

    def error(self, where: str) -> MoemixError:
        """Return what to say where the trial does not pass."""
        return MoemixError(
            f"{type(self.model).__name__} does not keep packed examples apart: in {where} a token's hidden state"
            f" differs by {min(self.apart):.0e} from that of the same example alone (at most {TOLERANCE:.0e} is"
            f" accepted; attention: {self.attention})",
            where="training.pack",
            hint="set training.pack=false",
        )

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Evaluate, without gradients, and with noise in parameters whose values are all the same.

        A state that the initial weights switch off (by a factor of 0, say) would not show otherwise.
        """
        was_training = self.model.training
        kept: list[tuple[Tensor, Tensor]] = []
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.model.parameters():
                flat = parameter.flatten()
                if len(flat) > 1 and flat[0] == flat[-1] and bool((flat == flat[0]).all()):
                    kept.append((parameter, parameter.clone()))
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(noise.to(parameter), alpha=0.1)
            self.model.eval()
            try:
                yield
            finally:
                self.model.train(was_training)
                for changed, value in kept:
                    changed.copy_(value)

    def _packed(self, draw: Sequence[Tensor]) -> list[Tensor]:
        """Return each example's hidden states f[t, H], from packed rows padded to the longest."""
        width, found, examples = max(map(sum, self.rows)), [], iter(draw)
        for row in self.rows:
            parts = [next(examples) for _ in row]
            positions = [torch.arange(length) for length in (*row, width - sum(row))]
            ids = torch.cat([*parts, parts[0].new_zeros(width - sum(row))])
            hidden_TH = self._decode(ids[None], torch.cat(positions)[None])
            found += hidden_TH[: sum(row)].split(row)
        return found

    def _decode(self, ids_1T: Tensor, position_1T: Tensor | None = None) -> Tensor:
        if position_1T is None:
            position_1T = torch.arange(ids_1T.shape[1])[None]
        device = self.model.device
        # Hidden states, or logits where an architecture hides its decoder (Llama 4).
        decoded: Tensor = self.model.base_model(
            input_ids=ids_1T.to(device), position_ids=position_1T.to(device), use_cache=False
        )[0]
        return decoded[0]

    @staticmethod
    def _apart(packed: Sequence[Tensor], alone: Sequence[Tensor]) -> float:
        """Return the largest change of a token's hidden state; infinite where one is not a number."""
        distances = []
        for whole, single in zip(packed, alone, strict=True):
            found_NH, expected_NH = whole.flatten(1).float(), single.flatten(1).float()
            distance_N = (found_NH - expected_NH).norm(dim=-1) / expected_NH.norm(dim=-1).clamp(min=1e-30)
            distances.append(distance_N[expected_NH.isfinite().all(dim=-1)])  # training says what is wrong with others
        return float(torch.cat([*distances, expected_NH.new_zeros(1)]).nan_to_num(nan=math.inf).max())


def _trial_rows(max_length: int) -> Rows:
    """Return one row of the largest length: half of it one example, then shorter and shorter ones, and short ones."""
    lengths, left = [], max_length
    for part in (3, 2, max_length // 2, max_length // 4, 1, max_length // 8):
        if 0 < part <= left:
            lengths.append(part)
            left -= part
    return ((*lengths, *([left] if left else [])),)


# --- which rows are computed ----------------------------------------------------------------------


def _enter(decoder: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
    """Take note of the rows of a forward pass, where the decoder is called as training calls it."""
    global _current
    position_RT, _current = kwargs.get("position_ids"), None
    if position_RT is None or kwargs.get("attention_mask") is not None or kwargs.get("use_cache"):
        return
    known = _announced is not None and _announced[0]() is position_RT
    rows = cast("tuple[Any, Rows]", _announced)[1] if known else rows_of(position_RT)
    _current = _Packed(rows, (len(rows), position_RT.shape[1]))


@contextmanager
def _within(rows: Rows | None) -> Iterator[None]:
    """Compute other rows than those of the whole forward pass."""
    global _current
    before, _current = _current, None if rows is None else _Packed(rows, (len(rows), sum(rows[0])))
    try:
        yield
    finally:
        _current = before


def _add_chunked_masks(
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


def _attends_by_example(model: PreTrainedModel) -> bool:
    """Return whether attention takes no mask but a window's size, as a FlashAttention kernel does, and no dropout."""
    config = model.config.get_text_config()
    return (
        config._attn_implementation == "sdpa"
        and bool(model._supports_flash_attn)
        and not getattr(config, "attention_dropout", 0)
        and not getattr(config, "attention_chunk_size", None)
    )


def _attend_by_example(model: PreTrainedModel) -> None:
    AttentionInterface.register(_NAME, packed_attention)
    AttentionMaskInterface.register(_NAME, _no_mask)
    model.set_attn_implementation(_NAME)


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
    packed, (rows, _, tokens, width) = _current, query.shape
    if packed is None or attention_mask is not None or packed.shape != (rows, tokens):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if kwargs.get("position_bias") is not None or kwargs.get("dropout"):
        raise NotImplementedError("attention over packed rows has no position bias and no dropout")
    lengths, device = packed.lengths, query.device
    attend: Callable[..., Any] = varlen_by_example
    if device.type == "cuda" and query.dtype != torch.float32:
        attend = varlen_attn
    heads = value.shape[-1]
    query_NHD, key_NHD, value_NHD = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    if attend is varlen_attn and heads != width:  # the kernel knows one width
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
        enable_gqa=True,
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


@cache
def _last_ends() -> dict[tuple[tuple[int, ...], torch.device], Tensor]:
    return {}


def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return i32[S + 1], the sums of the lengths; all layers of a forward pass share them."""
    last = _last_ends()
    if (lengths, device) not in last:
        last.clear()
        ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        last[lengths, device] = (ends.pin_memory() if device.type == "cuda" else ends).to(device, non_blocking=True)
    return last[lengths, device]


# --- modules with a state along the row -----------------------------------------------------------


def _isolate_states(model: PreTrainedModel, trial: _Trial) -> None:
    """Let the modules that carry something from one example to the next run example by example."""
    candidates = dict(_candidates(model.base_model))
    leaking: set[str] = set()
    handles = []
    busy = False

    def compare(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal busy
        if busy or _current is None or name in leaking:
            return
        busy, shape = True, _current.shape
        try:
            parts = _by_example(module.forward, *args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return  # it cannot be run so; if it matters, the trial will not pass
        finally:
            busy = False
        whole, alone = _first(output), _first(parts)
        if not (_is_row(whole, shape) and _is_row(alone, shape)):
            return
        if not trial._apart([whole.flatten(0, 1)], [alone.flatten(0, 1)]) <= TOLERANCE:
            leaking.add(name)

    for name, module in candidates.items():
        hook = partial(_called, compare, name)
        handles.append(module.register_forward_hook(hook, with_kwargs=True))
    with trial._quiet():
        trial._packed(trial.draws[0])
    for handle in handles:
        handle.remove()
    kinds = {type(candidates[name]) for name in leaking}
    for module in candidates.values():
        if type(module) in kinds:
            module.forward = partial(_by_example, module.forward)


def _called(see: Callable[..., None], name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    see(name, module, args, kwargs, output)


def _candidates(decoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a decoder and of its layers; a part with experts is taken apart, for experts see all rows."""
    whole = {
        module
        for module in decoder.modules()
        if module is decoder
        or isinstance(module, GradientCheckpointingLayer)
        or any(is_moe_layer(part) for part in module.modules())
    }
    for name, module in decoder.named_modules():
        parent = decoder.get_submodule(name.rpartition(".")[0]) if name else None
        if parent is not None and module not in whole and (parent in whole or isinstance(parent, nn.ModuleList)):
            yield name, module


class _Parts(list[Any]):
    """What a module returns for each example, where it has no place in a row (attention weights, chosen positions)."""


def _by_example(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a module's forward on one example after another, and join what it returns."""
    packed = _current
    whole = packed is not None and any(_is_row(value, packed.shape) for value in (*args, *kwargs.values()))
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


def _is_row(value: Any, shape: tuple[int, int]) -> bool:
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


def _join(outputs: list[Any], packed: _Packed) -> Any:
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


def _first(output: Any) -> Any:
    """Return what a module returns, or the first of several values."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output
