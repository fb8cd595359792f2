"""Model code of this project, and making MoE checkpoints.

Importing this package registers the project's own architectures with transformers (``AutoConfig.register``,
``AutoModelForCausalLM.register``), so every process that loads a checkpoint imports it first. There are none so far:
all models are architectures that transformers has.
"""
