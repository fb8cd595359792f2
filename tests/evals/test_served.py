"""A server of ours is started whatever the port, ended whatever happens to us, and started again only once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_server

from evals.engines import served
from evals.engines.served import ServedProcess
from evals.engines.vllm_server import VllmEngine
from harness.errors import StageError


def make(folder, *extra):
    command = lambda port: [sys.executable, tiny_server.__file__, str(port), "mine", *extra]
    return ServedProcess("tiny", model="mine", command=command, environment=None, folder=folder)


def helper_of(folder):
    """The process that the server started, from its log."""
    line = [line for line in (folder / "server.log").read_text().splitlines() if line.startswith("helper")][-1]
    return int(line.split()[1])


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_it_answers_while_it_runs_and_nothing_is_left_after_it(tmp_path):
    server = make(tmp_path)
    server.start()
    assert server.alive()
    helper = helper_of(tmp_path)
    assert runs(helper)
    server.stop()
    assert not server.alive()
    wait_until(lambda: not runs(helper))
    assert not server.record.exists()


def test_a_port_that_is_taken_meanwhile_is_left_for_another(tmp_path, monkeypatch):
    free = served.free_port
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports = iter([taken])
        monkeypatch.setattr(served, "free_port", lambda: next(ports, None) or free())
        server = make(tmp_path)
        server.start()
    assert server.url != f"http://127.0.0.1:{taken}"
    server.stop()


def test_a_server_that_dies_at_the_start_shows_the_end_of_its_log(tmp_path):
    with pytest.raises(StageError, match="the weights are damaged"):
        make(tmp_path, "dies").start()


def test_a_dead_server_is_started_again_once(tmp_path):
    server = make(tmp_path)
    server.start()
    for attempt in range(2):
        pid = served.read_json(server.record)["pid"]
        helper = helper_of(tmp_path)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not server.alive())
        assert not runs(helper)
        if attempt == 0:
            server.revive()
            assert server.alive()
    with pytest.raises(StageError, match="died again after a restart"):
        server.revive()


OWNER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_served import make
make(Path(sys.argv[1])).start()
print("started", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_server_outlives_its_owner(tmp_path, number):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert owner.stdout.readline() == b"started\n"
    server, helper = served.read_json(tmp_path / "server.json")["pid"], helper_of(tmp_path)
    assert runs(server)
    assert runs(helper)
    owner.send_signal(number)
    owner.communicate(timeout=120)
    wait_until(lambda: not runs(server) and not runs(helper))


def test_what_even_a_killed_guard_left_behind_is_ended_by_the_next_start(tmp_path):
    server = make(tmp_path)
    server.start()
    helper = helper_of(tmp_path)
    server._guard.kill()  # the server dies with it; what the server started does not
    server._guard.wait()
    wait_until(lambda: not runs(served.read_json(server.record)["pid"]))
    assert runs(helper)
    later = make(tmp_path)
    later.start()
    assert not runs(helper)
    later.stop()


def test_a_record_of_another_process_of_the_same_number_ends_nobody(tmp_path):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    record = {"pid": bystander.pid, "started": "1", "boot": served._boot()}
    served.write_json(tmp_path / "server.json", record)
    server = make(tmp_path)
    server.start()
    server.stop()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_key_for_other_servers_is_not_passed_on_to_ours(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("evals.engines.vllm_server.installed_vllm", lambda: ("0", True))
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    engine = VllmEngine(checkpoint, dtype="float32", seed=0, folder=tmp_path)
    assert "VLLM_API_KEY" not in engine.server._environment
