"""Time and memory of one weight update of `dynamic` as sources grow from ten to ten thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness.drawing import LINES, MARKERS, WIDTH, colour, save
from tests.bench.report import Report, options, spread

EXPERTS = 256
SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000)
TIME_TARGET, MEMORY_TARGET = 2.0, 1.5  # seconds and GB, at the last of SIZES

# Each size in a process of its own, so that its peak is its own: what the observation takes is in it, what Python and
# numpy take before it is told apart.
CHILD = """
import json, resource, sys, time
import numpy as np
from trainers.mixing import Observation, Sources, load_strategy

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

count, experts, repeats, options = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
before = peak()
rng = np.random.default_rng(0)
sources = Sources(tuple(f"s{i:05}" for i in range(count)), np.ones(count, np.int64))
load = rng.gamma(0.5, 100.0, (count, 1, experts)).astype(np.int64) + 1
tokens = load.sum(axis=(1, 2))
seen = Observation(100, sources.names, tokens, tokens, gate_load=load)
rule = load_strategy("dynamic", **options)
state = rule.update(rule.init(sources), seen)
taken = []
for _ in range(repeats):
    started = time.perf_counter()
    state = rule.update(state, seen)
    taken.append(time.perf_counter() - started)
print(json.dumps({"seconds": taken, "before": before, "peak": peak()}))
"""


def measure(count: int, repeats: int, distance: str) -> dict:
    arguments = (str(count), str(EXPERTS), str(repeats), json.dumps({"distance": distance}))
    done = subprocess.run((sys.executable, "-c", CHILD, *arguments), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def draw(found: dict[str, list[dict]], sizes: tuple[int, ...], path: Path) -> None:
    def paint(figure):
        time_panel, memory_panel = figure.subplots(1, 2)
        for position, (distance, rows) in enumerate(found.items()):
            style = {"marker": MARKERS[position], "linestyle": LINES[position], "color": colour(position, 3)}
            seconds = [sorted(row["seconds"])[len(row["seconds"]) // 2] for row in rows]
            time_panel.loglog(sizes, seconds, label=distance, **style)
            memory_panel.loglog(sizes, [row["peak"] - row["before"] for row in rows], label=distance, **style)
        broadcast = [8e-9 * count**2 * EXPERTS for count in sizes]
        memory_panel.loglog(sizes, broadcast, ":", color="0.3", label="K × K × E in float64")
        for panel, target, unit in ((time_panel, TIME_TARGET, "seconds"), (memory_panel, MEMORY_TARGET, "GB")):
            panel.axhline(target, color="0.7", linewidth=0.8)
            panel.set_xlabel("sources K")
            panel.set_ylabel(unit)
            panel.legend()
        time_panel.set_title("one update of dynamic")
        memory_panel.set_title("peak memory above the bare process", fontsize=9)

    save(path, (WIDTH, 3.0), paint)


def main() -> None:
    given = options()
    report = Report(
        "mixing_scale",
        "Weight updates at scale",
        f"One update of `dynamic` over K sources and E = {EXPERTS} experts of one layer, each size in a process of its"
        " own. Peak memory is that of the whole process; above the bare process is what the observation and the update"
        f" take. The targets at K = {SIZES[-1]:,}: under {TIME_TARGET:.0f} s and {MEMORY_TARGET} GB. Broadcasting all"
        f" pairs of sources, K × K × E numbers, would take {8e-9 * SIZES[-1] ** 2 * EXPERTS:.0f} GB in float64.",
        quick=given.quick,
    )
    sizes, repeats = (SIZES[:4], 1) if given.quick else (SIZES, 7)
    found = {distance: [measure(count, repeats, distance) for count in sizes] for distance in ("l2", "cos")}
    rows = [
        (f"{count:,}", distance, spread(row["seconds"], 4), f"{row['peak']:.2f}", f"{row['peak'] - row['before']:.2f}")
        for i, count in enumerate(sizes)
        for distance, row in ((distance, rows[i]) for distance, rows in found.items())
    ]
    headers = ("K", "distance", "seconds: median (middle half)", "peak, GB", "above the bare process, GB")
    report.table(rows, headers)
    if not given.quick:
        draw(found, sizes, report.folder / "mixing_scale")
        report.say("![growth with the number of sources](mixing_scale.png)")
    report.save()
    worst = max(sorted(rows[-1]["seconds"])[repeats // 2] for rows in found.values())
    peak = max(rows[-1]["peak"] for rows in found.values())
    if not given.quick and (worst > TIME_TARGET or peak > MEMORY_TARGET):
        sys.exit(f"{worst:.2f} s and {peak:.2f} GB at K = {SIZES[-1]:,}")


if __name__ == "__main__":
    main()
