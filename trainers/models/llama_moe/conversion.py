"""Published parameter names and these: experts one by one, ``…calculator.experts.weight_gate.3``, and stacked.

transformers stacks when it loads and takes apart when it saves, by a mapping that is registered for the model type.
vLLM brings its own experts and stacks them itself; it needs the names of one module per expert.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

from trainers.models.llama_moe.configuration import LlamaMoEConfig

# published name of a projection → its name here
_PROJECTIONS = {"weight_gate": "gate_proj", "weight_up": "up_proj", "weight_down": "down_proj"}


def register_stacking() -> None:
    """For processes that load and save with transformers."""
    stackings = [
        WeightConverter([f".mlp.calculator.experts.{old}.*"], f".mlp.experts.{new}", operations=[Stack()])
        for old, new in _PROJECTIONS.items()
    ]
    register_checkpoint_conversion_mapping(LlamaMoEConfig.model_type, stackings, overwrite=True)


def register_renaming() -> None:
    """For processes that serve with vLLM."""
    renamings = [
        WeightRenaming(rf"\.mlp\.calculator\.experts\.{old}\.(\d+)$", rf".mlp.experts.\1.{new}.weight")
        for old, new in _PROJECTIONS.items()
    ]
    register_checkpoint_conversion_mapping(LlamaMoEConfig.model_type, renamings, overwrite=True)


class Stack(ConversionOps):
    """One tensor for each expert, in their order → one tensor, experts first."""

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        (experts,) = input_dict.values()
        return {target_patterns[0]: torch.stack(experts)}

    @property
    def reverse_op(self) -> ConversionOps:
        return Unstack()


class Unstack(ConversionOps):
    """The inverse; names its tensors in full, for the number of an expert ends its name."""

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str = "",
        **kwargs: Any,
    ) -> dict[str, Any]:
        (stacked,) = input_dict.values()
        tensor = stacked[0] if isinstance(stacked, list) else stacked
        return {full_layer_name.replace("*", str(i)): expert.contiguous() for i, expert in enumerate(tensor)}

    @property
    def reverse_op(self) -> ConversionOps:
        return Stack()
