"""What ``moemix status`` says of jobs that are done, running, waiting, failed, interrupted and blocked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from trivial_jobs import trivial  # type: ignore[import-not-found]

from harness.files import append_jsonl
from harness.jobs import Plan
from harness.recipe_file import load_recipe
from harness.records import Stage
from harness.status import plan_status, status, time_left
from harness.store import Store, exclusive


@pytest.fixture
def bench(tmp_path: Path):
    from run_records import Bench  # type: ignore[import-not-found]

    return Bench(tmp_path)


def job_of(run, name: str, after: tuple[str, ...] = ()):
    """A plain training job over a run's folder; done when its manifest says so."""
    import dataclasses

    from harness.jobs import Job

    made = trivial(run.folder.parent, run.folder.name, after=after)
    fields = {f.name: getattr(made, f.name) for f in dataclasses.fields(Job)}
    return Job(**{**fields, "id": name, "title": f"train {name}"})


def plan_of(root: Path, *jobs) -> Plan:
    return Plan(load_recipe("quickstart", ["executor.jobs=1"]), Store(root), None, tuple(jobs), ())


def test_every_state_is_told_with_its_reason(bench, tmp_path):
    stages = {
        "done": Stage(status="done", started="2026-01-01T00:00:00+00:00", finished="2026-01-01T00:01:30+00:00"),
        "failed": Stage(status="failed", started="2026-01-01T00:00:00+00:00", error="the loss is NaN at step 7"),
        "stopped": Stage(status="running", started="2026-01-01T00:00:00+00:00"),
        "fresh": Stage(),
    }
    runs = {name: bench.run(name, stages={"train": stage}) for name, stage in stages.items()}
    running = bench.run("running", stages={"train": Stage(status="running", started="2026-01-01T00:00:00+00:00")})
    for step in (10, 20):
        append_jsonl(running.metrics, {"step": step, "loss": 2.5, "seconds": 0.5})
    jobs = [job_of(run, name) for name, run in runs.items()] + [job_of(running, "running")]
    behind = job_of(bench.run("behind", stages={"train": Stage()}), "behind", ("failed",))
    waits = job_of(bench.run("waits", stages={"train": Stage()}), "waits", ("running",))
    plan = plan_of(tmp_path, *jobs, behind, waits)
    with exclusive(running.folder):
        rows = plan_status(plan)
        told = {row.id: (row.state, row.detail) for row in rows}
        left = time_left(plan, rows)
    assert told["done"] == ("done", "in 1m30s")
    assert told["failed"] == ("failed", "the loss is NaN at step 7")
    assert told["stopped"] == ("interrupted", "goes on where it stopped")
    assert told["fresh"] == ("waiting", "")
    assert told["behind"] == ("blocked", "behind: train failed")
    assert told["waits"] == ("waiting", "for: train running")
    assert told["running"] == ("running", "step 20 of 100, loss 2.500, 40s left")
    assert left == pytest.approx(40 + 3 * 90)  # the running one by its pace, three others as long as the finished one


def test_a_look_at_a_run_does_not_get_in_the_way_of_one_that_starts(bench, tmp_path):
    run = bench.run("uniform", stages={"train": Stage()})
    plan = plan_of(tmp_path, job_of(run, "uniform"))
    with exclusive(run.folder):
        plan_status(plan)
    assert plan_status(plan)[0].state == "waiting"
    with exclusive(run.folder):
        pass


def test_without_a_recipe_every_run_of_the_store_is_shown(bench, tmp_path):
    bench.run("uniform", {"arc": [1.0, 0.0]})
    bench.run("dynamic", stages={"train": Stage(status="failed", error="no space")})
    shown = CliRunner().invoke(status, ["--store", str(tmp_path)])
    assert shown.exit_code == 0
    assert "failed" in shown.output
    assert "train: no space" in shown.output
    jobs = json.loads(CliRunner().invoke(status, ["--store", str(tmp_path), "--format", "json"]).output)["jobs"]
    assert sorted(job["state"] for job in jobs) == ["done", "failed"]
    assert "nothing has been started" in CliRunner().invoke(status, ["--store", str(tmp_path / "none")]).output


def test_a_recipe_that_was_never_started_waits_as_a_whole(tmp_path):
    command = (sys.executable, "-m", "harness.cli", "status", "quickstart", "--store", str(tmp_path))
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "for: make model tiny" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "31 waiting"  # the model; of ten runs training, scores and verdicts
