"""The figure of judged scores: by category and strategy, first and second turn, with error bars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.grid import plain
from harness.records import JudgeSummary
from harness.statistics.estimates import Part, estimate
from leaderboards.figures import colour, save
from leaderboards.judged import PREFIX, JudgedRow, read_rows
from leaderboards.table import Comparison, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HATCHES = ("", "//", "..", "xx", "\\\\", "++")


@dataclass(frozen=True)
class Bars:
    """The scores of one bench by strategy, category and turn.

    Attributes:
        means, errors: strategy → f64[2, categories]; nan where nothing was judged.
    """

    title: str
    scale: tuple[float, float]
    categories: list[str]
    means: dict[str, NDArray[np.float64]]
    errors: dict[str, NDArray[np.float64]]


def judged_bars(comparison: Comparison) -> dict[str, Bars]:
    """Return bench → its bars, strategies in the order of the rows; of several models each row names its model."""
    several = len(comparison.tables) > 1
    names = list(dict.fromkeys(column.name for table in comparison.tables for column in table.columns
                               if column.name.startswith(PREFIX)))  # fmt: skip
    found = {}
    for name in names:
        rows: dict[str, list[list[JudgedRow]]] = {}
        summary = None
        for table in comparison.tables:
            for row in table.rows:
                folders = _folders(row, name)
                held = []
                for folder in folders:
                    summary = JudgeSummary.read(folder / "summary.json")
                    held.append(read_rows(folder, summary.model))
                if held:
                    rows[f"{table.model} · {row.label}" if several else row.label] = held
        if summary is not None:
            found[name.removeprefix(PREFIX)] = _bars(summary, rows)
    return found


def _folders(row: Row, name: str) -> list[Path]:
    """Return the judging folders of a row, one for each seed."""
    return [scores.path.parent for held in row.scored(name).values() for scores in held.values()]


def _bars(summary: JudgeSummary, rows: dict[str, list[list[JudgedRow]]]) -> Bars:
    categories = list(dict.fromkeys(row.category for held in rows.values() for seed in held for row in seed))
    means, errors = {}, {}
    for label, seeds in rows.items():
        cells = [[_cell(seeds, turn, category) for category in categories] for turn in (1, 2)]
        means[label] = np.array([[value for value, _ in line] for line in cells])
        errors[label] = np.array([[error for _, error in line] for line in cells])
    judges = ", ".join(judge.name for judge in summary.request.judges)
    title = summary.title if summary.request.protocol == "reference" else f"{summary.title}, judged by {judges}"
    return Bars(title, summary.scale, categories, means, errors)


def _cell(seeds: list[list[JudgedRow]], turn: int, category: str) -> tuple[float, float]:
    """Return mean and standard error over the questions (and seeds) that were judged in every seed."""
    place = (turn, category)
    by_seed = [
        {row.question: row.score for row in seed if (row.turn, row.category) == place and row.score is not None}
        for seed in seeds
    ]
    common = [question for question in by_seed[0] if all(question in held for held in by_seed)]
    if not common:
        return math.nan, math.nan
    scores = np.array([[held[question] for question in common] for held in by_seed], dtype=np.float64)
    found = estimate([Part(1.0, scores, np.arange(len(common)))])
    return found.value, found.se


def draw_judged(bars: Bars, path: Path) -> None:
    """Draw grouped bars, the first turn above the second; readable in greyscale.

    Args:
        bars: of one bench.
        path: ends in ``.png``, ``.pdf`` or ``.svg``.
    """

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        step = 0.8 / max(1, len(bars.means))
        for turn, panel in enumerate(panels):
            for position, (label, means) in enumerate(bars.means.items()):
                panel.bar(
                    np.arange(len(bars.categories)) + step * (position - (len(bars.means) - 1) / 2), means[turn],
                    width=0.92 * step, yerr=np.nan_to_num(bars.errors[label][turn]), capsize=2,
                    color=colour(position, len(bars.means)), edgecolor="0.2", linewidth=0.5,
                    hatch=_HATCHES[position % len(_HATCHES)], label=plain(label), error_kw={"linewidth": 0.8},
                )  # fmt: skip
            panel.set_ylim(*bars.scale)
            panel.set_title(("first turn", "second turn")[turn], fontsize=9, loc="left")
            panel.spines[["top", "right"]].set_visible(False)
        panels[1].set_xticks(range(len(bars.categories)), [plain(name) for name in bars.categories])
        figure.suptitle(plain(bars.title), fontsize=10, parse_math=False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
        figure.supylabel("score ± standard error", fontsize=9)

    save(path, (max(6.0, 0.25 * len(bars.means) * len(bars.categories) + 2), 5.4), paint)
