"""Draws a second from 10,000 sources whose weights change every 100 steps."""

from __future__ import annotations

import sys
import time

import numpy as np

from tests.bench.report import Report, options, spread
from trainers.data import Draws

SOURCES, INTERVAL = 10_000, 100


def rate(draws: Draws, batch: int, steps: int, seed: int) -> float:
    """Draws a second, as training asks for them: a batch a step, new weights every INTERVAL steps."""
    rng = np.random.default_rng(seed)
    mixes = [rng.dirichlet(np.ones(SOURCES)) for _ in range(-(-steps // INTERVAL))]
    drawn = np.zeros(SOURCES, np.int64)
    started = time.perf_counter()
    for step in range(steps):
        source, _ = draws.take(step * batch, batch, mixes[step // INTERVAL], drawn)
        np.add.at(drawn, source, 1)
    return steps * batch / (time.perf_counter() - started)


def main() -> None:
    given = options()
    report = Report(
        "draws",
        "Draws a second",
        f"Source and example of every draw from {SOURCES:,} sources of 100 to 100,000 examples, one batch a step, with"
        f" other weights every {INTERVAL} steps, on one core; counting what was drawn is part of the time. The target"
        " is a million a second.",
        quick=given.quick,
    )
    sizes = np.random.default_rng(0).integers(100, 100_001, SOURCES)
    repeats, total = (2, 20_000) if given.quick else (9, 2_000_000)
    rows, slowest = [], np.inf
    for batch in (128, 1024, 8192):
        steps = max(2, total // batch)
        rate(Draws(sizes, 0), batch, max(2, steps // 10), 0)
        rates = [rate(Draws(sizes, seed), batch, steps, seed) / 1e6 for seed in range(repeats)]
        rows.append((f"{batch:,}", f"{steps:,}", spread(rates)))
        slowest = min(slowest, float(np.median(rates)))
    report.table(rows, ("examples in a batch", "steps", "million draws a second: median (middle half)"))
    report.save()
    if slowest < 1 and not given.quick:
        sys.exit(f"{slowest:.2f} million draws a second are fewer than a million")


if __name__ == "__main__":
    main()
