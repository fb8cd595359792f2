"""Jobs that are forked from a process with its imports behave like jobs that are started afresh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from harness.warm import Warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")


@pytest.fixture(scope="module")
def warm():
    warm = Warm()
    yield warm
    warm.close()


def forked(warm: Warm, *words: str, **environment: str):
    process = warm.start(words, {**os.environ, **environment})
    assert process is not None
    return process


def test_output_and_status_are_the_commands_own(warm):
    good, bad = forked(warm, "recipes"), forked(warm, "recipez")
    assert b"quickstart" in good.stdout.read()
    assert good.wait() == 0
    assert b"did you mean 'recipes'" in bad.stdout.read()
    assert bad.wait() == 2
    assert good.poll() == 0


def test_environment_session_and_threads_are_its_own(warm, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import os, torch\nfrom trainers.mixing import MixingStrategy\n"
        "print(os.environ['SAYS'], os.getsid(0) == os.getpid(), torch.get_num_threads(), torch.cuda.is_initialized())\n"
    )
    process = forked(warm, "simulate", f"{script}:X", SAYS="this", OMP_NUM_THREADS="3")
    assert b"this True 3 False" in process.stdout.read()
    process.wait()


def test_starting_costs_at_most_two_seconds_of_cpu_time(warm, tmp_path):
    script = tmp_path / "used.py"
    script.write_text("import time\nimport evals.runner, trainers.training.run\nprint('used', time.process_time())\n")
    process = forked(warm, "simulate", f"{script}:X")
    used = float(process.stdout.read().split(b"used ")[1].split()[0])
    process.wait()
    assert used < 2


def test_it_can_be_stopped_and_killed(warm, tmp_path):
    script = tmp_path / "sleeps.py"
    script.write_text("import time\nprint('asleep', flush=True)\ntime.sleep(600)\n")
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = forked(warm, "simulate", f"{script}:X", PYTHONUNBUFFERED="1")
        assert process.stdout.read(6) == b"asleep"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        assert process.poll() is None
        os.killpg(process.pid, number)
        assert process.wait(120) == status


def test_jobs_end_with_the_process_that_started_them(tmp_path):
    script = tmp_path / "sleeps.py"
    script.write_text("import time\ntime.sleep(600)\n")
    conductor = (
        "import os, time\nfrom harness.warm import Warm\n"
        f"job = Warm().start(('simulate', '{script}:X'), dict(os.environ))\n"
        "print(job.pid, flush=True)\ntime.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", conductor], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    job = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 120
    while os.path.exists(f"/proc/{job}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{job}")


def test_without_the_process_that_forks_a_job_is_started_afresh(warm):  # last: it takes it from the others
    forked(warm, "recipes").wait()
    assert warm._server is not None
    warm._server.kill()
    warm._server.wait()
    assert warm.start(("recipes",), dict(os.environ)) is None
