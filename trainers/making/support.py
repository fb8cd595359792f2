"""Which MoE architectures of the installed transformers work here: each is tried as a small random model."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from harness.errors import MoemixError
from harness.recipe import LoRA, Mixing, Training
from trainers.data import TokenSource
from trainers.data.tokens import Example, SourceReport
from trainers.mixing import load_strategy
from trainers.models import grouped
from trainers.models.architectures import small_config, small_model
from trainers.models.packing import prepare_packing
from trainers.models.routers import RouterObserver
from trainers.models.trainable import add_adapters, checkpoint_activations, merge_adapters
from trainers.training.loop import FitRequest, fit

LENGTHS = (9, 24, 7)


def check(kind: str) -> dict[str, str]:
    """Try an architecture. Each check gives ``right``, ``refused`` or ``not``, with the first words of the reason."""
    found = {}
    for name, trial in CHECKS.items():
        try:
            found[name] = "right" if trial(kind) else "not"
        except MoemixError:
            found[name] = "refused"
        except Exception as error:  # whatever an architecture does wrong
            found[name] = f"not ({type(error).__name__})"
    return found


def served_by_vllm(kinds: Iterable[str]) -> dict[str, str]:
    """Return what vLLM says of architectures: ``own`` code, its ``backend`` for transformers' models, or ``refused``.

    Nothing is served. Without vLLM each is ``not tried``.
    """
    try:
        from vllm.model_executor.models.registry import ModelRegistry
    except ImportError:
        return dict.fromkeys(kinds, "not tried")
    own, found = set(ModelRegistry.get_supported_archs()), {}
    for kind in kinds:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(small_config(kind))
        known = type(model).__name__ in own
        found[kind] = "own" if known else "backend" if model._supports_attention_backend else "refused"
    return found


def _ids() -> Tensor:
    return torch.randint(3, 96, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def _counts(kind: str) -> bool:
    """Each token moves the experts that it is counted for: those whose weights, changed, change the layer's output."""
    model, ids = small_model(kind), _ids()
    observer, sources = RouterObserver(model), torch.arange(ids.numel()).view_as(ids)
    with observer.count(sources, ids.numel()), observer.record() as routings:
        model(input_ids=ids, use_cache=False)
    counts = observer.take()
    for layer, routing in enumerate(routings):
        for token, (chosen, scores) in enumerate(zip(routing.selected_Nk, routing.scores_Nk, strict=True)):
            expected = torch.bincount(chosen[scores != 0], minlength=observer.num_experts).numpy()
            if (counts[token, layer] != expected).any():
                return False
    return bool(counts.sum())


@torch.no_grad()
def _packing(kind: str) -> bool:
    model = small_model(kind)
    prepare_packing(model, 64)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    packed = model.base_model(input_ids=_ids(), position_ids=positions, use_cache=False)[0]
    plain = small_model(kind).base_model
    alone = torch.cat([plain(input_ids=part, use_cache=False)[0] for part in _ids().split(LENGTHS, 1)], 1)
    return _close(packed, alone)


def _gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    torch.manual_seed(0)
    logits = model.train()(input_ids=_ids(), use_cache=False).logits
    (logits * torch.linspace(-1, 1, logits.shape[-1])).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _training(kind: str) -> bool:
    """Gradients are finite."""
    gradients = _gradients(small_model(kind))
    return len(gradients) > 1 and all(bool(gradient.isfinite().all()) for gradient in gradients.values())


def _checkpointing(kind: str) -> bool:
    """Activation checkpointing gives the same gradients."""
    expected, model = _gradients(small_model(kind)), small_model(kind)
    checkpoint_activations(model)
    found = _gradients(model)
    return found.keys() == expected.keys() and all(_close(found[name], expected[name]) for name in expected)


@torch.no_grad()
def _bfloat16(kind: str) -> bool:
    """Our grouped experts give what transformers' loop gives."""
    model = small_model(kind)
    before = model(input_ids=_ids(), use_cache=False).logits
    model.set_experts_implementation(grouped.NAME)
    return _close(model(input_ids=_ids(), use_cache=False).logits, before)


