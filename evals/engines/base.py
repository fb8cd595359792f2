"""What answers a checkpoint's requests: one engine per checkpoint, loaded once, for all its tasks."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import MoemixError, unknown
from harness.files import read_json

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

ENGINES = ("transformers", "vllm")
DTYPES = ("float32", "bfloat16", "float16")
# Longer contexts than this cost memory that no suite here needs.
MAX_CONTEXT = 8192


class Engine(Protocol):
    """A checkpoint being served, for as long as the context lasts.

    >>> with open_engine("vllm", checkpoint, dtype="float32", seed=0, folder=out) as engine:
    ...     engine.lm().generate_until(requests)
    """

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def describe(self) -> dict[str, Any]:
        """Name, version, dtype and arguments: all that determines answers besides checkpoint and request.

        ``instead_of_vllm`` says why this is not the engine that was asked for.
        """
        ...

    def lm(self) -> TemplateLM:
        """The engine as lm-eval sees it. Only inside the context."""
        ...


def open_engine(spec: str, checkpoint: Path, *, dtype: str, seed: int, folder: Path) -> Engine:
    """An engine, not yet started.

    Args:
        spec: ``transformers``, ``vllm``, or the URL of an OpenAI-compatible server. What vLLM cannot serve is
            answered by transformers, and the engine's description says why.
        folder: where a server's log goes.
    """
    check_engine(spec, dtype)
    if spec == "transformers":
        from evals.engines.in_process import InProcessEngine

        return InProcessEngine(checkpoint, dtype=dtype)
    if spec == "vllm":
        from evals.engines.choice import VllmOrTransformers
        from evals.engines.in_process import InProcessEngine
        from evals.engines.vllm_server import VllmEngine

        return VllmOrTransformers(
            checkpoint,
            lambda: VllmEngine(checkpoint, dtype=dtype, seed=seed, folder=folder),
            lambda reason: InProcessEngine(checkpoint, dtype=dtype, instead_of_vllm=reason),
        )
    from evals.engines.url import UrlEngine

    return UrlEngine(spec, checkpoint)


def check_engine(spec: str, dtype: str) -> None:
    """Refuse an engine or dtype that does not exist, naming the nearest."""
    if spec not in ENGINES and not spec.startswith(("http://", "https://")):
        raise unknown("engine", spec, (*ENGINES, "http://…"))
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)


def context_length(checkpoint: Path) -> int:
    """Tokens of prompt and answer together: what the checkpoint's config allows, at most ``MAX_CONTEXT``."""
    config = read_json(checkpoint / "config.json")
    if (
        config.get("model_type") == "moduleformer" and "n_positions" not in config
    ):  # published MoLM says it in two parts
        return min(config.get("block_size", 512) + config.get("history_length", 512), MAX_CONTEXT)
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if isinstance(config.get(key), int):
            return min(config[key], MAX_CONTEXT)
    raise MoemixError("the config does not say how long a context may be", where=str(checkpoint / "config.json"))
