"""A job's process: its output goes to the terminal and to its log, its end into the records, and it can be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import BinaryIO

from harness.errors import StageError
from harness.jobs import Job
from harness.launch import job_environment, moemix_command, set_death_signal
from harness.store import Run, stage
from harness.warm import Warm

GRACE_SECONDS = 60.0  # time that an interrupted job gets to write its state


@dataclass
class Outcome:
    """How the jobs of a plan ended, by id.

    Attributes:
        done: jobs that succeeded, or were done before.
        failed: job → reason.
        blocked: job that was not started → the dependency that failed.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    def failed_dependency(self, job: Job) -> str | None:
        """Return a dependency of the job that failed or was blocked."""
        return next((other for other in job.after if other in self.failed or other in self.blocked), None)

    @property
    def settled(self) -> int:
        """Number of jobs that will not run any more."""
        return len(self.done) + len(self.failed) + len(self.blocked)


class JobProcess:
    """A job that has been started. Exactly one of :meth:`end` and :meth:`interrupt` ends it.

    Args:
        job: what to run.
        environment: variables to set for the process.
        prefix: is put before each line on the terminal, where several jobs write there. Without a prefix the output
            is passed on as it comes, progress bars included.
        warm: forks the job's process where that is possible; None starts it afresh.

    Raises:
        StageError: another process works on this job.
    """

    def __init__(
        self, job: Job, environment: Mapping[str, str] | None = None, prefix: str = "", warm: Warm | None = None
    ) -> None:
        self.job = job
        job.prepare()
        self._stage: AbstractContextManager[None] = (
            stage(Run(job.run), f"{job.kind}:{job.folder.name}") if job.run else nullcontext()
        )
        self._stage.__enter__()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._prefix = prefix.encode()
        self._last_lines: deque[str] = deque(maxlen=20)
        self._incomplete = b""
        variables = {**job_environment(), "PYTHONUNBUFFERED": "1", **(environment or {})}
        if sys.stderr.isatty() and not prefix:
            variables["MOEMIX_PROGRESS"] = "bar"
        self._file: BinaryIO = open(job.log, "ab")  # noqa: SIM115  (closed by _close)
        command = job.command
        own = moemix_command()
        forked = warm.start(command[len(own) :], variables) if warm and command[: len(own)] == own else None
        self._process = forked or subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,  # a Ctrl-C reaches the job through us, once
            preexec_fn=set_death_signal,
        )

    def fileno(self) -> int:
        """Return the descriptor of its output. It is readable when :meth:`pump` has something to pass on."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def pump(self) -> bool:
        """Wait for output and pass it on; return False once there is no more."""
        chunk = os.read(self.fileno(), 1 << 16)
        self._file.write(chunk)
        self._file.flush()
        *lines, self._incomplete = (self._incomplete + chunk).split(b"\n")
        self._last_lines.extend(line.decode(errors="replace").rsplit("\r", 1)[-1] for line in lines)
        shown = b"".join(self._prefix + line + b"\n" for line in lines) if self._prefix else chunk
        sys.stderr.buffer.write(shown)
        sys.stderr.buffer.flush()
        return bool(chunk)

    def end(self) -> str | None:
        """Wait for the process to end, and record how it ended. Return the reason if the job failed."""
        error = self._wait()
        if error is None and not self.job.done:
            error = "it ended without its completion marker"
        failure = StageError(error) if error is not None else None
        self._stage.__exit__(type(failure) if failure else None, failure, None)
        return error

    def _wait(self) -> str | None:
        code = self._process.wait()
        self._last_lines.append(self._incomplete.decode(errors="replace"))
        self._close()
        if code == 0:
            return None
        lines = [line for line in self._last_lines if line.strip()]
        # our own error is one line, perhaps with a hint below it; anything else ends with the line that says why
        messages = [line.removeprefix("moemix: ") for line in lines if line.startswith("moemix: ")] or lines
        cause = f"killed by signal {-code}" if code < 0 else f"exit {code}"
        return f"{messages[-1] if messages else cause} (log: {self.job.log})"

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it, rather than a failure of its own."""
        code = self._process.poll()
        return code is not None and (code < 0 or code == 130)

    def request_stop(self) -> None:
        """Send a Ctrl-C to it and its children. :meth:`stop` waits for the effect."""
        self._signal(signal.SIGINT)

    def stop(self) -> None:
        """Stop it and its children by Ctrl-C, so that it can write its state; if it does not end, by a kill."""
        for number, patience in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGTERM, 10.0), (signal.SIGKILL, None)):
            if self._process.poll() is None:
                self._signal(number)
            try:
                self._process.wait(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                continue
        self._close()

    def interrupt(self) -> None:
        """Stop it in a state from which the job can go on, and record that."""
        self.stop()
        self._stage.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    def _close(self) -> None:
        self._file.close()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return
