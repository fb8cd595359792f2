"""Choose an engine by its name or address, and open it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from evals.addresses import base_url
from evals.cache import ResponseCache
from evals.engines.engine import Engine
from harness.errors import MoemixError, StageError, unknown

ENGINES = ("transformers", "vllm")
DTYPES = ("float32", "bfloat16", "float16")
logger = logging.getLogger("moemix.evals")


def check_engine(spec: str, dtype: str) -> None:
    """Refuse an engine or dtype that does not exist, and name the nearest that does."""
    if spec not in ENGINES and not spec.startswith(("http://", "https://")):
        raise unknown("engine", spec, (*ENGINES, "http://…"))
    if spec not in ENGINES:
        base_url(spec)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)


@contextmanager
def open_engine(
    spec: str, checkpoint: Path, *, dtype: str, seed: int, folder: Path, arguments: Mapping[str, str] | None = None
) -> Iterator[Engine]:
    """Start an engine, and stop it at the end of the block.

    ::

        with open_engine("vllm", checkpoint, dtype="float32", seed=0, folder=out) as engine:
            engine.lm().generate_until(requests)

    ``spec`` is ``transformers``, ``vllm``, or the URL of an OpenAI-compatible server. A checkpoint that vLLM cannot
    serve is answered by transformers; the engine's description says why. The dtype is one of :data:`DTYPES`, the seed
    that of the vLLM server, and the folder where a server's log is written. Further arguments are those of the vLLM
    server, or of lm-eval's transformers model.

    Raises:
        MoemixError: there is no such engine or dtype, a URL was given arguments, or the checkpoint cannot be loaded.
        StageError: a server did not start.
    """
    check_engine(spec, dtype)
    with ExitStack() as stack:
        if spec == "transformers":
            from evals.engines.in_process import InProcessEngine

            yield stack.enter_context(InProcessEngine(checkpoint, dtype=dtype, arguments=arguments))
        elif spec == "vllm":
            yield stack.enter_context(_vllm_or_transformers(checkpoint, dtype, seed, folder, arguments))
        elif arguments:
            raise MoemixError("a running server takes no engine arguments", where=spec, hint="leave --engine-arg out")
        else:
            from evals.engines.url import UrlEngine

            yield stack.enter_context(UrlEngine(spec, checkpoint))


def check_unchanged(engine: Engine, cache: ResponseCache) -> None:
    """Refuse the answers of a server that became another one while it was asked, and take them out of the cache."""
    if change := engine.changed():
        cache.forget_new()
        hint = "run the same command again: the server that is there now is asked everything"
        raise StageError(f"the server changed while it was asked: {change}", hint=hint)


@contextmanager
def _vllm_or_transformers(
    checkpoint: Path, dtype: str, seed: int, folder: Path, arguments: Mapping[str, str] | None
) -> Iterator[Engine]:
    from evals.engines.in_process import InProcessEngine
    from evals.engines.vllm_server import CannotServeError, VllmEngine, why_not_vllm

    with ExitStack() as stack:
        engine: Engine | None = None
        reason = why_not_vllm(checkpoint)
        if reason is None:
            try:
                engine = stack.enter_context(
                    VllmEngine(checkpoint, dtype=dtype, seed=seed, folder=folder, arguments=arguments)
                )
            except CannotServeError as error:
                reason = error.message
        if engine is None:
            logger.warning("transformers answers in place of vllm: %s", reason)
            engine = stack.enter_context(InProcessEngine(checkpoint, dtype=dtype, instead_of_vllm=reason))
        yield engine
