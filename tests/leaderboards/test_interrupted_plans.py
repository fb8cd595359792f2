"""A plan that is killed anywhere and resumed gives the tables of one that was not, byte for byte.

The conductor is the real one. Its jobs take moments: they write, a little at a time and their completion marker last,
the records that the same jobs of a finished store hold. What a real training does when it is killed has its own tests.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from paper_records import finish, opened  # type: ignore[import-not-found]

from harness.conductor import conduct
from harness.grid import ENDINGS
from harness.jobs import Job
from leaderboards.exports import render as comparison
from leaderboards.paper.figures import FIGURES
from leaderboards.paper.rendering import needs, render
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import table_names
from leaderboards.selection import from_plan

SMALL = ("seeds=[0, 1]", "models.tiny-molm.overrides={strategies: [none]}",
         "strategies=[none, uniform, dynamic]")  # fmt: skip
ROUNDS, KILLS = 3, 3  # stores, and how often the conductor of each is killed before it may go on to the end

# A file's first half, a pause, the rest: a job that is killed leaves half a file, and the next begins it again.
SCRIPT = """
import json, os, pathlib, sys, time
whole, here, kind, marker = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
with open(here / "starts", "a") as file: file.write("x")
for path in sorted(whole.iterdir()):
    if path.is_file() and path.name not in (marker, "starts", "stage.json", "request.json"):
        data = path.read_bytes()
        with open(here / path.name, "wb") as file:
            file.write(data[: len(data) // 2]); file.flush(); time.sleep(0.01); file.write(data[len(data) // 2 :])
time.sleep(0.02)
record = json.loads((whole / marker).read_text())
if kind == "train":
    mine = json.loads((here / marker).read_text())
    record = {**mine, **{k: record[k] for k in ("stages", "result", "checkpoint_hash")}}
(here / "new").write_text(json.dumps(record))
os.replace(here / "new", here / marker)
"""


@dataclass(frozen=True)
class Copy(Job):
    """A job that comes by its records from the store where it is finished."""

    whole: Path = Path()

    @property
    def command(self) -> tuple[str, ...]:
        marker = {"train": "run.json", "model": "model.json"}.get(self.kind, "summary.json")
        return (sys.executable, "-S", "-E", "-c", SCRIPT, str(self.whole), str(self.folder), self.kind, marker)

    @property
    def starts(self) -> int:
        path = self.folder / "starts"
        return path.stat().st_size if path.is_file() else 0


def tables(experiments: Experiments) -> dict[str, str]:
    """Every table and figure of the paper, and the comparison of the runs, in every format."""
    assert experiments.plan is not None
    found = {}
    for name in (*table_names(), *FIGURES):
        found |= {f"{name} {style}": render(name, experiments, style) for style in ENDINGS}
    compared = from_plan(experiments.plan).compare(None)
    return found | {f"comparison {style}": comparison(compared, style) for style in ("markdown", "csv", "json")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, world) -> Experiments:
    experiments = opened(world(tmp_path_factory.mktemp("whole")), *SMALL)
    assert experiments.plan is not None
    for planned in experiments.plan.runs:
        finish(experiments, planned)
    for job in experiments.plan.jobs:
        if job.kind == "model":
            job.prepare()
            path = job.folder / "model.json"
            path.write_text(path.read_text().replace('"status": "planned"', '"status": "done"'))
    return experiments


@pytest.fixture(scope="module")
def expected(whole) -> dict[str, str]:
    return tables(whole)


def copies(experiments: Experiments, whole: Experiments) -> tuple[Copy, ...]:
    assert experiments.plan is not None
    assert whole.plan is not None
    here, there = experiments.plan.store.root, whole.plan.store.root
    jobs = experiments.jobs(need for name in (*table_names(), *FIGURES) for need in needs(name))
    return tuple(Copy(**vars(job), whole=there / job.folder.relative_to(here)) for job in jobs)


def conduct_in_a_process(experiments: Experiments, jobs: tuple[Copy, ...]) -> int:
    """The conductor in a process of its own, which needs no time to begin."""
    pid = os.fork()
    if pid:
        return pid
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        assert experiments.plan is not None
        os._exit(1 if conduct(replace(experiments.plan, jobs=jobs), jobs).failed else 0)
    finally:
        os._exit(3)


def kill_all(pid: int, chance: random.Random) -> None:
    """SIGKILL for the conductor and its jobs, in any order."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    everyone = [pid, *children]
    chance.shuffle(everyone)
    for process in everyone:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def begun(jobs: tuple[Copy, ...]) -> int:
    return sum(job.starts for job in jobs)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are found in /proc")
def test_a_plan_killed_anywhere_and_resumed_gives_the_same_tables(whole, expected, tmp_path, world):
    again = 0
    for seed in range(ROUNDS):
        chance, store = random.Random(seed), world(tmp_path / str(seed))
        for _ in range(KILLS):
            experiments = opened(store, *SMALL, "executor.jobs=2")
            jobs = copies(experiments, whole)
            pid, until = conduct_in_a_process(experiments, jobs), begun(jobs) + chance.randint(1, 5)
            deadline = time.monotonic() + 300
            while begun(jobs) < until and os.waitpid(pid, os.WNOHANG) == (0, 0):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.05))
            kill_all(pid, chance)
            os.waitpid(pid, 0)
        assert not all(job.done for job in jobs), "it was over before it could be killed"
        assert os.waitpid(conduct_in_a_process(experiments, jobs), 0)[1] == 0
        assert all(job.done for job in jobs)
        again += begun(jobs) - len(jobs)
        mine = tables(opened(store, *SMALL))
        for name, text in expected.items():
            assert mine[name] == text, f"{name} after the kills of seed {seed}"
    assert again > 0, "no job was killed at work"
    assert expected["table1 markdown"].count("±") > 15
    assert expected["comparison csv"].count("dynamic") > 4
