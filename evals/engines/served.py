"""A server process of our own: started on a free port, watched, restarted once, and never left behind."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from evals.client import RESUME_HINT, Client, RequestError
from evals.engines import guard
from harness.errors import StageError
from harness.files import read_json, write_json
from harness.launch import free_port
from harness.progress import LOG_EVERY_SECONDS, duration

START_SECONDS = 1800.0
REFUSED_SECONDS = 10.0
_PORT_ATTEMPTS = 3
_RESTARTS = 1
logger = logging.getLogger("moemix.evals")


class ServedProcess:
    """An OpenAI-compatible server process.

    It does not outlive us: a guard process ends the server when this process ends, even by ``kill -9``. If the guard
    is killed too, the next start in the same folder finds the server by its record and ends it.

    Args:
        name: what to call it in messages.
        model: the name by which it serves its model; unique, so that another server on the port is not taken for ours.
        command: port → command line.
        environment: the server's environment variables; None for ours.
        folder: where its log and its record are written.
    """

    key: str | None = None  # a server of our own needs none

    def __init__(
        self,
        name: str,
        *,
        model: str,
        command: Callable[[int], list[str]],
        environment: Mapping[str, str] | None,
        folder: Path,
    ) -> None:
        self.name, self.model, self.url = name, model, ""
        self.log, self.record = folder / "server.log", folder / "server.json"
        self._command, self._environment = command, environment
        self._guard: subprocess.Popen[bytes] | None = None
        self._restarts = 0
        self._refusal = ""

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            StageError: the server ended; the message has the end of its log.
        """
        self._end_leftover()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            before = self.log.stat().st_size if self.log.is_file() else 0
            self._launch(free_port())
            if self._wait_until_ready(before):
                return
            self.stop()
            said = self._log_tail(before)
            # Between finding a port free and the server binding it, somebody else may take it.
            if attempt == _PORT_ATTEMPTS or "address already in use" not in said.lower():
                raise StageError(f"the server did not start. The end of its log:\n{said}", where=str(self.log))

    def stop(self) -> None:
        """End the server and everything that it started; do nothing if there is none."""
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
        self._guard = None
        self._end_leftover()  # there is none, unless something killed the guard

    def alive(self) -> bool:
        """Return whether the server is running."""
        return self._guard is not None and self._guard.poll() is None

    def revive(self) -> None:
        """Start a dead server again, once.

        Raises:
            StageError: the server has died before.
        """
        self.stop()
        if self._restarts >= _RESTARTS:
            raise StageError(
                f"the server died again after a restart. The end of its log:\n{self._log_tail()}",
                where=str(self.log),
                hint=RESUME_HINT,
            )
        self._restarts += 1
        logger.warning("%s: the server died; starting it again, to ask only for what is missing", self.name)
        self.start()

    def _launch(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        with open(self.log, "ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, guard.__file__, *self._command(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end the server in order
            )
        assert self._guard.stdout is not None
        server = int(self._guard.stdout.readline() or 0)
        write_json(self.record, {"pid": server, "started": _start_time(server), "boot": _boot()})

    def _wait_until_ready(self, before: int) -> bool:
        """Return true when the server answers for its model, false when it ended; its log had ``before`` bytes."""
        client = Client(self.url)
        started = logged = time.monotonic()
        while self.alive():
            if self._answers(client):
                logger.info("%s: ready after %s", self.name, duration(time.monotonic() - started))
                return True
            now = time.monotonic()
            # Somebody else's server on this port may refuse us, until ours has failed to take it.
            refused = self._refusal and now - started > REFUSED_SECONDS
            if refused or now - started > START_SECONDS:
                why = (
                    f"refuses requests ({self._refusal})"
                    if refused
                    else f"was not ready after {duration(START_SECONDS)}"
                )
                said = self._log_tail(before)
                self.stop()
                raise StageError(f"the server {why}. The end of its log:\n{said}", where=str(self.log))
            if now - logged >= LOG_EVERY_SECONDS:
                logged = now
                said = self._log_tail(before, lines=1) or f"log: {self.log}"
                logger.info("%s: starting the server, %s; %s", self.name, duration(now - started), said)
            time.sleep(0.25)
        return False

    def _answers(self, client: Client) -> bool:
        try:
            listing = client.get(f"{client.url}/models", timeout=5.0)
        except RequestError as error:
            self._refusal = error.detail if error.reason in ("denied", "forbidden") else ""
            return False
        models = listing.get("data") if isinstance(listing, dict) else None
        return any(isinstance(model, dict) and model.get("id") == self.model for model in models or ())

    def _log_tail(self, start: int = 0, lines: int = 25) -> str:
        with open(self.log, "rb") as log:
            log.seek(max(start, self.log.stat().st_size - 20_000))
            text = log.read().decode("utf-8", "replace")
        return "\n".join(line[:500] for line in text.splitlines()[-lines:])

    def _end_leftover(self) -> None:
        """End the server on record: ours, or that of an earlier evaluation into this folder."""
        if not self.record.is_file():
            return
        left = read_json(self.record)
        # A process id means something only on the same boot, and only if nobody else has been given it since.
        if left["boot"] == _boot() and _start_time(left["pid"]) in (left["started"], None):
            guard.end_group(left["pid"])
        self.record.unlink()


def _boot() -> str:
    return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def _start_time(pid: int) -> str | None:
    """Return when a process started, in the kernel's clock ticks; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
