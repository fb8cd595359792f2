"""A job's process: its output to the terminal and to its log, its end as a reason, its interruption as a request."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import BinaryIO

from harness.launch import job_environment
from harness.plan import Job

GRACE_SECONDS = 60.0  # what an interrupted job gets to write its state


class JobProcess:
    """A started job.

    Args:
        environment: variables to set for it.
        prefix: stands before each of its lines on the terminal, where several jobs write there; without one its
            output is passed on as it comes, progress bars and all.
    """

    def __init__(self, job: Job, environment: Mapping[str, str] | None = None, prefix: str = "") -> None:
        self.log = job.folder / "logs" / f"{job.kind}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._prefix = prefix
        self._tail: deque[str] = deque(maxlen=20)
        self._pending = b""
        surroundings = {**job_environment(), "PYTHONUNBUFFERED": "1", **(environment or {})}
        if sys.stderr.isatty() and not prefix:
            surroundings["MOEMIX_PROGRESS"] = "bar"
        self._file: BinaryIO = open(self.log, "ab")  # noqa: SIM115  (closed by finish)
        self._process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=surroundings,
            start_new_session=True,  # a Ctrl-C reaches the job through us, once
            preexec_fn=_prepare_child(),
        )

    def fileno(self) -> int:
        """Of its output: readable when :meth:`pump` has something to pass on."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def pump(self) -> bool:
        """Pass on what it has said, waiting for something if need be; False once it says no more."""
        chunk = os.read(self.fileno(), 1 << 16)
        self._file.write(chunk)
        self._file.flush()
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        self._tail.extend(line.decode(errors="replace").rsplit("\r", 1)[-1] for line in lines)
        shown = chunk if not self._prefix else b"".join(self._prefix.encode() + line + b"\n" for line in lines)
        sys.stderr.buffer.write(shown)
        sys.stderr.buffer.flush()
        return bool(chunk)

    def finish(self) -> str | None:
        """Wait for its end; the reason if it failed, else None."""
        code = self._process.wait()
        self._tail.append(self._pending.decode(errors="replace"))
        self.close()
        if code == 0:
            return None
        lines = [line for line in self._tail if line.strip()]
        # our own error is a line of its own, perhaps with a hint below it; anything else ends with what went wrong
        said = [line.removeprefix("moemix: ") for line in lines if line.startswith("moemix: ")] or lines
        cause = f"killed by signal {-code}" if code < 0 else f"exit {code}"
        return f"{said[-1] if said else cause} (log: {self.log})"

    @property
    def interrupted(self) -> bool:
        """Whether something from outside ended it, rather than a failure of its own."""
        code = self._process.poll()
        return code is not None and (code < 0 or code == 130)

    def ask_to_stop(self) -> None:
        """A Ctrl-C for it and its children; :meth:`stop` waits for the effect."""
        self._signal(signal.SIGINT)

    def stop(self) -> None:
        """Ask it to stop, wait while it writes its state, then insist; its own children go with it."""
        for request, patience in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGTERM, 10.0), (signal.SIGKILL, None)):
            if self._process.poll() is None:
                self._signal(request)
            try:
                self._process.wait(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                continue
        self.close()

    def close(self) -> None:
        self._file.close()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return


def _prepare_child() -> Callable[[], None]:
    """Leaves SIGUSR2 to us: schedulers send it to all of a job's processes, and it would end one that knows nothing
    of it. On Linux a job does not outlive a conductor that was killed, so no stray process holds a run.
    """
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None
    set_parent_death_signal = 1

    def prepare() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        if libc is not None:
            libc.prctl(set_parent_death_signal, signal.SIGTERM)

    return prepare
