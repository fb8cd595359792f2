"""How often a family of comparisons errs as a whole, and what its joint distribution finds that Holm's does not."""

from __future__ import annotations

import sys
from unittest.mock import patch

import numpy as np

from harness.statistics import joint
from harness.statistics.estimates import p_value
from harness.statistics.families import adjust
from tests.bench.report import Report, options
from tests.harness.statistics.test_simulations import whole_table

SIZES = ((4, 3, 1), (4, 3, 2), (4, 5, 2), (7, 3, 2), (7, 8, 2))  # rows with the baseline, seeds, primary columns
SEED_SD = 0.2
STEPS = 3.0  # true difference of one row in the first column, in standard errors of a pair
WILD = ((5, 3, 2), (5, 5, 2), (5, 8, 2))
TIMES = 10  # as much as the other rows' seeds do those of the last row vary


def simulated(size: tuple[int, int, int], tables: int, draws: int) -> tuple[float, float, float, float]:
    """Return the family-wise error by the joint distribution and by Holm's method, and the power of each."""
    rows, seeds, columns = size
    pairs = [(row, 0) for row in range(1, rows)]
    se = np.sqrt(2 * SEED_SD**2 / seeds + 2 * (0.125 + 1 / seeds) / 120)
    found = np.zeros(4)
    for shift in (0.0, STEPS * se):
        generator = np.random.default_rng(1)
        shifts = [0.0, shift, *[0.0] * (rows - 2)]
        for _ in range(tables):
            contrasts, table = whole_table(generator, shifts, np.full(rows, SEED_SD), seeds, columns, pairs, draws)
            moved = [at for at, contrast in enumerate(contrasts) if contrast.row == 1]
            held = moved if shift else range(len(contrasts))
            holm = adjust([p_value(estimate) for estimate in table.estimates])
            at = 2 if shift else 0
            found[at] += min(table.adjusted[i] for i in held) < 0.05
            found[at + 1] += min(holm[i] for i in held) < 0.05
    error, holm, power, holm_power = found / tables
    return error, holm, power, holm_power


def with_a_wild_row(size: tuple[int, int, int], tables: int, draws: int) -> tuple[float, float]:
    """Return the family-wise error, and the power to find a difference between two of the other rows."""
    rows, seeds, columns = size
    pairs = [(row, 0) for row in range(1, rows)]
    se = np.sqrt(2 * SEED_SD**2 / seeds + 2 * (0.125 + 1 / seeds) / 120)
    found = np.zeros(2)
    for at, shift in enumerate((0.0, STEPS * se)):
        generator = np.random.default_rng(1)
        shifts, deviations = [0.0, shift, *[0.0] * (rows - 2)], [*[SEED_SD] * (rows - 1), TIMES * SEED_SD]
        for _ in range(tables):
            contrasts, table = whole_table(generator, shifts, deviations, seeds, columns, pairs, draws)
            held = [i for i, contrast in enumerate(contrasts) if contrast.row == 1 or not shift]
            found[at] += min(table.adjusted[i] for i in held) < 0.05
    error, power = found / tables
    return error, power


def main() -> None:
    given = options(tables={"type": int, "default": 1000, "help": "simulated for each figure"})
    tables = 5 if given.quick else given.tables
    report = Report(
        "families",
        "Family-wise error, and the gain over Holm's correction",
        f"Simulated tables: each strategy against the baseline over training seeds, 120 questions a column, {tables} "
        "tables for each figure. Error: share of tables of equal strategies with any star. Power: share in which one "
        f"strategy, better by {STEPS:g} standard errors in every column, has a star. Both corrections get the same "
        "differences with the same standard errors.",
        quick=given.quick,
    )
    rows = []
    for size in SIZES[:1] if given.quick else SIZES:
        figures = [f"{100 * share:.1f} %" for share in simulated(size, tables, 100 if given.quick else 400)]
        rows.append([size[0], size[1], size[2], (size[0] - 1) * size[2], *figures])
    report.table(rows, ("rows", "seeds", "columns", "comparisons", "error", "error, Holm", "power", "power, Holm"))
    report.say(
        f"The same, but the seeds of the last row vary {TIMES} times as much. Such a row stays out of the pooled seed"
        " variance; the last two columns are with the row in it. Power: of the same strategy, which is not that row."
    )
    rows = []
    for size in WILD[:1] if given.quick else WILD:
        figures = with_a_wild_row(size, tables, 100 if given.quick else 400)
        with patch.object(joint, "_FEWEST_ROWS", sys.maxsize):
            figures += with_a_wild_row(size, tables, 100 if given.quick else 400)
        rows.append([*map(str, size), *(f"{100 * share:.1f} %" for share in figures)])
    report.table(rows, ("rows", "seeds", "columns", "error", "power", "error, row in it", "power, row in it"))
    report.save()


if __name__ == "__main__":
    main()
