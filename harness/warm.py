"""Warm starts: jobs as forks of one process that has imported what they need, so each saves seconds of imports.

:class:`Warm` starts that process and asks it for jobs. It never computes anything: it imports, forks, and passes on how
its children ended. A child has its own session, environment, output and random state, like a process that was started
afresh, and it is told to end when the process that started the plan dies.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

from harness import stages
from harness.launch import core_count, set_death_signal

_LARGEST = 1 << 20  # bytes of a request


class WarmProcess:
    """A job that was forked; it has the part of ``subprocess.Popen``'s interface that jobs use."""

    def __init__(self, output: int, status: int) -> None:
        self.stdout = open(output, "rb", buffering=0)  # noqa: SIM115  (closed by the job)
        self._status = open(status, "rb", buffering=0)  # noqa: SIM115  (closed by poll)
        self._code: int | None = None
        self.pid = int(self._read() or 0)

    def poll(self) -> int | None:
        """Return the exit status if the job has ended; negative for a signal, as of ``subprocess``."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end within ``timeout`` seconds (None: no limit).
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("moemix", timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self._code is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if selector.select(timeout):
                    # Without a status the process that forks has died, and so has this job.
                    self._code = int(self._read() or -signal.SIGTERM)
                    self._status.close()
        return self._code

    def _read(self) -> str:
        line = b""
        while not line.endswith(b"\n") and (byte := self._status.read(1)):
            line += byte
        return line.decode()


class Warm:
    """The process that forks. It starts at the first job; :meth:`close` ends it."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self, words: tuple[str, ...], environment: Mapping[str, str]) -> WarmProcess | None:
        """Fork a ``moemix`` command; None if that is not possible, so that it has to be started afresh."""
        if self._server is None:
            self._launch()
        assert self._socket is not None
        output, status = os.pipe(), os.pipe()
        request = json.dumps({"words": words, "environment": dict(environment)}).encode()
        try:
            socket.send_fds(self._socket, [request], [output[1], status[1]])
        except OSError:  # it has ended, or the environment is larger than a message can be
            process = None
        else:
            os.close(output[1])
            os.close(status[1])
            process = WarmProcess(output[0], status[0])
            if process.pid:
                return process
            process.stdout.close()
            return None
        for end in (*output, *status):
            os.close(end)
        return process

    def _launch(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # numpy's library would start threads at import, and a fork keeps only the thread that forks.
        variables = {"OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000", **os.environ}
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness.warm", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=variables,
            start_new_session=True,
        )
        theirs.close()
        self._socket = ours

    def close(self) -> None:
        """End the process; jobs that still run are sent SIGTERM."""
        if self._server is not None and self._socket is not None:
            self._socket.close()
            self._server.wait()


# --- in the process that forks ---------------------------------------------------------------------------


def _serve(link: socket.socket) -> list[str]:
    """Fork a child for each request until the other end is closed. Only a child returns: the words of its command."""
    selector = selectors.DefaultSelector()
    selector.register(link, selectors.EVENT_READ)
    children: dict[int, tuple[int, int]] = {}  # pidfd → process, where its exit status goes
    while True:
        for key, _ in selector.select():
            if key.fd in children:
                pid, status = children.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(status, f"{code}\n".encode())
                os.close(status)
                continue
            message, descriptors, _, _ = socket.recv_fds(link, _LARGEST, 2)
            if not message:
                sys.exit()
            output, status = descriptors
            request = json.loads(message)
            pid = os.fork()
            if pid == 0:
                selector.close()
                link.close()
                for descriptor, (_, other) in children.items():
                    os.close(descriptor)
                    os.close(other)
                os.close(status)
                _become(output, request["environment"])
                return list(request["words"])
            os.close(output)
            os.write(status, f"{pid}\n".encode())
            descriptor = os.pidfd_open(pid)
            children[descriptor] = (pid, status)
            selector.register(descriptor, selectors.EVENT_READ)


def _become(output: int, environment: Mapping[str, str]) -> None:
    """Turn a fork into a job's process: its own session, output and environment."""
    os.setsid()
    set_death_signal()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    # The variable itself is read when the library is loaded, which was before the fork.
    stages.training().set_threads(int(environment.get("OMP_NUM_THREADS", core_count())))


def main() -> None:
    """Import what all stages need, then fork."""
    link = socket.socket(fileno=int(sys.argv[1]))
    stages.training().warm_up()
    stages.evaluation().warm_up()
    sys.argv = ["moemix", *_serve(link)]
    from harness.cli import main as command

    command()


if __name__ == "__main__":
    main()
