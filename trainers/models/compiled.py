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
from trainers.models.routers import parts_of


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
        for name, module in parts_of(layer):
            # what has a forward of its own runs example by example
            if ROUTER_MODULES.isdisjoint(name.split(".")) and "forward" not in vars(module):
                module.forward = torch.compile(module.forward)
                count += 1
    if not count:
        raise MoemixError(f"{type(model).__name__} has no layers to compile", where="training.compile")
