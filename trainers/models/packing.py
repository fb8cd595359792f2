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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.errors import MoemixError
from trainers.models.packed import (
    Rows,
    add_chunked_masks,
    attend_by_example,
    attends_by_example,
    by_example,
    current,
    enter,
    is_row,
)
from trainers.models.routers import is_moe_layer, parts_of

TOLERANCE = 1e-4  # relative to a token's hidden state; right models stay below 2e-5
_DRAWS = 3  # trials with other tokens, since rounding may flip the choice between two experts of equal score


def prepare_packing(model: PreTrainedModel, max_length: int = 512) -> None:
    """Make a model, with weights in float32, compute packed examples as it computes them alone, and prove that it does.

    ``max_length`` is the number of tokens in the largest row.

    Raises:
        MoemixError: packed examples differ from single ones.
    """
    trial = _Trial(model, _trial_rows(max_length))
    ways = [partial(attend_by_example, model)] if attends_by_example(model) else []
    decoder = model.base_model
    decoder.register_forward_pre_hook(enter, with_kwargs=True)
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        decoder.register_forward_pre_hook(add_chunked_masks, with_kwargs=True)
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


# --- modules with a state along the row -----------------------------------------------------------


def _isolate_states(model: PreTrainedModel, trial: _Trial) -> None:
    """Let the modules that carry something from one example to the next run example by example."""
    # Experts see all rows.
    candidates = {name: module for name, module in parts_of(model.base_model) if not is_moe_layer(module)}
    leaking: set[str] = set()
    handles = []
    busy = False

    def compare(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal busy
        packed = current()
        if busy or packed is None or name in leaking:
            return
        busy, shape = True, packed.shape
        try:
            parts = by_example(module.forward, *args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return  # it cannot be run so; if it matters, the trial will not pass
        finally:
            busy = False
        whole, alone = _first(output), _first(parts)
        if not (is_row(whole, shape) and is_row(alone, shape)):
            return
        if not trial._apart([whole.flatten(0, 1)], [alone.flatten(0, 1)]) <= TOLERANCE:
            leaking.add(name)

    for name, module in candidates.items():
        handles.append(module.register_forward_hook(partial(compare, name), with_kwargs=True))
    with trial._quiet():
        trial._packed(trial.draws[0])
    for handle in handles:
        handle.remove()
    kinds = {type(candidates[name]) for name in leaking}
    for module in candidates.values():
        if type(module) in kinds:
            module.forward = partial(by_example, module.forward)


def _first(output: Any) -> Any:
    """Return what a module returns, or the first of several values."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output
