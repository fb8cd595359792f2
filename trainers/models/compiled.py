"""Compile the parts of a model whose kernels gain from it: norms, attention around its kernel, and experts.

Whole layers are not compiled. Hooks that count what routers decide would be compiled away with them, and a layer's
routers would have to compute the same with and without.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.errors import MoemixError
from harness.recipe import ROUTER_MODULES
from trainers.models.packed import NAME, packed_attention
from trainers.models.routers import is_moe_layer


def compile_parts(model: PreTrainedModel) -> None:
    """Compile the parts of each layer, the first time that they run; a router stays as it is.

    Raises:
        MoemixError: the model has no layers, or torch has no compiler here.
    """
    AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))  # one kernel, which knows the rows
    count = 0
    for layer in model.modules():
        if not isinstance(layer, GradientCheckpointingLayer):
            continue
        for module in _parts(layer):
            if "forward" not in vars(module):  # otherwise it runs example by example
                module.forward = torch.compile(module.forward)
                count += 1
    if not count:
        raise MoemixError(f"{type(model).__name__} has no layers to compile", where="training.compile")


def _parts(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the parts of a layer; one that has experts is taken apart, down to the experts."""
    found = []
    for name, part in module.named_children():
        if name in ROUTER_MODULES:
            continue
        holds_experts = any(is_moe_layer(inner) for inner in part.modules() if inner is not part)
        found += _parts(part) if holds_experts else [part]
    return found
