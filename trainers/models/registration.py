"""The project's own architectures, made known to transformers and to vLLM."""

from __future__ import annotations


def register() -> None:
    """Register configurations and models with transformers' Auto classes. Safe to call again."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from trainers.models.llama_moe.configuration import LlamaMoEConfig
    from trainers.models.llama_moe.conversion import register_stacking
    from trainers.models.llama_moe.modeling import LlamaMoEForCausalLM, LlamaMoEModel
    from trainers.models.moduleformer.configuration import ModuleFormerConfig
    from trainers.models.moduleformer.modeling import ModuleFormerForCausalLM, ModuleFormerModel

    register_stacking()
    for config, base, causal in (
        (LlamaMoEConfig, LlamaMoEModel, LlamaMoEForCausalLM),
        (ModuleFormerConfig, ModuleFormerModel, ModuleFormerForCausalLM),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, base, exist_ok=True)
        AutoModelForCausalLM.register(config, causal, exist_ok=True)


def register_with_vllm() -> None:
    """The same for vLLM, which calls this in each of its processes (entry point ``vllm.general_plugins``).

    Its Transformers backend looks classes up in the package ``transformers`` itself, by the name in ``config.json``.
    """
    import transformers

    from trainers.models.llama_moe.conversion import register_renaming
    from trainers.models.llama_moe.modeling import LlamaMoEForCausalLM

    register()
    register_renaming()
    transformers.LlamaMoEForCausalLM = LlamaMoEForCausalLM
