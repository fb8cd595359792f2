"""Plans on this machine: as many jobs at once as there are slots, each failure contained, an interrupt resumable."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from trivial_jobs import trivial  # type: ignore[import-not-found]

from harness.errors import MoemixError
from harness.execution import LocalExecutor, SlurmExecutor
from harness.local import conduct_locally
from harness.recipe import Recipe
from harness.recipe_file import load_recipe
from harness.schema import parse

SPAN = "begun = time.monotonic(); time.sleep(0.4); (here / 'span').write_text(json.dumps([begun, time.monotonic()])); "
SEES = "(here / 'sees').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', '') + '|' + os.environ['OMP_NUM_THREADS']); "


def spans(jobs) -> list[tuple[float, float]]:
    return sorted(json.loads((job.folder / "span").read_text()) for job in jobs)


def test_one_slot_runs_one_job_after_another(tmp_path):
    jobs = tuple(trivial(tmp_path, name, SPAN + "finish()") for name in "abc")
    assert conduct_locally(jobs, LocalExecutor()).done == ["a", "b", "c"]
    found = spans(jobs)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))


def test_two_slots_run_two_jobs_at_once_and_no_third(tmp_path):
    # However long the second of them takes to start.
    meets = "while len(list(here.parent.glob('*/starts'))) < 2 and time.monotonic() < begun + 60: time.sleep(0.01)"
    script = SPAN.replace("time.sleep(0.4);", f"\n{meets}\ntime.sleep(0.4);")
    jobs = tuple(trivial(tmp_path, name, script + "finish()") for name in "abcd")
    assert sorted(conduct_locally(jobs, LocalExecutor(jobs=2)).done) == list("abcd")
    edges = sorted((moment, step) for begun, ended in spans(jobs) for moment, step in ((begun, 1), (ended, -1)))
    running, most = 0, 0
    for _, step in edges:
        running += step
        most = max(most, running)
    assert most == 2


def test_a_job_that_takes_all_slots_runs_alone(tmp_path):
    jobs = (
        trivial(tmp_path, "small", SPAN + "finish()", kind="eval"),
        trivial(tmp_path, "large", SPAN + "finish()"),
        trivial(tmp_path, "late", SPAN + "finish()", kind="eval"),
    )
    conduct_locally(jobs, LocalExecutor(jobs=2, slots={"train": 2}))
    found = spans(jobs)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))


def test_the_last_jobs_that_others_wait_for_start_before_those_that_nothing_waits_for(tmp_path):
    """In the plan's order the last training would begin when nothing but its own evaluation is left."""
    script = SPAN.replace("0.4", "0.1") + "finish()"
    jobs = tuple(
        job
        for n in range(7)
        for job in (
            trivial(tmp_path, f"train-{n}", script),
            trivial(tmp_path, f"eval-{n}", script, kind="eval", after=(f"train-{n}",)),
        )
    )
    conduct_locally(jobs, LocalExecutor(jobs=2))
    begun = {job.id: json.loads((job.folder / "span").read_text())[0] for job in jobs}
    assert begun["eval-0"] < begun["train-6"]  # early on, in the order of the plan
    assert all(begun["train-6"] < begun[f"eval-{n}"] for n in range(2, 7))


def test_each_slot_has_its_own_device_and_every_job_its_threads(tmp_path):
    jobs = tuple(trivial(tmp_path, name, SEES + "time.sleep(0.5); finish()") for name in "ab")
    conduct_locally(jobs, LocalExecutor(devices=("4", "7"), threads=3))
    assert sorted((job.folder / "sees").read_text() for job in jobs) == ["4|3", "7|3"]


