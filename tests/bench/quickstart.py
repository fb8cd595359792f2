"""How long the quickstart takes after installation, stage by stage."""

from __future__ import annotations

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

QUICK = ("training.steps=8", "models.tiny.pretrain=null", "strategies=[none, uniform]", "evaluation.limit=4")


def took(stage: Stage) -> float:
    assert stage.started
    assert stage.finished
    return (datetime.fromisoformat(stage.finished) - datetime.fromisoformat(stage.started)).total_seconds()


def main() -> None:
    given = options(store={"metavar": "DIR", "type": Path, "help": "keep the store there; must not exist yet"})
    report = Report(
        "quickstart",
        "The quickstart by stage",
        "Wall time of `moemix bench quickstart` into an empty store, after installation. The target is ten minutes.",
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
        rows, told = [], 0.0
        for job in build(load_recipe("quickstart", changes), Store(Path(store)), None).jobs:
            if job.kind == "model":
                stage = ModelManifest.read(job.folder / "model.json").stage
            elif job.kind == "train":
                stage = Run(job.folder).manifest.stages["train"]
            else:
                assert job.run is not None
                stage = Run(job.run).manifest.stages[f"{job.kind}:{job.folder.name}"]
            told += took(stage)
            rows.append((job.title, duration(took(stage))))
    rows.append(("everything else: starting processes, making the world, the table", duration(total - told)))
    rows.append(("**in all**", f"**{duration(total)}**"))
    report.table(rows, ("stage", "time"))
    report.save()
    if total > 600 and not given.quick:
        sys.exit("the quickstart takes more than ten minutes")


if __name__ == "__main__":
    main()
