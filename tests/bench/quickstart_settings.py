"""The quickstart's table under several settings of one processor; no verdict of one may contradict one of another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
Verdicts = dict[tuple[str, str, str], str]
"""Suite, strategy and column to the verdict."""
OPPOSITE = {("better", "worse"), ("worse", "better"), ("equal", "better"), ("equal", "worse")}
PAGE = Path(__file__).parents[2] / "docs" / "results" / "quickstart.md"
QUICK = ("--set", "training.steps=8", "--set", "models.tiny.pretrain=null", "--set", "evaluation.limit=4")


def verdicts(comparisons: list[dict[str, Any]]) -> Verdicts:
    """Return the verdict of each row in each column of each table."""
    return {
        (comparison["suite"], row["strategy"], name): cell["difference"]["verdict"]
        for comparison in comparisons
        for table in comparison["tables"]
        for row in table["rows"]
        for name, cell in row["cells"].items()
        if cell.get("difference") and cell["difference"].get("verdict")
    }


def main() -> None:
    """Run the quickstart in each setting, compare the verdicts, and write the page."""
    given = options(store={"metavar": "DIR", "type": Path, "help": "folder of the stores", "default": Path("runs")})
    parts = [
        "# The quickstart in four settings",
        "",
        "The same revision and recipe with other kernels and numbers of threads: sums are taken in another order,"
        " so every run ends elsewhere. Made by `python -m tests.bench.quickstart_settings`.",
        "",
    ]
    found: dict[str, Verdicts] = {}
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
        found[name] = verdicts(json.loads(full)["comparisons"])
        parts += [f"## {name[0].upper()}{name[1:]}", "", shown, ""]
    names = list(found)
    contradictions = [
        f"{key}: {found[a][key]} under {a}, {found[b][key]} under {b}"
        for a in names
        for b in names
        for key in found[a].keys() & found[b].keys()
        if (found[a][key], found[b][key]) in OPPOSITE
    ]
    if not given.quick:
        write_text(PAGE, "\n".join(parts))
    if contradictions:
        sys.exit("verdicts contradict each other:\n" + "\n".join(contradictions))


if __name__ == "__main__":
    main()
