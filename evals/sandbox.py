"""Run generated programs in a sandbox: bubblewrap, no network, nothing of this machine to read or harm.

Each program has a sandbox of its own with a read-only Python, numpy and system libraries, a small private ``/tmp``, an
empty environment, no other process in sight, and limits on memory, processor time, processes, files, output and wall
time. The limits on memory and processes count everything that the program starts. Ending the sandbox ends all of it,
since it shares a process namespace.

This protects the machine, not the score: a program can deceive tests that run in its own interpreter. It gets the tests
only after it has run to its end, and a program that looks for them, or that changes how results are compared, fails as
``suspicious``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
import secrets
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MoemixError, StageError

_unsafe = False
_NOT_STARTED = "the sandbox did not start"
_PYTHON_OPTIONS = ("-I", "-S", "-B", "-X", "utf8", "-c")
_START_GRACE = 10.0  # seconds for the sandbox itself to come up on a loaded machine, on top of a program's own time
_LINGER = 0.5  # seconds for processes that a program started to end after it
_POLL = 0.005  # seconds between two looks at memory and processes
_PACKAGES = "/packages"  # where numpy is in the sandbox
_TMP_BYTES = 64 << 20
_OUTSIDER = 65534  # the user inside a user namespace

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
    """Run Python source in a sandbox of its own, with the standard library and numpy.

    Args:
        code: the program. It fails by an error anywhere, or by ending before its last line.
        timeout: wall seconds for the program and all its tests.
        limits: what it may use.
        tests: run after the program, the next even if one fails. The program passes if all tests do.

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


def install_hint() -> str | None:
    """Return how to get a sandbox, if it is not there at all."""
    if shutil.which("bwrap"):
        return "allow user namespaces in this container (--unsafe-code runs programs without a sandbox, at your risk)"
    return "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"


@dataclass(frozen=True)
class _Sandbox:
    """How programs are started: by bubblewrap as root, by bubblewrap in a user namespace, or without a sandbox."""

    name: str
    command: tuple[str, ...]
    packages: str
    other_user: bool = False
    idle: bool = False
    environment: tuple[tuple[str, str], ...] | None = None

    @property
    def boxed(self) -> bool:
        """Whether this is a sandbox."""
        return self.environment is None


@functools.cache
def _usable() -> tuple[_Sandbox, str | None]:
    """Return the first sandbox that works, or none and why."""
    bare = _Sandbox("no sandbox", (sys.executable,), str(_numpy_folder().parent), environment=(("LANG", "C.UTF-8"),))
    if sys.platform != "linux":
        return bare, f"bubblewrap needs Linux, this is {sys.platform}"
    if shutil.which("bwrap") is None:
        return bare, "bubblewrap (bwrap) is not installed"
    reasons = []
    for sandbox in _sandboxes():
        trial = _run(sandbox, "import numpy", 20.0, Limits(), ())
        if trial.passed:
            return sandbox, None
        reasons.append(f"{sandbox.name}: {trial.output.strip() or trial.reason}")
    return bare, f"bubblewrap cannot make a sandbox ({'; '.join(reasons)})"


def _sandboxes() -> Iterator[_Sandbox]:
    """Yield the ways to make a sandbox, the best first.

    The kernel does not count root's processes against a limit, so root's programs become another user. In a container,
    root may have no right to do so, or no other user to become; there a user namespace is made. If that is root's, we
    count the processes ourselves; a program that forks often gets only idle processors, so that it cannot keep us from
    ending it.
    """
    if os.getuid() == 0:
        rights = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
        yield _Sandbox("bubblewrap as root", _bubblewrap(*rights), _PACKAGES, other_user=True)
    user = ("--unshare-user", "--uid", str(_OUTSIDER), "--gid", str(_OUTSIDER))
    yield _Sandbox("bubblewrap in a user namespace", _bubblewrap(*user), _PACKAGES, idle=os.getuid() == 0)


