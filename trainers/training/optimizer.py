"""Which parameters learn, by what rule, and how fast at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.errors import MoemixError
from harness.recipe import ROUTER_MODULES, Training


def freeze(model: nn.Module, which: Literal["none", "router", "paper"]) -> None:
    """Take parameters out of training; all others are put in.

    Args:
        which: ``none``; ``router``, the parameters of the routers alone; ``paper``, every parameter with ``gate``
            in its name, which takes the experts' gate projections along, as the paper's runs did.

    Raises:
        MoemixError: the model has no such parameter.
    """
    frozen = 0
    for name, parameter in model.named_parameters():
        held = is_frozen(name, which)
        parameter.requires_grad_(not held)
        frozen += held
    if which != "none" and not frozen:
        raise MoemixError(f"{type(model).__name__} has no parameters to freeze", where=f"training.freeze={which}")


def is_frozen(name: str, which: Literal["none", "router", "paper"]) -> bool:
    """Whether :func:`freeze` keeps a parameter (or all of a module) of this name."""
    of_router = not ROUTER_MODULES.isdisjoint(name.split("."))
    return (which == "router" and of_router) or (which == "paper" and "gate" in name)


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW over what is not frozen; matrices decay, norms and biases do not."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=training.learning_rate, betas=training.betas, fused=True
    )


def learning_rate(training: Training, step: int) -> float:
    """The rate of a step, counted from 0: linear warm-up to the full rate, then the schedule down to 0 at the end."""
    warmup = math.ceil(training.warmup * training.steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    if training.schedule == "constant":
        return training.learning_rate
    done = (step - warmup) / max(1, training.steps - warmup)
    left = 1.0 - done if training.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return training.learning_rate * left


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as ``<parameter>/<field>`` → tensor."""
    return {
        f"{name}/{field}": tensor
        for name, parameter in model.named_parameters()
        for field, tensor in optimizer.state.get(parameter, {}).items()
    }


def restore_moments(model: nn.Module, optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`moments`."""
    parameters = dict(model.named_parameters())
    for key, tensor in stored.items():
        name, _, field = key.rpartition("/")
        parameter = parameters[name]
        optimizer.state[parameter][field] = tensor.to(parameter.device, copy=True)
