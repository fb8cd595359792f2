"""Which engine answers, where the one asked for cannot: a fact of the checkpoint's architecture, told in the record."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness.errors import MoemixError
from harness.files import read_json
from harness.plugins import register_architectures

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

    from evals.engines.base import Engine


class CannotServe(MoemixError):
    """vLLM has no implementation of a checkpoint's architecture."""


class VllmOrTransformers:
    """A vLLM server, or transformers in its place where vLLM cannot serve the checkpoint.

    Args:
        vllm: makes the engine asked for; entering it raises :class:`CannotServe` if it turns out not to serve this.
        transformers: why it does not → the engine that stands in.
    """

    def __init__(self, checkpoint: Path, vllm: Callable[[], Engine], transformers: Callable[[str], Engine]) -> None:
        self._checkpoint, self._vllm, self._transformers = checkpoint, vllm, transformers
        self._engine: Engine | None = None

    def __enter__(self) -> Engine:
        reason = why_not_vllm(self._checkpoint)
        if reason is None:
            self._engine = self._vllm()
            try:
                return self._engine.__enter__()
            except CannotServe as error:
                reason = error.message
        print(f"transformers answers in place of vllm: {reason}", file=sys.stderr)
        self._engine = self._transformers(reason)
        return self._engine.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._engine is not None
        self._engine.__exit__(kind, error, trace)

    def describe(self) -> dict[str, Any]:
        assert self._engine is not None, "the engine is not running"
        return self._engine.describe()

    def lm(self) -> TemplateLM:
        assert self._engine is not None, "the engine is not running"
        return self._engine.lm()


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
