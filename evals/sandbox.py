"""Generated programs run here and nowhere else: bubblewrap, no network, nothing of this machine to read or harm.

Each program gets a sandbox of its own with a read-only Python and system libraries, a small private ``/tmp``, an
empty environment, no other process in sight, and limits on memory, processor time, processes, file sizes, output
and wall time. What kills the sandbox kills everything the program started, since that shares its process namespace.
This guards the machine, not the score: a program that sets out to fool tests run in its own interpreter can.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MoemixError, StageFailed

INSTALL_HINT = "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"
_unsafe = False
_NOT_STARTED = "the sandbox did not start"
_START_GRACE = 10.0  # seconds for the sandbox itself to come up on a loaded machine, on top of a program's own time


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    memory_bytes: int = 512 << 20
    processes: int = 16
    file_bytes: int = 16 << 20
    output_bytes: int = 1 << 20
    cpu_seconds: int | None = None  # None: a second more than the wall time


@dataclass(frozen=True)
class Verdict:
    """How a program ended.

    Attributes:
        passed: it ran to its last line without an error.
        reason: ``passed``, ``timeout``, ``output limit``, ``exited early``, ``killed``, or the first exception, in one
            line.
        seconds: wall time, the sandbox's own start included.
        output: what it printed (stdout and stderr), cut at the limit.
        tests: how each test ended: ``passed``, an exception, or ``not reached``.
    """

    passed: bool
    reason: str
    seconds: float
    output: str
    tests: tuple[str, ...] = ()


# Runs inside: reads its order and the program, takes away its own rights, runs the program, then each test in a copy
# of the program's names, and reports on a pipe, one JSON pair a line. The token, unknown outside these two processes,
# tells "ran to its last line" from a program that exits with 0.
_RUNNER = """
import json, os, resource, signal, sys
order = json.loads(sys.stdin.readline())
code = sys.stdin.read()
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(order["uid"], order["uid"], order["uid"])
    os.setresuid(order["uid"], order["uid"], order["uid"])
for name, value in order["limits"].items():
    resource.setrlimit(getattr(resource, name), (value, value + (name == "RLIMIT_CPU")))
token, report, me = order["token"], order["report"], os.getpid()
def attempt(source, names):
    try:
        exec(compile(source, "program.py", "exec"), names)
    except SystemExit:
        return "exited early"
    except BaseException as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:500]
    return token
def tell(what, verdict):
    if os.getpid() != me:
        os._exit(0)
    os.write(report, json.dumps([what, verdict]).encode() + bytes([10]))
def overtime(*_):
    tell("end", "timeout")
    os._exit(1)
signal.signal(signal.SIGXCPU, overtime)
tell("start", token)
names = {"__name__": "__main__"}
ending = attempt(code, names)
if ending == token:
    names = dict(names)
    for test in order["tests"]:
        verdict = attempt(test, names)
        tell("test", verdict)
        if ending == token:
            ending = verdict
if os.getpid() == me:
    sys.stdout.flush()
