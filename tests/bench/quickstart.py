"""How long the quickstart takes after installation, stage by stage."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from harness.plan import build
from harness.progress import duration
from harness.recipe_file import load_recipe
from harness.records import ModelManifest, Stage
from harness.store import Run, Store
from tests.bench.report import Report, options

QUICK = (
    "training.steps=8",
    "models.tiny.pretrain=null",
    "strategies=[none, uniform]",
    "seeds=[0]",
    "evaluation.limit=4",
)


def took(stage: Stage) -> float:
    assert stage.started
    assert stage.finished
    return (datetime.fromisoformat(stage.finished) - datetime.fromisoformat(stage.started)).total_seconds()


def main() -> None:
    given = options(store={"metavar": "DIR", "type": Path, "help": "keep the store there; must not exist yet"})
    report = Report(
        "quickstart",
        "The quickstart by stage",
        "Wall time of `moemix bench quickstart` into an empty store, after installation. The target is eight minutes.",
        quick=given.quick,
    )
    changes = QUICK if given.quick else ()
    with tempfile.TemporaryDirectory() as scratch:
        overrides = [part for change in changes for part in ("--set", change)]
        store = str(given.store or scratch)
        if given.store and given.store.exists():
            sys.exit(f"{given.store} exists: the stages of a store that is not empty would be told wrong")
        command = (sys.executable, "-m", "harness.cli", "bench", "quickstart", "--store", store, *overrides)
        started = time.monotonic()
        subprocess.run(command, check=True)
        total = time.monotonic() - started
        taken: dict[str, list[float]] = {}
        for job in build(load_recipe("quickstart", changes), Store(Path(store)), None).jobs:
            if job.kind == "model":
                stage = ModelManifest.read(job.folder / "model.json").stage
            elif job.kind == "train":
                stage = Run(job.folder).manifest.stages["train"]
            else:
                assert job.run is not None
                stage = Run(job.run).manifest.stages[f"{job.kind}:{job.folder.name}"]
            taken.setdefault(job.kind, []).append(took(stage))
    rows = [(kind, str(len(times)), duration(statistics.median(times))) for kind, times in taken.items()]
    rows.append(("**in all, jobs side by side**", "", f"**{duration(total)}**"))
    report.table(rows, ("stage", "jobs", "median time of one"))
    report.save()
    if total > 480 and not given.quick:
        sys.exit("the quickstart takes more than eight minutes")


if __name__ == "__main__":
    main()
