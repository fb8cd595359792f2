"""The quickstart's table under several settings of one processor; no verdict of one may contradict one of another."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.files import write_text
from tests.bench.report import options

SETTINGS = {
    f"{kernels} kernels, {threads} thread{'s' if threads > 1 else ''} a job": (
        {"ATEN_CPU_CAPABILITY": kernels},
        ("--set", f"executor={{jobs: {3 - threads}, threads: {threads}}}"),
    )
    for kernels in ("default", "avx2")
    for threads in (1, 2)
}
"""Environment and options of each setting."""
Differences = dict[tuple[str, str, str], dict[str, Any]]
"""Suite (or measure), strategy and column to the difference from the baseline."""
OPPOSITE = {("better", "worse"), ("worse", "better"), ("equal", "better"), ("equal", "worse")}
PAGE = Path(__file__).parents[2] / "docs" / "results" / "quickstart.md"
QUICK = ("--set", "training.steps=8", "--set", "models.tiny.pretrain=null", "--set", "evaluation.limit=4")


def differences(comparisons: list[dict[str, Any]]) -> Differences:
    """Return the difference of each row in each column that has a verdict."""
    return {
        (comparison["suite"], row["strategy"], name): cell["difference"]
        for comparison in comparisons
        for table in comparison["tables"]
        for row in table["rows"]
        for name, cell in row["cells"].items()
        if cell.get("difference") and cell["difference"].get("verdict")
    }


def side_by_side(found: dict[str, Differences]) -> str:
    """Return a table of the primary comparisons: each difference with its verdict, in each setting."""
    primary = [key for key, one in next(iter(found.values())).items() if one["family"] == "primary"]
    rows = [
        (
            *key[1:],
            *(f"{one['value']:+.3f} ± {one['stderr']:.3f}, {one['verdict']}" for one in (found[n][key] for n in found)),
        )
        for key in primary
    ]
    return tabulate(rows, ("strategy", "column", *found), tablefmt="github")


def contradictions(found: dict[str, Differences]) -> list[str]:
    """Return the pairs of verdicts that cannot both be right."""
    return [
        f"{' '.join(key)}: {found[a][key]['verdict']} under {a}, {found[b][key]['verdict']} under {b}"
        for a, b in itertools.permutations(found, 2)
        for key in found[a].keys() & found[b].keys()
        if (found[a][key]["verdict"], found[b][key]["verdict"]) in OPPOSITE
    ]


def main() -> None:
    """Run the quickstart in each setting, compare the verdicts, and write the page."""
    given = options(store={"metavar": "DIR", "type": Path, "help": "folder of the stores", "default": Path("runs")})
    title = [
        "# The quickstart in four settings",
        "",
        "The same revision and recipe with other kernels and numbers of threads: sums are taken in another order,"
        " so every run ends with other weights. Made by `python -m tests.bench quickstart_settings`.",
        "",
    ]
    tables: list[str] = []
    found: dict[str, Differences] = {}
    for name, (environment, changes) in SETTINGS.items():
        store = given.store / f"settings-{len(found)}"
        command = [sys.executable, "-m", "harness.cli"]
        settings = [*changes, *(QUICK if given.quick else ())]
        subprocess.run(
            [*command, "bench", "quickstart", "--store", str(store), *settings],
            check=True,
            env={**os.environ, **environment},
        )
        table = [*command, "table", "quickstart", "--store", str(store), *settings, "--format"]
        shown, full = (
            subprocess.run([*table, style], check=True, capture_output=True, text=True).stdout
            for style in ("markdown", "json")
        )
        found[name] = differences(json.loads(full)["comparisons"])
        tables += [f"## {name[0].upper()}{name[1:]}", "", shown, ""]
    wrong = contradictions(found)
    shares = "of which no two contradict each other" if not wrong else f"of which {len(wrong)} contradict each other"
    verdicts = [
        "## The verdicts side by side",
        "",
        "Differences from `uniform` in the columns that decide: Avg as a share, losses in nats per target token. All"
        f" columns together have {sum(map(len, found.values()))} verdicts in the {len(found)} settings, {shares}.",
        "",
        side_by_side(found),
        "",
    ]
    if not given.quick:
        write_text(PAGE, "\n".join(title + verdicts + tables))
    if wrong:
        sys.exit("verdicts contradict each other:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
