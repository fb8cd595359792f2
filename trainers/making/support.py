"""Which MoE architectures of the installed transformers work here: each is tried as a small random model."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from harness.errors import MoemixError
from harness.recipe import LoRA
from trainers.models import grouped
from trainers.models.architectures import small_model
from trainers.models.packing import prepare_packing
from trainers.models.routers import RouterObserver
from trainers.models.trainable import add_adapters, checkpoint_activations, merge_adapters

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


def table(kinds: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a Markdown table, one for each architecture."""
    yield f"| architecture | {' | '.join(CHECKS)} |"
    yield "|---" * (len(CHECKS) + 1) + "|"
    for kind in kinds:
        yield f"| `{kind}` | {' | '.join(check(kind).values())} |"


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
}
