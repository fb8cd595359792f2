"""The quickstart's training on one process and on two, the same global batch: time, memory, and what stays the same."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from harness.conductor import run_only
from harness.plan import build
from harness.recipe_file import load_recipe
from harness.store import Run, Store
from tests.bench.report import Report, options, spread

WAYS = {"one process": (1, "ddp"), "two replicas (ddp)": (2, "ddp"), "two shards (fsdp2)": (2, "fsdp2")}


def main() -> None:
    given = options()
    steps, warm = (6, 2) if given.quick else (60, 10)
    report = Report(
        "processes",
        "Several processes",
        f"The quickstart's training under `uniform` for {steps} steps on one process with all cores and on two with"
        " half of them each, from the same weights. Seconds of a step are the median and the middle half, the first"
        f" {warm} steps left out; memory is the peak of the first process.",
        quick=given.quick,
    )
    store = Path(tempfile.mkdtemp())
    lines, losses = [], {}
    try:
        for name, (processes, strategy) in WAYS.items():
            run = _train(store, steps, processes, strategy)
            metrics = [json.loads(line) for line in run.metrics.read_text().splitlines()]
            seconds = np.array([line["seconds"] for line in metrics])[warm:]
            tokens = np.array([line["tokens"] for line in metrics])[warm:].sum() / seconds.sum()
            losses[name] = np.array([line["loss"] for line in metrics])
            result = run.manifest.result
            assert result is not None
            assert (result.processes, result.parallel) == (processes, strategy)
            memory = f"{(result.peak_memory_bytes or 0) / 2**20:,.0f} MB"
            lines.append((name, spread(seconds.tolist(), 3), f"{tokens:,.0f}", memory))
            shutil.rmtree(run.folder)
    finally:
        shutil.rmtree(store)
    report.table(lines, ("trained on", "seconds a step", "tokens per second", "peak memory"))
    one = losses["one process"]
    apart = max(float(np.abs(found / one - 1).max()) for found in losses.values())
    report.say(f"The losses of all steps agree to {apart:.1e} of their size.")
    report.save()


def _train(store: Path, steps: int, processes: int, strategy: str) -> Run:
    changes = ["models.tiny.pretrain=null", f"training.steps={steps}", "training.log_every=1"]
    changes += ["strategies=[uniform]", f"launcher={{processes: {processes}, strategy: {strategy}}}"]
    plan = build(load_recipe("quickstart", changes), Store(store), None)
    job = next(job for job in plan.jobs if job.kind == "train")
    run_only(plan, job.id)
    return Run(job.folder)


if __name__ == "__main__":
    main()
