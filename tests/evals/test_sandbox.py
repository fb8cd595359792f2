"""Generated programs harm nothing, and a verdict says how each one ended."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from evals import sandbox
from evals.sandbox import Limits, run_program

pytestmark = pytest.mark.skipif(sandbox.available() is not None, reason=f"no sandbox here: {sandbox.available()}")


def test_a_program_passes_when_it_reaches_its_last_line():
    assert run_program("import math, re\nassert math.gcd(12, 18) == 6").passed


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "exited early"),
        ("import os; os._exit(0)", "killed"),
        ("import os\nif os.fork(): os._exit(0)", "killed"),
        ("input()", "EOFError"),
        ("import numpy", "ModuleNotFoundError"),
        ("x = bytearray(10**10)", "MemoryError"),
        ("x = []\nwhile True: x.append(' ' * (len(x) + 10**6))", "MemoryError"),
        ("import os\nwhile True: os.fork()", "BlockingIOError"),
        ("while True: print('x' * 100_000)", "output limit"),
        ("open('/tmp/a', 'w').write('x' * (40 << 20))", "OSError"),
        ("for i in range(10): open(f'/tmp/{i}', 'w').write('x' * (12 << 20))", "OSError"),
        ("open('/usr/x', 'w')", "OSError: [Errno 30]"),
        ("open('/x', 'w')", "OSError: [Errno 30]"),
        ("open('/dev/shm/x', 'w')", "OSError: [Errno 30]"),
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)\nraise SystemExit", ""),
        ("import socket; socket.create_connection(('127.0.0.1', PORT), 1)", "ConnectionRefusedError"),
    ],
)
def test_what_goes_wrong_is_stopped_counted_as_failed_and_named(code, reason):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        verdict = run_program(code.replace("PORT", str(server.getsockname()[1])), timeout=3.0)
    assert not verdict.passed
    assert verdict.reason.startswith(reason)


def test_a_program_that_loops_or_sleeps_is_stopped_in_time_with_all_it_started():
    started = time.monotonic()
    code = "import os, time\nfor _ in range(4):\n    if os.fork() == 0: time.sleep(60)\nwhile True: pass"
    assert run_program(code, timeout=1.0).reason == "timeout"
    assert time.monotonic() - started < 8


def test_memory_is_limited_to_what_was_asked():
    code = "x = bytearray(200 << 20)"
    assert run_program(code).passed
    assert run_program(code, limits=Limits(memory_bytes=100 << 20)).reason.startswith("MemoryError")


def test_nothing_of_this_environment_can_be_read(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "do-not-tell")
    verdict = run_program(f"import os\nprint(dict(os.environ))\nprint(os.path.exists({os.getcwd()!r}))")
    assert verdict.passed
    assert "do-not-tell" not in verdict.output
    assert "False" in verdict.output


def test_many_programs_can_run_at_once():
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(run_program, [f"assert {i} % 2 == 0" for i in range(12)]))
    assert [verdict.passed for verdict in verdicts] == [i % 2 == 0 for i in range(12)]
