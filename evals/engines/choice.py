"""Which engine answers, where the one asked for cannot: a fact of the checkpoint's architecture, told in the record."""

from __future__ import annotations

from pathlib import Path

from harness.files import read_json
from harness.plugins import register_architectures


def why_not_vllm(checkpoint: Path) -> str | None:
    """Why vLLM cannot serve a checkpoint; None if it can, or if only trying will tell.

    Architectures that transformers has are vLLM's own business: it refuses when it starts. Those that come from
    elsewhere it serves through its Transformers backend, if their attention goes through transformers' interface.
    """
    register_architectures()
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    if type(config).__module__.startswith("transformers."):
        return None
    model = AutoModelForCausalLM._model_mapping[type(config)]
    if model._supports_attention_backend:
        return None
    return f"the attention of {model.__name__} is not one that vLLM can compute"


def unsupported(log: str, checkpoint: Path) -> str | None:
    """Why vLLM refused, from what it said while starting; None if it failed for another reason."""
    if not any("architectures" in line and "not supported" in line for line in log.splitlines()):
        return None
    names = read_json(checkpoint / "config.json").get("architectures") or ["of this checkpoint"]
    return f"vLLM has no implementation of the architecture {', '.join(names)}"
