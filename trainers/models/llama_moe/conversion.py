"""Convert published parameters, one expert each (``…calculator.experts.weight_gate.3``), to stacked ones and back.

transformers stacks experts when it loads and takes them apart when it saves, by a mapping that is registered for the
model type. vLLM has experts of its own and stacks them itself; it needs the names of one module per expert.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, MergeModulelist, WeightConverter, WeightRenaming

from trainers.models.llama_moe.configuration import LlamaMoEConfig

# published name of a projection → its name here
_PROJECTIONS = {"weight_gate": "gate_proj", "weight_up": "up_proj", "weight_down": "down_proj"}


def register_stacking() -> None:
    """Register the conversion for processes that load and save with transformers."""
    stackings: list[WeightConverter | WeightRenaming] = [
        WeightConverter([f".mlp.calculator.experts.{old}.*"], f".mlp.experts.{new}", operations=[Stack()])
        for old, new in _PROJECTIONS.items()
    ]
    register_checkpoint_conversion_mapping(LlamaMoEConfig.model_type, stackings, overwrite=True)


def register_renaming() -> None:
    """Register other names for processes that serve with vLLM."""
    renamings: list[WeightConverter | WeightRenaming] = [
        WeightRenaming(rf"\.mlp\.calculator\.experts\.{old}\.(\d+)$", rf".mlp.experts.\1.{new}.weight")
        for old, new in _PROJECTIONS.items()
    ]
    register_checkpoint_conversion_mapping(LlamaMoEConfig.model_type, renamings, overwrite=True)


class Stack(MergeModulelist):
    """Stacks one tensor for each expert, in their order, into one tensor with experts first."""

    @property
    def reverse_op(self) -> ConversionOps:
        """The inverse."""
        return Unstack()


class Unstack(ConversionOps):
    """The inverse of :class:`Stack`; it names its tensors in full, as their names end with the number of the expert."""

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str = "",
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Take apart."""
        (stacked,) = input_dict.values()
        tensor = stacked[0] if isinstance(stacked, list) else stacked
        return {full_layer_name.replace("*", str(i)): expert.contiguous() for i, expert in enumerate(tensor)}

    @property
    def reverse_op(self) -> ConversionOps:
        """The inverse."""
        return Stack()
