"""The ``transformers`` engine: lm-eval's own model class, in this process."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from evals.engines.base import context_length
from harness.errors import MoemixError
from harness.files import read_json
from harness.plugins import register_architectures

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

# lm-eval holds the logits of a whole batch; this many sequence × vocabulary elements of 512-token questions fit in
# half a gigabyte of float32, and beyond 64 sequences a batch gains nothing.
_BATCH_LOGITS = 1 << 28
_MAX_BATCH = 64


class InProcessEngine:
    """A checkpoint loaded with transformers, on the GPU if there is one.

    Args:
        instead_of_vllm: why vLLM, which was asked for, does not answer.
    """

    def __init__(self, checkpoint: Path, *, dtype: str, instead_of_vllm: str | None = None) -> None:
        self.checkpoint, self.dtype, self.instead_of_vllm = checkpoint, dtype, instead_of_vllm
        self.max_length = context_length(checkpoint)
        vocabulary = read_json(checkpoint / "config.json").get("vocab_size", 1 << 16)
        self.batch_size = max(1, min(_MAX_BATCH, _BATCH_LOGITS // (512 * vocabulary)))
        self._lm: TemplateLM | None = None

    def __enter__(self) -> InProcessEngine:
        import torch

        from evals.engines.hflm import SeededHFLM

        register_architectures()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._lm = SeededHFLM(
                pretrained=str(self.checkpoint),
                dtype=self.dtype,
                device=self.device,
                batch_size=self.batch_size,
                max_length=self.max_length,
            )
        except (OSError, ValueError, KeyError) as error:  # what transformers raises for a checkpoint it cannot load
            raise MoemixError(f"transformers cannot load this: {error}", where=str(self.checkpoint)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lm = None

    def describe(self) -> dict[str, Any]:
        import transformers

        said: dict[str, Any] = {
            "name": "transformers",
            "version": transformers.__version__,
            "dtype": self.dtype,
            "args": {"device": self.device, "batch_size": self.batch_size, "max_length": self.max_length},
        }
        return said | {"instead_of_vllm": self.instead_of_vllm} if self.instead_of_vllm else said

    def lm(self) -> TemplateLM:
        assert self._lm is not None, "the engine is not running"
        return self._lm