@torch.no_grad()
def _lora(kind: str, experts: str) -> bool:
    """Merged adapters compute what the adapters did, under the names that the model had."""
    model = small_model(kind)
    names = set(model.state_dict())
    add_adapters(model, LoRA.model_validate({"r": 2, "experts": experts}), "none", 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted = model(input_ids=_ids(), use_cache=False).logits
    merge_adapters(model)
    return names == set(model.state_dict()) and _close(model(input_ids=_ids(), use_cache=False).logits, adapted)


@torch.no_grad()
def _save(kind: str) -> bool:
    """A saved checkpoint reloads to the same bits."""
    model = small_model(kind)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    again = loaded.state_dict()
    return all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


class _BrokenOffError(Exception):
    pass


class _BreaksOff:
    """A tracker that ends a training in its third step, after the state of the second."""

    def begin(self) -> None:
        self._steps = 0

    def add(self, record: object) -> None:
        pass

    def end_step(self) -> None:
        self._steps += 1
        if self._steps == 3:
            raise _BrokenOffError


def trained(kind: str, folder: Path, *, dtype: str = "float32", breaks_off: bool = False) -> PreTrainedModel:
    """Train an architecture for four steps on two sources of random tokens; a training that broke off goes on.

    Rows are packed where the architecture allows it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan: dict[str, Any] = {
        "steps": 4,
        "save_every": 2,
        "batch_examples": 6,
        "max_length": 32,
        "rows_per_forward": 1,
        "log_every": 1,
    }
    for pack in (True, False):
        model = small_model(kind)
        request = FitRequest(
            model=model,
            tokenizer=cast("Any", SimpleNamespace(pad_token_id=0, eos_token_id=0)),
            sources=[_source(name, seed) for seed, name in enumerate(("a", "b"))],
            strategy=load_strategy("uniform"),
            training=Training(**plan, pack=pack, learning_rate=1e-3, dtype=cast("Any", dtype), gate_noise=None),
            mixing=Mixing(),
            seed=0,
            folder=folder,
            title=kind,
            tracker=cast("Any", _BreaksOff()) if breaks_off else None,
        )
        try:
            fit(request)
        except MoemixError:
            if not pack:
                raise
        else:
            return model
    raise AssertionError


def _source(name: str, seed: int) -> TokenSource:
    random = np.random.default_rng(seed)
    examples = [
        Example(random.integers(3, 96, n).astype(np.int32), np.arange(n) >= n // 2)
        for n in random.integers(6, 33, 16).tolist()
    ]
    return TokenSource(name, 16, cast("Any", examples), cast("Any", []), SourceReport())


def _resume(kind: str) -> bool:
    """A training that broke off and went on ends with the same bits as another."""
    with tempfile.TemporaryDirectory() as folder:
        whole = trained(kind, Path(folder) / "whole")
        with suppress(_BrokenOffError):
            trained(kind, Path(folder) / "broken", breaks_off=True)
            return False
        resumed = trained(kind, Path(folder) / "broken")
    return all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))


def _in_bfloat16(kind: str) -> bool:
    """Training in bfloat16 changes the weights, and leaves them numbers, in float32."""
    before = dict(small_model(kind).named_parameters())
    with tempfile.TemporaryDirectory() as folder:
        model = trained(kind, Path(folder), dtype="bfloat16")
    changed = [not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters()]
    numbers = all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in model.parameters())
    return numbers and sum(changed) > len(changed) / 2


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether all differences are small beside the largest value."""
    return bool((found - expected).abs().max() <= 1e-3 * expected.abs().max())


CHECKS: dict[str, Callable[[str], bool]] = {
    "counts": _counts,
    "packing": _packing,
    "training": _training,
    "checkpointing": _checkpointing,
    "grouped experts": _bfloat16,
    "LoRA": lambda kind: _lora(kind, "shared"),
    "LoRA of routed experts": lambda kind: _lora(kind, "all"),
    "save": _save,
    "resume": _resume,
    "bfloat16": _in_bfloat16,
}
