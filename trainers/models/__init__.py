"""Model code of this project, and making MoE checkpoints.

Importing this package registers the project's own architectures with transformers (``AutoConfig``, ``AutoModel``,
``AutoModelForCausalLM``), so every process that loads a checkpoint imports it first. Every other architecture is the
one that transformers has.
"""

from trainers.models.registration import register

register()
