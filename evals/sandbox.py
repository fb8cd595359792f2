"""Run generated programs in a sandbox: no network, nothing of this machine to read or harm.

Each program has a sandbox of its own with a read-only Python, numpy and system libraries, a small private ``/tmp``, an
empty environment, no other process in sight, and limits on memory, processor time, processes, files, output and wall
time. The limits on memory and processes count everything that the program starts, and all of it ends with the sandbox.

This protects the machine, not the score: a program can deceive tests that run in its own interpreter. It gets the tests
only after it has run to its end, and a program that looks for them, or that changes how results are compared, fails as
``suspicious``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from evals import control_group
from evals.sandbox_kinds import TMP_BYTES, Sandbox, call_filter, install_hint, not_installed, sandboxes, without_sandbox
from harness.errors import MoemixError, StageError

_unsafe = False
_NOT_STARTED = "the sandbox did not start"
_PYTHON_OPTIONS = ("-I", "-S", "-B", "-X", "utf8", "-c")
_START_GRACE = 10.0  # seconds for the sandbox itself to come up on a loaded machine, on top of a program's own time
_LINGER = 0.5  # seconds for processes that a program started to end after it
_POLL = 0.005  # seconds between two looks at memory and processes

Tests = tuple[str | tuple[str, ...], ...]
"""Sources that run one after the other with the program's names; a group of them with a copy of these names."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. ``cpu_seconds`` is one more than the wall time if it is None."""

    memory_bytes: int = 512 << 20
    processes: int = 64
    file_bytes: int = 16 << 20
    files: int = 10_000
    open_files: int = 256
    output_bytes: int = 4 << 20
    cpu_seconds: int | None = None


@dataclass(frozen=True)
class Verdict:
    """How a program ended.

    Attributes:
        passed: whether it ran to its last line without an error.
        reason: ``passed``, ``timeout``, ``output limit``, ``memory limit``, ``process limit``, ``file limit``,
            ``exited early``, ``killed``, ``left processes running``, ``suspicious: …``, or the first exception in one
            line.
        seconds: wall time, the start of the sandbox included.
        output: what it printed (stdout and stderr), cut at the limit.
        tests: how each test ended: ``passed``, an exception, or ``not reached``.
    """

    passed: bool
    reason: str
    seconds: float
    output: str
    tests: tuple[str, ...] = ()


def run_program(code: str, timeout: float = 5.0, limits: Limits | None = None, tests: Tests = ()) -> Verdict:
    """Run Python source in a sandbox of its own, with the standard library and numpy, for so many wall seconds.

    The program fails by an error anywhere, or by ending before its last line. Tests run after it, the next even if one
    fails, and it passes if all of them do.

    Raises:
        MoemixError: the sandbox cannot be used on this machine (see :func:`available`).
        StageError: the sandbox worked before and did not start this time.
    """
    sandbox, missing = _usable()
    if missing and not _unsafe:
        raise MoemixError(f"generated programs cannot run here: {missing}", hint=install_hint())
    verdict = _run(sandbox, code, timeout, limits or Limits(), tests)
    if verdict.reason == _NOT_STARTED:
        raise StageError(f"{_NOT_STARTED}: {verdict.output.strip() or 'no reason given'}")
    return verdict


def allow_unsafe_code(allow: bool = True) -> None:
    """Let this process run programs without a sandbox where there is none."""
    global _unsafe
    _unsafe = allow


def unsafe_code_allowed() -> bool:
    """Return whether the user allowed programs to run without a sandbox."""
    return _unsafe


def unprotected() -> bool:
    """Return whether programs run here without a sandbox."""
    return _unsafe and available() is not None


def available() -> str | None:
    """Return why the sandbox cannot be used here; None if it can. It runs one program to see, once a process."""
    return _usable()[1]


def sandbox_name() -> str:
    """Return which sandbox is used here."""
    return _usable()[0].name


def memory_keeper() -> str:
    """Return what keeps all of a program's processes together within the limit on memory."""
    return "a control group" if control_group.parent() else "a supervisor that counts"


@functools.cache
def _usable() -> tuple[Sandbox, str | None]:
    """Return the first sandbox that works, or none and why."""
    bare = without_sandbox()
    if sys.platform != "linux":
        return bare, f"sandboxes need Linux, this is {sys.platform}"
    reasons = []
    for sandbox in sandboxes():
        trial = _run(sandbox, "import numpy", 20.0, Limits(), ())
        if trial.passed:
            return sandbox, None
        reasons.append(f"{sandbox.name} does not work here: {trial.output.strip() or trial.reason}")
    return bare, "; ".join([*reasons, *not_installed()]) or "there is no way to make a sandbox"


