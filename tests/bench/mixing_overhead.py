"""What dynamic mixing costs a training step: gate load counted online, and by probe, against uniform sampling."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.bench.report import Report, options, spread
from tests.bench.workload import Quickstart, in_turn
from trainers.mixing import load_strategy


def main() -> None:
    given = options()
    report = Report(
        "mixing_overhead",
        "What mixing costs a training step",
        "The quickstart's training (batches of 32 examples, an update every 24 steps, eight experts in three layers)"
        " under `uniform` and under `dynamic`, advanced step by step in turn in one process. `dynamic` runs with"
        " η = 0: it measures, decides and enacts as always, and its weights stay uniform, so that all draw the same"
        " examples. A block is the steps of one update interval, the update among them; its ratio is to the same block"
        " of `uniform`. The second `uniform` is the same thing again: what the machine's noise alone does to a ratio."
        " The target for `online` is a median of at most 2 %.",
        quick=given.quick,
    )
    uniform, dynamic = load_strategy("uniform"), load_strategy("dynamic", eta=0.0)
    with tempfile.TemporaryDirectory() as scratch:
        quickstart = Quickstart.make(Path(scratch) / "store")
        mixing = quickstart.recipe.mixing
        probe = mixing.model_copy(update={"gate_load": "probe"})
        loops = {
            "uniform": quickstart.loop(uniform, mixing, Path(scratch) / "uniform"),
            "uniform again": quickstart.loop(uniform, mixing, Path(scratch) / "again"),
            "dynamic, online": quickstart.loop(dynamic, mixing, Path(scratch) / "online"),
            "dynamic, probe": quickstart.loop(dynamic, probe, Path(scratch) / "probe"),
        }
        blocks = 1 if given.quick else 9
        # the last step of a training makes no update, so the last block is never reached
        seconds = in_turn(loops, blocks * mixing.interval)
        drawn = [loop.seen.examples.tolist() for loop in loops.values()]
    if any(other != drawn[0] for other in drawn):
        sys.exit(f"the trainings drew different examples: {drawn}")
    base_B = seconds["uniform"].reshape(-1, mixing.interval).sum(axis=1)
    rows, overhead = [], {}
    for name, taken in seconds.items():
        percent_B = 100 * (taken.reshape(-1, mixing.interval).sum(axis=1) / base_B - 1)
        overhead[name] = float(np.median(percent_B))
        step = 100 * (np.median(taken / seconds["uniform"]) - 1)
        own = f"{100 * loops[name].mixture.seconds / taken.sum():.2f}"
        paired = "–" if name == "uniform" else spread(percent_B)
        rows.append((name, f"{1000 * np.median(taken):.0f}", "–" if name == "uniform" else f"{step:+.2f}", paired, own))
    headers = (
        "training",
        "ms a step, median",
        "% over uniform, a step without update, median of pairs",
        "% over uniform, a block: median (middle half)",
        "% of its time in signals and updates, by its own clock",
    )
    report.table(rows, headers)
    report.save()
    if overhead["dynamic, online"] > 2 and not given.quick:
        sys.exit(f"online mixing costs {overhead['dynamic, online']:.2f} % of a step")


if __name__ == "__main__":
    main()
