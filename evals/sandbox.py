"""Run generated programs in a sandbox: bubblewrap, no network, nothing of this machine to read or harm.

Each program has a sandbox of its own with a read-only Python and system libraries, a small private ``/tmp``, an empty
environment, no other process in sight, and limits on memory, processor time, processes, file sizes, output and wall
time. Ending the sandbox ends everything that the program started, since that shares its process namespace. This
protects the machine, not the score: a program can deceive tests that run in its own interpreter.
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
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MoemixError, StageError

INSTALL_HINT = "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"
_unsafe = False
_NOT_STARTED = "the sandbox did not start"
_PYTHON_OPTIONS = ("-I", "-S", "-B", "-X", "utf8", "-c")
_START_GRACE = 10.0  # seconds for the sandbox itself to come up on a loaded machine, on top of a program's own time


@dataclass(frozen=True)
class Limits:
    """What one program may use. ``cpu_seconds`` is one more than the wall time if it is None."""

    memory_bytes: int = 512 << 20
    processes: int = 16
    file_bytes: int = 16 << 20
    output_bytes: int = 1 << 20
    cpu_seconds: int | None = None


@dataclass(frozen=True)
class Verdict:
    """How a program ended.

    Attributes:
        passed: whether it ran to its last line without an error.
        reason: ``passed``, ``timeout``, ``output limit``, ``exited early``, ``killed``, or the first exception in one
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


# This script runs inside the sandbox. It reads an order and the program, gives up its own rights, runs the program and
# then each test in a copy of the program's names, and reports on a pipe, one JSON pair a line. The token, which only
# these two processes know, distinguishes "ran to its last line" from a program that exits with 0.
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
    """Run Python source in a sandbox of its own, with the standard library only.

    Args:
        code: the program. It fails by an error anywhere, or by ending before its last line.
        timeout: wall seconds for the program and all its tests.
        limits: what it may use.
        tests: sources that run one after the other with the program's names, the next even if one fails. The program
            passes if all tests do.

    Raises:
        MoemixError: the sandbox cannot be used on this machine (see :func:`available`).
        StageError: the sandbox worked before and did not start this time.
    """
    missing = available()
    if missing and not _unsafe:
        raise MoemixError(f"generated programs cannot run here: {missing}", hint=INSTALL_HINT)
    verdict = _run(_unprotected_command() if missing else _command(), code, timeout, limits or Limits(), tests)
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


@functools.cache
def available() -> str | None:
    """Return why the sandbox cannot be used here; None if it can. It runs one program to see, once a process."""
    if sys.platform != "linux":
        return f"bubblewrap needs Linux, this is {sys.platform}"
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    trial = _run(_command(), "pass", 10.0, Limits(), ())
    return None if trial.passed else f"bubblewrap cannot make a sandbox: {trial.output.strip() or trial.reason}"


@functools.cache
def _command() -> tuple[str, ...]:
    """Return the bwrap command line, up to the program's own arguments."""
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
    return (*command, interpreter, *_PYTHON_OPTIONS, _RUNNER)


def _unprotected_command() -> tuple[str, ...]:
    """Return the same runner as a plain process; only limits on memory, time, processes and files hold there."""
    return (sys.executable, *_PYTHON_OPTIONS, _RUNNER)


def _run(command: tuple[str, ...], code: str, timeout: float, limits: Limits, tests: Sequence[str]) -> Verdict:
    """Run one sandbox from start to end; the reason is ``_NOT_STARTED`` if the program did not start."""
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
    seconds, printed = time.monotonic() - started, output.decode("utf-8", "replace")
    events = _events(report)
    ends = ["passed" if verdict == token else verdict for what, verdict in events if what == "test"][: len(tests)]
    ends += ["not reached"] * (len(tests) - len(ends))
    ending = events[-1][1] if events and events[-1][0] == "end" else ""
    reason = "passed" if ending == token else cut or ending or ("killed" if events else _NOT_STARTED)
    return Verdict(reason == "passed", reason, seconds, printed, tuple(ends))


def _events(report: bytes) -> list[tuple[str, str]]:
    """Return the runner's lines, without what the program wrote among them."""
    events = []
    for line in report.decode("utf-8", "replace").split("\n")[:-1]:
        with contextlib.suppress(ValueError, TypeError):
            what, verdict = json.loads(line)
            if isinstance(what, str) and isinstance(verdict, str):
                events.append((what, verdict))
    return events


def _listen(report: int, output: int, timeout: float, output_bytes: int) -> tuple[str | None, bytes, bytes]:
    """Read both pipes until they end, or until time or output run out.

    Returns:
        why reading was cut short (None if it was not), the report and the output.
    """
    received = {report: b"", output: b""}
    deadline = time.monotonic() + _START_GRACE
    begun = False
    cut: str | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(report, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        while selector.get_map() and cut is None:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                cut = "timeout" if begun else None
                break
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                received[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if not begun and received[report]:
                begun, deadline = True, time.monotonic() + timeout
            if len(received[output]) > output_bytes:
                cut = "output limit"
            elif time.monotonic() > deadline:
                cut = "timeout"
    return cut, received[report], received[output][:output_bytes]
