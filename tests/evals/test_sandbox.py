"""Generated programs harm nothing, and a verdict says how each one ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evals import control_group, sandbox
from evals.code_eval import single_tests
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
        ("import torch", "ModuleNotFoundError"),
        ("x = bytearray(10**10)", "MemoryError"),
        ("x = []\nwhile True: x.append(' ' * (len(x) + 10**6))", "MemoryError"),
        ("import os\nwhile True: os.fork()", ""),
        ("while True: print('x' * 100_000)", "output limit"),
        ("open('/tmp/a', 'w').write('x' * (40 << 20))", "OSError"),
        ("for i in range(10): open(f'/tmp/{i}', 'w').write('x' * (12 << 20))", "OSError"),
        ("open('/usr/x', 'w')", "OSError: [Errno 30]"),
        ("open('/x', 'w')", "OSError: [Errno 30]"),
        ("open('/dev/shm/x', 'w').write('x' * (2 << 20))", "OSError: [Errno 28]"),
        ("open('/dev/x', 'w')", "OSError: [Errno 30]"),
        ("import socket; f = [socket.socket() for _ in range(400)]", "OSError: [Errno 24]"),
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)\nraise SystemExit", ""),
        ("import socket; socket.create_connection(('127.0.0.1', PORT), 1)", "ConnectionRefusedError"),
    ],
)
def test_what_goes_wrong_is_stopped_counted_as_failed_and_named(code, reason):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        verdict = run_program(code.replace("PORT", str(server.getsockname()[1])), timeout=10.0)
    assert not verdict.passed
    assert verdict.reason.startswith(reason)


def test_a_program_that_loops_or_sleeps_is_stopped_in_time_with_all_it_started():
    started = time.monotonic()
    code = "import os, time\nfor _ in range(4):\n    if os.fork() == 0: time.sleep(60)\nwhile True: pass"
    assert run_program(code, timeout=1.0).reason == "timeout"
    assert time.monotonic() - started < 40  # of sixty


def programs():
    path = Path(__file__).with_name("sandbox_programs.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def verdicts(names=(), timeout=4.0):
    """The name, verdict and reason of every program in the list, or of those with these names."""

    def one(program):
        limits = Limits(cpu_seconds=2)
        verdict = run_program(program["code"], timeout, limits, single_tests(program["tests"]))
        return program["name"], verdict.passed, verdict.reason

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(one, (program for program in programs() if not names or program["name"] in names)))


EXPECTED = {program["name"]: program["passes"] for program in programs()}
# The kinds of container in which bubblewrap works, and in which root is less than root.
CONTAINERS = {
    "one user mapped": ["unshare", "-Ur"],
    "no CAP_SYS_ADMIN": ["capsh", "--drop=cap_sys_admin", "--shell=/usr/bin/env", "--"],
}
# One in which nobody has any rights, or a namespace to get them in.
NO_NAMESPACES = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all --inh-caps=-all "
NO_NAMESPACES += '--bounding-set=-all "$@"'
NO_NAMESPACES = ["unshare", "-U", "--map-user=1000", "--map-group=1000", "--keep-caps", "sh", "-c", NO_NAMESPACES, "sh"]
# What a sandbox without namespaces has to do by itself.
SOME = ("ok", "network", "write python prefix", "proc", "disk fill /tmp", "fork 4 x 400 MB", "setsid daemon survives?",
    "memfd 900 MB (limit 512)", "setuid root again", "numpy", "multiprocessing.Pool(2)", "ThreadPool(16)")  # fmt: skip


def test_hostile_cheating_and_ordinary_programs_get_their_verdicts():
    found = verdicts()
    assert {name: passed for name, passed, _ in found} == EXPECTED
    reasons = {name: reason for name, _, reason in found}
    assert reasons["many small files"] == "file limit"
    assert reasons["fork 4 x 400 MB"] == "memory limit"
    assert reasons["setsid daemon survives?"] == "left processes running"
    cheats = ("eq override", "patch exec", "tests emptied via gc", "settrace skip", "read test from stack when called")
    assert all(reasons[name].startswith("suspicious: ") for name in cheats)


def inside(container, code):
    """What a script of this folder prints as JSON in a container."""
    if os.getuid() or shutil.which(container[0]) is None:
        pytest.skip(f"needs root and {container[0]}")
    done = subprocess.run(
        [*container, sys.executable, "-c", f"import json, test_sandbox as t; print(json.dumps({code}))"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_verdicts_are_given_in_a_container(container):
    name, found = inside(CONTAINERS[container], "[t.sandbox.sandbox_name(), t.verdicts()]")
    assert name == "bubblewrap in a user namespace"
    assert {name: passed for name, passed, _ in found} == EXPECTED


def test_the_same_verdicts_are_given_where_no_namespace_can_be_made():
    pytest.importorskip("sandlock")
    names = () if "MOEMIX_ALL_TESTS" in os.environ else SOME
    name, found = inside(NO_NAMESPACES, f"[t.sandbox.sandbox_name(), t.verdicts({names!r}, 10.0)]")
    assert name == "sandlock"
    assert {name: passed for name, passed, _ in found} == {name: EXPECTED[name] for name in names or EXPECTED}
    reasons = {name: reason for name, _, reason in found}
    assert reasons["disk fill /tmp"] == "file limit"
    assert reasons["setsid daemon survives?"] == "left processes running"


def test_memory_of_all_processes_together_stays_within_the_limit(monkeypatch):
    seen = []
    measure = sandbox._Run._overuse

    def watched(run):
        seen.append(sum(map(sandbox._memory, sandbox._processes(run._process.pid))))
        return measure(run)

    monkeypatch.setattr(sandbox._Run, "_overuse", watched)
    hungry = "import os, time\nfor i in range(3): os.fork()\nx = []\nwhile True: x.append(bytearray(1 << 20))"
    most = []
    for _ in range(3):  # beside other work a look may come late: the best of three counts
        seen.clear()
        verdict = run_program(hungry, timeout=20.0, limits=Limits(memory_bytes=256 << 20))
        assert verdict.reason == "memory limit"
        most.append(max(seen))
        if most[-1] < 1.1 * (256 << 20):
            break
    assert min(most) < 1.1 * (256 << 20)
    assert max(most) > 100 << 20  # of all four; looks are some time apart


@pytest.mark.skipif(control_group.parent() is None, reason="no control group can be made here")
def test_a_control_group_keeps_the_memory_of_all_processes_within_the_limit(monkeypatch):
    most = []
    exceeded = control_group.ControlGroup.exceeded

    def watched(group):
        most.append(int((group._folder / "memory.peak").read_text()))
        return exceeded(group)

    monkeypatch.setattr(control_group.ControlGroup, "exceeded", watched)
    monkeypatch.setattr(sandbox._Run, "_overuse", lambda run: None)  # the supervisor that counts
    before = set(control_group.parent().iterdir())
    hungry = "import os\nfor i in range(3): os.fork()\nx = []\nwhile True: x.append(bytearray(1 << 20))"
    verdict = run_program(hungry, timeout=60.0, limits=Limits(memory_bytes=128 << 20))
    assert verdict.reason == "memory limit"
    assert (100 << 20) < most[0] <= 1.1 * (128 << 20)
    assert run_program("x = bytearray(50 << 20)", timeout=60.0).passed
    assert set(control_group.parent().iterdir()) == before


def test_code_that_runs_without_a_sandbox_gets_an_empty_environment(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "do-not-tell")
    monkeypatch.setattr(sandbox, "sandboxes", lambda: iter(()))
    sandbox._usable.cache_clear()
    try:
        assert sandbox.available() == "there is no way to make a sandbox"
        sandbox.allow_unsafe_code()
        verdict = run_program("import os, numpy\nprint(dict(os.environ))", timeout=20.0)
        assert verdict.passed, verdict
        assert "do-not-tell" not in verdict.output
        assert verdict.output.count(":") <= 2
    finally:
        sandbox.allow_unsafe_code(False)
        sandbox._usable.cache_clear()


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
