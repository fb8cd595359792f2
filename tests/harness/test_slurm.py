"""Plans on a real Slurm: arrays and dependencies, and jobs that are killed, requeued, timed out and cancelled."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from slurm_cluster import Cluster, why_not  # type: ignore[import-not-found]
from trivial_jobs import TrivialJob, trivial  # type: ignore[import-not-found]

from harness.errors import StageError
from harness.execution import SlurmExecutor
from harness.slurm import conduct_on_slurm, groups
from harness.slurm_queue import submitted

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = why_not()
    if reason:
        pytest.skip(reason)
    started = Cluster(tmp_path_factory.mktemp("slurm"))
    started.start()
    before = os.environ.get("SLURM_CONF"), os.environ.get("PYTHONPATH", "")
    os.environ["SLURM_CONF"] = str(started.configuration)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [before[1]])])
    try:
        yield started
    finally:
        started.stop()
        os.environ["PYTHONPATH"] = before[1]
        os.environ.pop("SLURM_CONF") if before[0] is None else os.environ.update(SLURM_CONF=before[0])


def executor(**settings) -> SlurmExecutor:
    return SlurmExecutor(**{"kind": "slurm", "poll_seconds": 0.3, "warning_seconds": 30, **settings})


class Meanwhile(threading.Thread):
    """Does something to a job while the conductor watches it."""

    def __init__(self, job: TrivialJob, folder: Path, action) -> None:
        super().__init__(daemon=True)
        self.job, self.folder, self.action = job, folder, action
        self.start()

    def run(self) -> None:
        while not self.job.starts:
            time.sleep(0.1)
        time.sleep(0.3)
        self.action(submitted(self.folder)[self.job.id], self.job)


@pytest.fixture
def no_delay(cluster):
    """A job that is queued again has to wait two minutes; here only until its first run is surely gone: the late end
    of that would be taken for the end of the second.
    """
    stop = threading.Event()
    since: dict[str, float] = {}

    def hurry() -> None:
        while not stop.wait(0.3):
            rows = (line.split() for line in cluster.ask("squeue", "-h", "-r", "-o", "%i %T %r").splitlines())
            waiting = {row[0] for row in rows if row[1:] == ["PENDING", "BeginTime"]}
            for slurm in since.keys() - waiting:
                del since[slurm]
            for slurm in waiting:
                if time.monotonic() - since.setdefault(slurm, time.monotonic()) > 2:
                    cluster.ask("scontrol", "update", f"JobId={slurm}", "StartTime=now")

    thread = threading.Thread(target=hurry, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_a_plan_runs_as_arrays_with_its_dependencies(cluster, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="moemix.harness")
    model = trivial(tmp_path, "model", kind="model")
    needs_model = "assert (here.parent / 'model' / 'summary.json').is_file(); finish()"
    trains = [trivial(tmp_path, f"train{i}", needs_model, ("model",)) for i in range(2)]
    evals = [
        trivial(tmp_path, f"eval{i}", f"assert (here.parent / 'train{i}' / 'summary.json').is_file(); finish()",
                (f"train{i}",), "eval")
        for i in range(2)
    ]  # fmt: skip
    jobs = (model, *trains, *evals)
    outcome = conduct_on_slurm(jobs, executor(), tmp_path)
    assert sorted(outcome.done) == sorted(job.id for job in jobs), caplog.text
    ids = submitted(tmp_path)
    assert "_" not in ids["model"]
    assert [ids[job.id].partition("_")[2] for job in trains] == ["0", "1"]
    assert len({ids[job.id].partition("_")[0] for job in evals}) == 1
    said = caplog.text
    assert f"afterok:{ids['model']}" in said
    assert f"aftercorr:{ids['train0'].partition('_')[0]}" in said
    again = conduct_on_slurm(jobs, executor(), tmp_path)
    assert len(again.done) == 5
    assert all(job.starts == 1 for job in jobs)  # nothing was submitted twice


def test_a_failing_job_is_reported_with_its_reason_and_stops_only_what_waits_for_it(cluster, tmp_path):
    jobs = (
        trivial(tmp_path, "good"),
        trivial(tmp_path, "bad", "sys.exit('moemix: the loss is not a finite number')"),
        trivial(tmp_path, "behind-good", after=("good",), kind="eval"),
        trivial(tmp_path, "behind-bad", after=("bad",), kind="eval"),
    )
    outcome = conduct_on_slurm(jobs, executor(), tmp_path)
    assert sorted(outcome.done) == ["behind-good", "good"]
    assert "the loss is not a finite number" in outcome.failed["bad"]
    assert outcome.blocked == {"behind-bad": "bad"}
    assert jobs[1].starts == 1  # its own fault: not tried again


def test_a_killed_job_is_submitted_again_with_what_waits_for_it_and_reported_if_that_does_not_help(cluster, tmp_path):
    jobs = (
        trivial(tmp_path, "once", "time.sleep(60) if count == 1 else finish()"),
        trivial(tmp_path, "always", "os.kill(os.getpid(), signal.SIGKILL)"),
        trivial(tmp_path, "behind", after=("once",), kind="eval"),
    )
    Meanwhile(jobs[0], tmp_path, lambda slurm, job: os.kill(job.pids[-1], signal.SIGKILL))
    outcome = conduct_on_slurm(jobs, executor(retries=1), tmp_path)
    assert sorted(outcome.done) == ["behind", "once"]
    assert "killed by signal 9" in outcome.failed["always"]
    assert [job.starts for job in jobs] == [2, 2, 1]


def test_a_requeued_job_starts_again_and_what_waits_for_it_waits(cluster, no_delay, tmp_path):
    job = trivial(tmp_path, "requeued", "time.sleep(60) if count == 1 else finish()")
    behind = trivial(tmp_path, "behind", after=("requeued",), kind="eval")
    Meanwhile(job, tmp_path, lambda slurm, job: cluster.ask("scontrol", "requeue", slurm))
    outcome = conduct_on_slurm((job, behind), executor(), tmp_path)
    assert sorted(outcome.done) == ["behind", "requeued"]
    assert job.starts == 2


def test_a_cancelled_job_is_reported_and_not_tried_again(cluster, tmp_path):
    job = trivial(tmp_path, "cancelled", "time.sleep(60)")
    behind = trivial(tmp_path, "behind", after=("cancelled",), kind="eval")
    Meanwhile(job, tmp_path, lambda slurm, job: cluster.ask("scancel", slurm))
    outcome = conduct_on_slurm((job, behind), executor(), tmp_path)
    assert "cancelled in Slurm" in outcome.failed["cancelled"]
    assert outcome.blocked == {"behind": "cancelled"}
    assert job.starts == 1


STATEFUL = """
def save(*_):
    (here / "state").write_text("saved"); sys.exit(130)
