"""CPU-seconds of a stage's process that finds its work done: what starting costs, afresh and as a fork."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from harness.launch import job_environment, moemix_command
from harness.plan import build
from harness.recipe_file import load_recipe
from harness.store import Store
from harness.warm import Warm
from tests.bench.report import Report, options

SMALL = ("training.steps=8", "models.tiny.pretrain=null", "strategies=[uniform]", "seeds=[0]", "evaluation.limit=4")
TICKS = os.sysconf("SC_CLK_TCK")


def afresh(words: tuple[str, ...]) -> float:
    """Return the CPU-seconds of a command in a new process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(moemix_command(*words), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def forked(warm: Warm, words: tuple[str, ...]) -> float:
    """Return the CPU-seconds of a command in a fork; the process that forks has them in its account of children."""
    process = warm.start(words, job_environment())
    assert process is not None
    assert warm._server is not None
    before = _of_children(warm._server.pid)
    process.stdout.read()
    assert process.wait() == 0
    return _of_children(warm._server.pid) - before


def _of_children(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / TICKS


def main() -> None:
    """Make a small store, then start each of its finished stages again."""
    given = options()
    report = Report(
        "startup",
        "Starting a stage",
        "CPU-seconds of the process of a stage whose work is done already: imports, and reading its records. Jobs of a"
        " plan are forks of one process that has its imports; a command of one's own starts afresh.",
        quick=given.quick,
    )
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        overrides = [part for change in SMALL for part in ("--set", change)]
        command = (sys.executable, "-m", "harness.cli", "bench", "quickstart", "--store", scratch, *overrides)
        subprocess.run(command, check=True)
        warm = Warm()
        for job in build(load_recipe("quickstart", SMALL), Store(Path(scratch)), None).jobs:
            words = (job.kind, "--request", str(job.folder / "request.json"))
            repeats = 1 if given.quick else 3
            forked(warm, words)
            rows.append(
                (
                    job.kind,
                    f"{median(afresh(words) for _ in range(repeats)):.1f}",
                    f"{median(forked(warm, words) for _ in range(repeats)):.1f}",
                )
            )
        warm.close()
    report.table(rows, ("stage", "afresh", "forked"))
    report.save()


if __name__ == "__main__":
    main()
