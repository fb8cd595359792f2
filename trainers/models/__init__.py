"""Model code of this project: its own architectures, loading, losses, and what routers select.

Importing this package registers the project's architectures with transformers (``AutoConfig``, ``AutoModel``,
``AutoModelForCausalLM``), so every process that loads a checkpoint imports it first. All other architectures come from
transformers.
"""

from __future__ import annotations

import transformers

from trainers.models.llama_moe.configuration import LlamaMoEConfig
from trainers.models.llama_moe.conversion import register_renaming, register_stacking
from trainers.models.llama_moe.modeling import LlamaMoEForCausalLM, LlamaMoEModel
from trainers.models.moduleformer.configuration import ModuleFormerConfig
from trainers.models.moduleformer.modeling import ModuleFormerForCausalLM, ModuleFormerModel


def register() -> None:
    """Register configurations and models with transformers' Auto classes; calling it again changes nothing."""
    register_stacking()
    for config, base, causal in (
        (LlamaMoEConfig, LlamaMoEModel, LlamaMoEForCausalLM),
        (ModuleFormerConfig, ModuleFormerModel, ModuleFormerForCausalLM),
    ):
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        transformers.AutoModel.register(config, base, exist_ok=True)
        transformers.AutoModelForCausalLM.register(config, causal, exist_ok=True)


def register_with_vllm() -> None:
    """Register LLaMA-MoE with vLLM, which calls this in each of its processes (entry point ``vllm.general_plugins``).

    vLLM's Transformers backend looks classes up in the package ``transformers`` itself, by the name in ``config.json``.
    """
    register()
    register_renaming()
    vars(transformers)["LlamaMoEForCausalLM"] = LlamaMoEForCausalLM


register()