def _bubblewrap(*rights: str) -> tuple[str, ...]:
    """Return the bwrap command line up to the interpreter."""
    command = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--new-session", "--clearenv", *rights]
    for folder in ("/usr", "/lib", "/lib64", "/bin"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    python = Path(sys.base_prefix).resolve()
    if not python.is_relative_to("/usr"):
        for parent in reversed(python.parents[:-1]):
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", str(python), str(python)]
    command += ["--perms", "0755", "--dir", _PACKAGES]
    numpy = _numpy_folder()
    for package in (numpy, numpy.with_name("numpy.libs")):
        if package.is_dir():
            command += ["--ro-bind", str(package), f"{_PACKAGES}/{package.name}"]
    command += ["--dev", "/dev", "--remount-ro", "/dev", "--size", str(1 << 20), "--perms", "1777"]
    command += ["--tmpfs", "/dev/shm"]  # semaphores
    command += ["--size", str(_TMP_BYTES), "--perms", "1777", "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in (("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("OPENBLAS_NUM_THREADS", "1")):
        command += ["--setenv", name, value]
    return (*command, str(Path(getattr(sys, "_base_executable", sys.executable)).resolve()))


def _numpy_folder() -> Path:
    spec = importlib.util.find_spec("numpy")
    return Path(str(spec and spec.origin)).resolve().parent


# Memory that no limit counts (anonymous files, shared segments, io_uring), and what a program has no use for that
# attacks the kernel: system call → its number on x86-64 and on ARM64.
_REFUSED_CALLS = {
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "unshare": (272, 97), "setns": (308, 268),
    "ptrace": (101, 117), "process_vm_writev": (311, 271), "mount": (165, 40), "pivot_root": (155, 41),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
}  # fmt: skip


@functools.cache
def _call_filter() -> bytes:
    """Return a seccomp program (classic BPF) that refuses these calls; empty on another kind of processor."""
    column, architecture = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}.get(platform.machine(), (0, 0))
    if not architecture:
        return b""
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000  # refuse: EPERM
    numbers = [pair[column] for pair in _REFUSED_CALLS.values()]
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (end, 0, 0, kill), (load, 0, 0, 0)]
    steps += [(at_least, len(numbers) + 1, 0, 0x40000000)]  # x86-64 has a second set of numbers up there
    steps += [(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    steps += [(end, 0, 0, allow), (end, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


class _Run:
    """One program in its sandbox, from start to end.

    Attributes:
        events: what its runner reported, in order.
        output: what it printed.
        cut: why it was ended; None if it was not.
    """

    def __init__(self, sandbox: _Sandbox, code: str, timeout: float, limits: Limits, tests: Tests) -> None:
        self.sandbox, self.code, self.timeout, self.limits, self.tests = sandbox, code, timeout, limits, tests
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
        os.write(calls_write, _call_filter())
        os.close(calls_write)
        command, passed = list(self.sandbox.command), [report_write]
        if self.sandbox.boxed and _call_filter():
            command[1:1] = ["--seccomp", str(calls)]
            passed.append(calls)
        try:
            self._process = subprocess.Popen(
                [*command, *_PYTHON_OPTIONS, _runner_source()],
                stdin=subprocess.PIPE,
                stdout=output_write,
                stderr=output_write,
                pass_fds=passed,
                start_new_session=True,
                env=None if self.sandbox.boxed else dict(self.sandbox.environment or ()),
                cwd=None if self.sandbox.boxed else tempfile.gettempdir(),
            )
        finally:
            for end in (report_write, output_write, calls):
                os.close(end)
        try:
            self._send(
                {
                    "token": self.token,
                    "report": report_write,
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
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            os.close(report)
            os.close(output)
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

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
        if sum(processes.values()) > most:
            return "process limit"
        memory = sum(map(_memory_at_most, processes))
        if self.sandbox.boxed:
            with contextlib.suppress(OSError):
                disk = os.statvfs(f"/proc/{max(self._before)}/root/tmp")
                memory += (disk.f_blocks - disk.f_bfree) * disk.f_frsize
                if disk.f_files - disk.f_ffree > self.limits.files:
                    return "file limit"
        if memory > self.limits.memory_bytes and sum(map(_memory, processes)) > self.limits.memory_bytes:
            return "memory limit"
        return None


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


def _run(sandbox: _Sandbox, code: str, timeout: float, limits: Limits, tests: Tests) -> Verdict:
    """Run one program; the reason is ``_NOT_STARTED`` if it did not start."""
    started = time.monotonic()
    run = _Run(sandbox, code, timeout, limits, tests)
    run.go()
    wanted = sum(1 if isinstance(test, str) else len(test) for test in tests)
    ends = [text for what, text in run.events if what == "test"][:wanted]
    ends += ["not reached"] * (wanted - len(ends))
    ending = run.events[-1][1] if run.events and run.events[-1][0] == "end" else ""
    reason = run.cut or ending or ("killed" if run.events else _NOT_STARTED)
    printed = run.output[: limits.output_bytes].decode("utf-8", "replace")
    return Verdict(reason == "passed", reason, time.monotonic() - started, printed, tuple(ends))
