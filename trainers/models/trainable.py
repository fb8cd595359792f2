"""What of a model learns: frozen parameters, gate noise, and low-rank adapters (LoRA).

Adapters come from peft. They are put into the model in place and merged into its weights after training. The model
keeps its class, so whatever reads routers or computes losses sees the architecture it knows, and the saved checkpoint
is an ordinary one without adapters.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from harness.errors import MoemixError, nearest
from harness.recipe import ROUTER_MODULES, LoRA

Frozen = Literal["none", "router", "paper"]
"""The recipe's ``training.freeze``. ``router`` freezes the routers' parameters. ``paper`` freezes every parameter with
``gate`` in its name, as the paper's runs did; that includes the gate projections of the experts."""


def freeze(model: nn.Module, which: Frozen) -> None:
    """Exclude parameters from training, and include all others.

    Raises:
        MoemixError: the model has no such parameter.
    """
    frozen = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_frozen(name, which))
        frozen += is_frozen(name, which)
    if which != "none" and not frozen:
        raise MoemixError(f"{type(model).__name__} has no parameters to freeze", where=f"training.freeze={which}")


def is_frozen(name: str, which: Frozen) -> bool:
    """Return whether :func:`freeze` freezes a parameter (or all of a module) of this name."""
    of_router = not ROUTER_MODULES.isdisjoint(name.split("."))
    return (which == "router" and of_router) or (which == "paper" and "gate" in name)


def set_gate_noise(model: nn.Module, on: bool) -> None:
    """Switch the noise that routers add in training on or off; they never add it in evaluation.

    This covers noise that a router learns (LLaMA-MoE) and noise that an architecture multiplies its hidden states by
    (``jitter_noise`` of Mixtral and PhiMoE). Switched on, the model's own configuration says how much there is.

    Raises:
        MoemixError: noise should be on, and the model has none.
    """
    noisy = False
    for module in model.modules():
        if hasattr(module, "add_noise"):
            vars(module)["add_noise"] = on and hasattr(module, "weight_noise")
            noisy |= vars(module)["add_noise"]
        for name in ("jitter_noise", "input_jitter_noise"):
            if isinstance(value := getattr(module, name, None), float):
                setattr(module, name, value if on else 0.0)
                noisy |= on and value > 0
    if on and not noisy:
        raise MoemixError(
            f"{type(model).__name__} has no gate noise",
            where="training.gate_noise",
            hint="LLaMA-MoE has gate noise if its configuration says `gate_add_noise`",
        )


def add_adapters(model: PreTrainedModel, lora: LoRA, frozen: Frozen, seed: int) -> list[str]:
    """Freeze the model and give its linear layers adapters that learn.

    Layers that ``frozen`` freezes get no adapter, so a frozen router is the same after merging. Routers that are not
    frozen get adapters only if ``lora.targets`` names them.

    Args:
        model: the model, changed in place.
        lora: rank, scale, dropout and target layers.
        frozen: the recipe's ``training.freeze``.
        seed: seeds the adapters' initial weights, with which they change nothing yet.

    Returns:
        the full names of the layers that got an adapter.

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
    alpha = cast("int", lora.alpha)  # peft accepts any number
    config = LoraConfig(r=lora.r, lora_alpha=alpha, lora_dropout=lora.dropout, target_modules=names)
    model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return names


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters to the weights and remove them."""
    from peft.tuners.lora import LoraLayer

    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapted:
        module.merge()
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.get_base_layer())
    model.requires_grad_(True)
    vars(model).pop("peft_config", None)
    if hasattr(model, "_hf_peft_config_loaded"):
        vars(model)["_hf_peft_config_loaded"] = False


def _targets(model: PreTrainedModel, lora: LoRA, frozen: Frozen) -> list[str]:
    """Return the full names of the layers that get adapters."""
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head]
    known = {name.rpartition(".")[2] for name in linear}
    for target in lora.targets:
        if target not in known:
            raise MoemixError(
                f"{type(model).__name__} has no linear layer {target!r}",
                where="training.lora.targets",
                hint=nearest(target, known),
            )

    def wanted(name: str) -> bool:
        if lora.targets:
            return name.rpartition(".")[2] in lora.targets
        return ROUTER_MODULES.isdisjoint(name.split("."))

    names = [name for name in linear if wanted(name) and not is_frozen(name, frozen)]
    if not names:
        raise MoemixError(f"training.freeze={frozen} leaves no layer to adapt", where="training.lora.targets")
    return names