class _Run:
    """One program in its sandbox, from start to end.

    Attributes:
        events: what its runner reported, in order.
        output: what it printed.
        cut: why it was ended; None if it was not.
    """

    def __init__(
        self, sandbox: Sandbox, code: str, timeout: float, limits: Limits, tests: Tests, folder: str | None
    ) -> None:
        self.sandbox, self.code, self.timeout, self.limits, self.tests = sandbox, code, timeout, limits, tests
        self.group: control_group.ControlGroup | None = None
        self._folder = folder  # of this machine, in which a supervised program's /tmp lies
        self.token = secrets.token_hex(16)
        self.events: list[tuple[str, str]] = []
        self.output, self._unread, self._reported = bytearray(), b"", 0
        self.cut: str | None = None
        self._deadline = time.monotonic() + _START_GRACE
        self._next_look = 0.0
        self._before: set[int] = set()  # processes of the sandbox itself

    def go(self) -> None:
        """Run it."""
        report, report_write = os.pipe()
        output, output_write = os.pipe()
        calls, calls_write = os.pipe()
        os.write(calls_write, call_filter())
        os.close(calls_write)
        command, passed = list(self.sandbox.command), [report_write]
        if self.sandbox.supervised:  # it passes nothing on but the standard streams
            command += [str(int(1.1 * self.limits.memory_bytes)), str(self.limits.processes)]
        elif self.sandbox.boxed and call_filter():
            command[1:1] = ["--seccomp", str(calls)]
            passed.append(calls)
        try:
            self._process = subprocess.Popen(
                [*command, *_PYTHON_OPTIONS, _runner_source()],
                stdin=subprocess.PIPE,
                stdout=output_write,
                stderr=report_write if self.sandbox.supervised else output_write,
                pass_fds=passed,
                start_new_session=True,
                env=None if self.sandbox.boxed else dict(self.sandbox.environment or ()),
                cwd=self._folder or (None if self.sandbox.boxed else tempfile.gettempdir()),
            )
        finally:
            for end in (report_write, output_write, calls):
                os.close(end)
        try:
            self._send(
                {
                    "token": self.token,
                    "report": 2 if self.sandbox.supervised else report_write,
                    "packages": self.sandbox.packages,
                    "idle": self.sandbox.idle,
                    "uid": 61000 + secrets.randbelow(3000) if self.sandbox.other_user else None,
                    "limits": {
                        "RLIMIT_AS": self.limits.memory_bytes,
                        "RLIMIT_CPU": self.limits.cpu_seconds or max(1, int(self.timeout + 1)),
                        "RLIMIT_NPROC": self.limits.processes,
                        "RLIMIT_FSIZE": self.limits.file_bytes,
                        "RLIMIT_NOFILE": self.limits.open_files,
                        "RLIMIT_CORE": 0,
                    },
                }
            )
            self._listen(report, output)
        finally:
            # bwrap's death is the death of everything in its process namespace; a bare process has only its group.
            if self.sandbox.supervised:
                self._end_all()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            os.close(report)
            os.close(output)
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _end_all(self) -> None:
        """End what a supervisor looks after. While it is stopped, nobody gets its leave to start a process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGSTOP)
        while left := [pid for pid in _processes(self._process.pid) if pid != self._process.pid]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL)

    def _send(self, order: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{order!r}\n".encode())
            self._process.stdin.flush()

    def _listen(self, report: int, output: int) -> None:
        """Read both pipes and answer the runner until it has ended, or has used up its time or another limit."""
        with selectors.DefaultSelector() as selector:
            selector.register(report, selectors.EVENT_READ)
            selector.register(output, selectors.EVENT_READ)
            while selector.get_map() and self.cut is None and not self._has("end"):
                for key, _ in selector.select(_POLL):
                    chunk = os.read(key.fd, 1 << 16)
                    if not chunk:
                        selector.unregister(key.fd)
                    elif key.fd == output:
                        self.output += chunk
                    else:
                        self._reported += len(chunk)
                        *lines, self._unread = (self._unread + chunk).split(b"\n")
                        for line in lines:
                            self._answer(line.decode("utf-8", "replace"))
                now = time.monotonic()
                if max(len(self.output), self._reported) > self.limits.output_bytes:
                    self.cut = self.cut or "output limit"
                elif now > self._deadline:
                    self.cut = self.cut or "timeout"
                elif self._before and now >= self._next_look:
                    self.cut = self.cut or self._overuse()
                    self._next_look = time.monotonic() + _POLL
            until = time.monotonic() + _LINGER
            while self._has("end") and self._left() and self.cut is None:
                if time.monotonic() > until:
                    self.cut = "left processes running"
                time.sleep(_POLL)

    def _has(self, what: str) -> bool:
        return bool(self.events) and self.events[-1][0] == what

    def _answer(self, line: str) -> None:
        token, _, rest = line.partition("\t")
        what, _, text = rest.partition("\t")
        if token != self.token:
            return  # written by the program
        if what == "suspicious":
            self.cut = f"suspicious: {text}"
            return
        self.events.append((what, text))
        if what == "start":
            self._before = set(_processes(self._process.pid))
            if self.group:
                self.group.add(self._before - {self._process.pid})
            self._deadline = time.monotonic() + self.timeout
            self._send(self.code.encode("utf-8", "replace").decode())
        elif what == "code" and text == "passed":
            self._send([test if isinstance(test, str) else list(test) for test in self.tests])

    def _left(self) -> list[int]:
        """Return the processes that the program started and that have not ended."""
        return [pid for pid in _processes(self._process.pid) if pid not in self._before]

    def _overuse(self) -> str | None:
        """Return which limit all processes together exceed; None if they keep within all."""
        most = self.limits.processes + len(self._before)
        processes = _processes(self._process.pid, most)
        if self.sandbox.supervised:
            processes.pop(self._process.pid, None)
        if sum(processes.values()) > most:
            return "process limit"
        memory = sum(map(_memory_at_most, processes))
        if self.sandbox.boxed:
            held, files = (
                _folder_use(self._folder) if self._folder else _disk_use(f"/proc/{max(self._before)}/root/tmp")
            )
            if files > self.limits.files or held > TMP_BYTES:
                return "file limit"
            memory += held
        if memory > self.limits.memory_bytes and sum(map(_memory, processes)) > self.limits.memory_bytes:
            return "memory limit"
        return None


def _disk_use(place: str) -> tuple[int, int]:
    """Return bytes and files of a file system."""
    try:
        disk = os.statvfs(place)
    except OSError:
        return 0, 0
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize, disk.f_files - disk.f_ffree


def _folder_use(folder: str) -> tuple[int, int]:
    """Return bytes and files of a folder."""
    sizes = []
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                sizes.append(os.lstat(os.path.join(place, name)).st_blocks * 512)
    return sum(sizes), len(sizes)


def _processes(root: int, most: int = 1000) -> dict[int, int]:
    """Return the running descendants of a process, and itself, with their numbers of threads; stop at so many."""
    found: dict[int, int] = {}
    waiting = [root]
    while waiting and len(found) <= most:
        pid = waiting.pop()
        with contextlib.suppress(OSError, IndexError, ValueError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            for task in os.listdir(f"/proc/{pid}/task"):
                waiting += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
            if stat[0] not in "ZX":
                found[pid] = int(stat[17])
    return found


def _memory_at_most(pid: int) -> int:
    """Return the bytes of a process's own memory; pages that forked processes share count for each."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _memory(pid: int) -> int:
    """Return the bytes of a process's own memory, with its part of what processes share."""
    try:
        sums = Path(f"/proc/{pid}/smaps_rollup").read_text()
        parts = dict(line.split()[:2] for line in sums.splitlines()[1:])
        return 1024 * (int(parts["Pss_Anon:"]) + int(parts["Pss_Shmem:"]))
    except (OSError, KeyError, ValueError):
        return _memory_at_most(pid)


@functools.cache
def _runner_source() -> str:
    return Path(__file__).with_name("sandbox_runner.py").read_text(encoding="utf-8")


def _run(sandbox: Sandbox, code: str, timeout: float, limits: Limits, tests: Tests) -> Verdict:
    """Run one program; the reason is ``_NOT_STARTED`` if it did not start."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="moemix-")) if sandbox.supervised else None
        run = _Run(sandbox, code, timeout, limits, tests, folder)
        if sandbox.boxed and (within := control_group.parent()):
            run.group = stack.enter_context(control_group.ControlGroup(limits.memory_bytes, within=within))
        run.go()
        if run.group and run.cut is None and run.group.exceeded():
            run.cut = "memory limit"
    wanted = sum(1 if isinstance(test, str) else len(test) for test in tests)
    ends = [text for what, text in run.events if what == "test"][:wanted]
    ends += ["not reached"] * (wanted - len(ends))
    ending = run.events[-1][1] if run.events and run.events[-1][0] == "end" else ""
    reason = run.cut or ending or ("killed" if run.events else _NOT_STARTED)
    printed = run.output[: limits.output_bytes].decode("utf-8", "replace")
    return Verdict(reason == "passed", reason, time.monotonic() - started, printed, tuple(ends))