tell("end", ending)
os._exit(0)
"""


def run_program(code: str, timeout: float = 5.0, limits: Limits | None = None, tests: Sequence[str] = ()) -> Verdict:
    """Run Python source in a sandbox of its own; only the standard library is there.

    Args:
        code: the program: an error anywhere, or ending before the last line, is a failure.
        timeout: wall seconds it has with all its tests.
        tests: sources run one after the other with the program's names in reach, the next even if one fails; the
            program passes if all do.

    Raises:
        MoemixError: the sandbox cannot be used on this machine (see :func:`available`).
        StageFailed: it worked before and did not start this time.
    """
    missing = available()
    if missing and not _unsafe:
        raise MoemixError(f"generated programs are not run here: {missing}", hint=INSTALL_HINT)
    verdict = _run(_bare_command() if missing else _command(), code, timeout, limits or Limits(), tests)
    if verdict.reason == _NOT_STARTED:
        raise StageFailed(f"{_NOT_STARTED}: {verdict.output.strip() or 'no reason given'}")
    return verdict


def run_programs(codes: Sequence[str], timeout: float = 5.0, workers: int | None = None) -> list[Verdict]:
    """:func:`run_program` over many, several at a time, in order."""
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return list(pool.map(lambda code: run_program(code, timeout), codes))


def allow_unsafe(allow: bool = True) -> None:
    """Where there is no sandbox, let this process run programs without one: for a user who insists."""
    global _unsafe
    _unsafe = allow


def insisted() -> bool:
    """Whether the user allowed programs to run without a sandbox."""
    return _unsafe


def unprotected() -> bool:
    """Whether programs run here without a sandbox, because the user insisted."""
    return _unsafe and available() is not None


@functools.cache
def available() -> str | None:
    """Why the sandbox cannot be used here; None if it can. Found by running a program, once a process."""
    if sys.platform != "linux":
        return f"bubblewrap needs Linux, this is {sys.platform}"
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    trial = _run(_command(), "pass", 10.0, Limits(), ())
    return None if trial.passed else f"bubblewrap cannot make a sandbox: {trial.output.strip() or trial.reason}"


@functools.cache
def _command() -> tuple[str, ...]:
    """The bwrap command line, up to the program's own arguments."""
    root = os.getuid() == 0
    command = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--new-session", "--clearenv"]
    # Root's processes are not counted against a process limit, so under root the runner becomes another user.
    command += (
        ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if root else ["--unshare-user"]
    )
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
    command += ["--dev", "/dev", "--remount-ro", "/dev", "--size", str(64 << 20), "--perms", "1777", "--tmpfs", "/tmp"]
    command += ["--remount-ro", "/", "--chdir", "/tmp", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"]
    interpreter = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    return (*command, interpreter, "-I", "-S", "-B", "-X", "utf8", "-c", _RUNNER)


def _bare_command() -> tuple[str, ...]:
    """The same runner as a plain process: limits on memory, time, processes and files hold, nothing else does."""
    return (sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _RUNNER)


def _run(command: tuple[str, ...], code: str, timeout: float, limits: Limits, tests: Sequence[str]) -> Verdict:
    """One sandbox from start to end; a reason of ``_NOT_STARTED`` means the program never got its turn."""
    token = secrets.token_hex(16)
    report_read, report_write = os.pipe()
    output_read, output_write = os.pipe()
    order = {
        "token": token,
        "report": report_write,
        "tests": list(tests),
        "uid": 61000 + secrets.randbelow(3000),
        "limits": {
            "RLIMIT_AS": limits.memory_bytes,
            "RLIMIT_CPU": limits.cpu_seconds or max(1, int(timeout + 1)),
            "RLIMIT_NPROC": limits.processes,
            "RLIMIT_FSIZE": limits.file_bytes,
            "RLIMIT_CORE": 0,
        },
    }
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output_write,
            stderr=output_write,
            pass_fds=(report_write,),
            start_new_session=True,
        )
    finally:
        os.close(report_write)
        os.close(output_write)
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(f"{json.dumps(order)}\n{code}".encode("utf-8", "replace"))
        cut, report, output = _listen(report_read, output_read, timeout, limits.output_bytes)
    finally:
        # bwrap's death is the death of everything in its process namespace; a bare process has only its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(report_read)
        os.close(output_read)
    seconds, said = time.monotonic() - started, output.decode("utf-8", "replace")
    told = _told(report)
    ends = ["passed" if verdict == token else verdict for what, verdict in told if what == "test"][: len(tests)]
    ends += ["not reached"] * (len(tests) - len(ends))
    ending = told[-1][1] if told and told[-1][0] == "end" else ""
    reason = "passed" if ending == token else cut or ending or ("killed" if told else _NOT_STARTED)
    return Verdict(reason == "passed", reason, seconds, said, tuple(ends))


def _told(report: bytes) -> list[tuple[str, str]]:
    """The runner's lines; what a program wrote among them is left out."""
    told = []
    for line in report.decode("utf-8", "replace").split("\n")[:-1]:
        with contextlib.suppress(ValueError, TypeError):
            what, verdict = json.loads(line)
            if isinstance(what, str) and isinstance(verdict, str):
                told.append((what, verdict))
    return told


def _listen(report: int, output: int, timeout: float, output_bytes: int) -> tuple[str | None, bytes, bytes]:
    """Read both pipes to their ends, or until time or output run out: why it was cut short, the report, the output."""
    received = {report: b"", output: b""}
    deadline = time.monotonic() + _START_GRACE
    begun = False
    with selectors.DefaultSelector() as selector:
        selector.register(report, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return "timeout" if begun else None, received[report], received[output]
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                received[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if not begun and received[report]:
                begun, deadline = True, time.monotonic() + timeout
            if len(received[output]) > output_bytes:
                return "output limit", received[report], received[output][:output_bytes]
            if time.monotonic() > deadline:
                return "timeout", received[report], received[output]
    return None, received[report], received[output]