@pytest.mark.parametrize(("slots", "kinds"), [(1, {}), (2, {}), (2, {"train": 2}), (4, {"train": 2})])
def test_jobs_side_by_side_share_the_cores_and_do_not_spin(tmp_path, monkeypatch, slots, kinds):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setattr("harness.local.core_count", lambda: 8)
    variables = "[os.environ.get(n) for n in ('OMP_NUM_THREADS', 'GOMP_SPINCOUNT')]"
    job = trivial(tmp_path, "a", f"(here / 'sees').write_text(json.dumps({variables})); finish()")
    conduct_locally((job,), LocalExecutor(jobs=slots, slots=kinds))
    threads, spins = json.loads((job.folder / "sees").read_text())
    assert threads == (None if slots == 1 else str(8 * kinds.get("train", 1) // slots))
    assert spins == "1000"


def test_dependencies_are_waited_for_and_what_is_behind_a_failure_is_not_started(tmp_path):
    jobs = (
        trivial(tmp_path, "bad", "sys.exit('moemix: no space')"),
        trivial(tmp_path, "good"),
        trivial(tmp_path, "behind-bad", after=("bad",)),
        trivial(tmp_path, "behind-good", "assert (here.parent / 'good/summary.json').exists(); finish()", ("good",)),
    )
    outcome = conduct_locally(jobs, LocalExecutor(jobs=3))
    assert sorted(outcome.done) == ["behind-good", "good"]
    assert outcome.failed["bad"].startswith("no space")
    assert outcome.blocked == {"behind-bad": "bad"}
    assert jobs[2].starts == 0


def test_finished_jobs_are_not_started_again(tmp_path):
    jobs = (trivial(tmp_path, "a"), trivial(tmp_path, "b", after=("a",)))
    conduct_locally(jobs, LocalExecutor(jobs=2))
    assert conduct_locally(jobs, LocalExecutor(jobs=2)).done == ["a", "b"]
    assert [job.starts for job in jobs] == [1, 1]


def test_an_interrupt_lets_every_running_job_write_its_state_and_waits_for_that(tmp_path):
    code = (
        "from pathlib import Path; from trivial_jobs import trivial; from harness.local import conduct_locally\n"
        "from harness.execution import LocalExecutor; import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "script = '''\nimport signal\n"
        "def save(*_):\n    time.sleep(0.5); (here / 'state').write_text('saved'); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, save)\n(here / 'ready').touch()\ntime.sleep(60)\n'''\n"
        f"conduct_locally(tuple(trivial(Path({str(tmp_path)!r}), n, script) for n in 'ab'), LocalExecutor(jobs=2))\n"
    )
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    process = subprocess.Popen((sys.executable, "-c", code), stderr=subprocess.DEVNULL, env=surroundings)
    deadline = time.monotonic() + 120
    while not all((tmp_path / name / "ready").exists() for name in "ab"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    assert all((tmp_path / name / "state").read_text() == "saved" for name in "ab")
    assert time.monotonic() - begun < 40, "each of them sleeps for sixty"


@pytest.mark.parametrize(
    ("setting", "executor"),
    [
        ("executor=slurm", SlurmExecutor(kind="slurm")),
        ("executor={jobs: 3, slots: {train: 2}}", LocalExecutor(jobs=3, slots={"train": 2})),
        (
            "executor={kind: slurm, resources: {train: {minutes: 90, gpus: 4}}}",
            SlurmExecutor.model_validate({"kind": "slurm", "resources": {"train": {"minutes": 90, "gpus": 4}}}),
        ),
    ],
)
def test_a_recipe_says_where_it_runs(setting, executor):
    assert load_recipe("quickstart", [setting]).executor == executor


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"kind": "slrum"}, "slurm"),
        ({"kind": "local", "job": 2}, "unknown key `executor.job` (did you mean 'jobs'?"),
        ({"devices": ["0", "1"], "jobs": 3}, "there are 2 devices"),
    ],
)
def test_a_wrong_executor_is_told(value, said):
    tree = load_recipe("quickstart").model_dump(mode="json")
    with pytest.raises(MoemixError) as error:
        parse(Recipe, {**tree, "executor": value}, where="mine.yaml")
    assert said in str(error.value)