signal.signal(signal.SIGINT, save)
if (here / "state").exists(): finish()
else: time.sleep(300)
"""


def test_a_job_whose_time_is_up_writes_its_state_and_goes_on_and_is_reported_if_that_is_not_enough(
    cluster, no_delay, tmp_path
):
    long, endless = trivial(tmp_path, "long", STATEFUL), trivial(tmp_path, "endless", "time.sleep(300)")
    # Slurm looks at the clock every 30 s and warns by as much too early: never before a job can have begun to listen
    short = executor(resources={"train": {"minutes": 1}}, warning_seconds=15, continuations=1, retries=0)
    outcome = conduct_on_slurm((long, endless), short, tmp_path)
    assert outcome.done == ["long"]
    assert (long.folder / "state").read_text() == "saved"
    assert "it hit its time limit" in outcome.failed["endless"]
    assert [job.starts for job in (long, endless)] == [2, 2]


def test_an_interrupted_conductor_leaves_its_jobs_and_finds_them_again(cluster, tmp_path):
    code = (
        "import logging; from pathlib import Path; from trivial_jobs import trivial\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from harness.slurm import conduct_on_slurm; from harness.execution import SlurmExecutor\n"
        f"root = Path({str(tmp_path)!r})\n"
        "jobs = (trivial(root, 'slow', 'time.sleep(4); finish()'),\n"
        "        trivial(root, 'next', after=('slow',), kind='eval'))\n"
        "print(conduct_on_slurm(jobs, SlurmExecutor(kind='slurm', poll_seconds=0.3), root).done)\n"
    )
    first = subprocess.Popen((sys.executable, "-c", code), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while "next" not in submitted(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(StageError, match="another process"):
        conduct_on_slurm((trivial(tmp_path, "slow"),), executor(), tmp_path)
    first.send_signal(signal.SIGINT)
    assert "the jobs stay in Slurm's queue; to cancel them: scancel" in first.communicate(timeout=30)[1]
    second = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True)
    assert second.stdout.strip() == "['slow', 'next']", second.stderr
    assert trivial(tmp_path, "slow").starts == 1


def test_jobs_behind_an_incomplete_array_depend_on_their_own_task():
    jobs = [trivial(Path("/tmp"), f"eval{i}", after=(f"train{i}",), kind="eval") for i in (0, 2)]
    found = list(groups(jobs, {f"train{i}": f"7_{i}" for i in range(3)}, Counter({"7": 3})))
    assert [([job.id for job in group], need) for group, need in found] == [
        (["eval0"], "afterok:7_0"),
        (["eval2"], "afterok:7_2"),
    ]
