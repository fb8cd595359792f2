"""How long ``moemix --help`` takes to answer."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from tests.bench.report import Report, options, spread


def main() -> None:
    given = options()
    report = Report(
        "help_time",
        "Time to help",
        "Wall time of `moemix --help` in a new process, and of Python doing nothing, in turn. The target is 0.5 s.",
        quick=given.quick,
    )
    times: dict[str, list[float]] = {"-m harness.cli --help": [], "-c pass": []}
    for _ in range(3 if given.quick else 25):
        for command, taken in times.items():
            started = time.perf_counter()
            subprocess.run((sys.executable, *command.split()), check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - started)
    ours, nothing = times.values()
    rows = [("moemix --help", spread(ours, 3)), ("python -c pass", spread(nothing, 3))]
    report.table(rows, ("command", "seconds: median (middle half)"))
    report.save()
    if statistics.median(ours) > 0.5:
        sys.exit("moemix --help takes more than half a second")


if __name__ == "__main__":
    main()
