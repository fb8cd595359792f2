"""How often equal strategies get a star: twelve trained seeds of one strategy, dealt out to several names.

Finished runs are kept in ``--store``, so it can be interrupted.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.plan import build
from harness.recipe_file import load_recipe
from harness.store import Store
from leaderboards.comparison import fill
from leaderboards.members import open_member
from leaderboards.table import Member, Row, Table
from tests.bench.report import Report, options

SEEDS = 12
SHAPES = ((2, 6), (2, 3), (4, 3))  # names, seeds of each
BASELINE = "uniform"


def dealt(members: Sequence[Member], names: int, seeds: int, rng: np.random.Generator) -> list[Row]:
    """Return rows of some of the members at random, as if each name were a strategy of its own."""
    order = iter(rng.permutation(len(members)).tolist())
    rows = []
    for name in (BASELINE, *(f"name_{number}" for number in range(1, names))):
        some = [members[next(order)] for _ in range(seeds)]
        configs = [one.config.model_copy(update={"seed": seed}) for seed, one in enumerate(some)]
        rows.append(Row(name, name, tuple(replace(one, config=c) for one, c in zip(some, configs, strict=True))))
    return rows


def verdicts(rows: list[Row]) -> Iterator[str]:
    """Yield the verdict of each primary comparison of a table."""
    table = Table("tiny", "tiny", BASELINE, rows)
    fill([table], suite="quickstart")
    for row in rows[1:]:
        for heading in table.columns:
            if heading.primary and (found := row.cells[heading.name].to_base):
                yield found.verdict


def main() -> None:
    """Train what is missing, deal the seeds out many times, and write the page."""
    given = options(
        store={"metavar": "DIR", "type": Path, "help": "folder of the runs", "default": Path("runs")},
        tables={"type": int, "help": "tables of each shape", "default": 200},
    )
    seeds, tables = (6, 3) if given.quick else (SEEDS, given.tables)
    shapes = [(names, count) for names, count in SHAPES if names * count <= seeds]
    settings = [f"seeds={list(range(seeds))}", f"strategies=[{BASELINE}]", "judging.benches=[]"]
    if given.quick:
        settings += ["training.steps=8", "models.tiny.pretrain=null", "evaluation.limit=4"]
    changes = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "harness.cli", "bench", "quickstart", "--store", str(given.store), *changes]
    subprocess.run(command, check=True)
    plan = build(load_recipe("quickstart", settings), Store(given.store), None)
    members = [
        open_member(one.run, {one.config.id: one.evaluations["quickstart"]}, {}, {}, "scores and loss")
        for one in plan.runs
    ]
    report = Report(
        "false_alarms",
        "False alarms, with real training",
        f"{seeds} seeds of `{BASELINE}`, trained as in the quickstart, are dealt out at random to names that stand for"
        f" strategies, and each table is made as always: {tables} tables of each shape. All names are equal, so a star"
        " in a column that decides (Avg, mean held-out loss) is a false alarm; at most 5 % of tables should have one.",
        quick=given.quick,
    )
    rows = []
    for names, count in shapes:
        rng = np.random.default_rng(0)
        found = [list(verdicts(dealt(members, names, count, rng))) for _ in range(tables)]
        starred = np.mean([any(one in ("better", "worse") for one in table) for table in found])
        equal = np.mean([one == "equal" for table in found for one in table])
        rows.append((names, count, f"{100 * starred:.1f} %", f"{100 * equal:.1f} %"))
    report.table(rows, ("names", "seeds of each", "tables with a star", "comparisons found equal"))
    report.save()


if __name__ == "__main__":
    main()
