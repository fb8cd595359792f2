"""Jobs of a plan that take moments: a few lines of Python instead of a training."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from harness.jobs import Job

# What every script may use: where it works, a mark that says it is finished, a count of how often it was started.
PRELUDE = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path({folder!r})
starts = here / "starts"
with open(starts, "a") as file: file.write(f"{{os.getpid()}}\\n")
count = len(starts.read_text().splitlines())
def finish(): (here / "summary.json").write_text("{{}}")
"""


@dataclass(frozen=True)
class TrivialJob(Job):
    """Runs a script; done when that called ``finish()``."""

    script: str = ""

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, "-c", PRELUDE.format(folder=str(self.folder)) + self.script)

    @property
    def done(self) -> bool:
        return (self.folder / "summary.json").is_file()

    @property
    def starts(self) -> int:
        path = self.folder / "starts"
        return len(path.read_text().splitlines()) if path.is_file() else 0

    @property
    def pids(self) -> list[int]:
        path = self.folder / "starts"
        return [int(line) for line in path.read_text().split()] if path.is_file() else []


def trivial(
    root: Path, name: str, script: str = "finish()", after: tuple[str, ...] = (), kind: str = "train"
) -> TrivialJob:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    return TrivialJob(name, kind, name, folder, after, script=script)  # type: ignore[arg-type]
