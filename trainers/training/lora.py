"""Low-rank adapters by peft: put into the model in place, and merged into its weights when training is done.

The model keeps its class, so everything that reads routers or computes losses sees the architecture it knows; what is
saved in the end is an ordinary checkpoint without a trace of adapters.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from harness.errors import MoemixError, nearest
from harness.recipe import ROUTER_MODULES, LoRA
from trainers.training.optimizer import is_frozen


def add_adapters(model: Any, lora: LoRA, frozen: Literal["none", "router", "paper"], seed: int) -> list[str]:
    """Freeze the model and give its linear layers adapters that learn; the names of these layers.

    Layers that ``frozen`` keeps as they are get none, so a frozen router stays what it was when all is merged. Where
    routers are not frozen, they get adapters only if ``lora.targets`` names them.

    Args:
        seed: of the adapters' beginnings. They begin by changing nothing.

    Raises:
        MoemixError: peft is not installed, or there is no such layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MoemixError(
            "adapters need the package peft", where="training.lora", hint="pip install moemix[lora]"
        ) from error
    names = _targets(model, lora, frozen)
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
    model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return names


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters to the weights and take them away."""
    from peft.tuners.lora import LoraLayer

    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapted:
        module.merge()
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.get_base_layer())
    model.requires_grad_(True)
    if hasattr(model, "peft_config"):
        del model.peft_config
    if hasattr(model, "_hf_peft_config_loaded"):
        model._hf_peft_config_loaded = False  # type: ignore[assignment]


def _targets(model: Any, lora: LoRA, frozen: Literal["none", "router", "paper"]) -> list[str]:
    """Full names of the layers that get adapters."""
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head]
    for target in lora.targets:
        if not any(name.rpartition(".")[2] == target for name in linear):
            known = {name.rpartition(".")[2] for name in linear}
            raise MoemixError(
                f"{type(model).__name__} has no linear layer {target!r}",
                where="training.lora.targets",
                hint=nearest(target, known),
            )

    def wanted(name: str) -> bool:
        if is_frozen(name, frozen):
            return False
        if lora.targets:
            return name.rpartition(".")[2] in lora.targets
        return ROUTER_MODULES.isdisjoint(name.split("."))

    names = [name for name in linear if wanted(name)]
    if not names:
        raise MoemixError(f"training.freeze={frozen} leaves no layer to adapt", where="training.lora.targets")
    return names
