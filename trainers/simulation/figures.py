"""The figures of a simulation: a ranking of the strategies, and an appendix with what each of them did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.drawing import LINES, WIDTH, colour, label_ends, save
from trainers.mixing.base import Ints
from trainers.simulation.comparison import SimulatedStrategy, Simulation, world_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
MOST_CURVES = 6  # strategies with a coloured curve; the others are grey


def draw(simulation: Simulation, folder: Path) -> list[Path]:
    """Write ``simulation`` (the ranking) and ``appendix`` (regret and weights over time), each as PNG and SVG."""
    found = simulation.strategies

    def ranking(figure: Figure) -> None:
        regret, stability = figure.subplots(1, 2, width_ratios=(1.2, 1))
        _dots(regret, found)
        _stability(stability, found)
        figure.suptitle(world_text(simulation), fontsize=8, parse_math=False, wrap=True)

    lines = math.ceil(len(found) / COLUMNS)

    def appendix(figure: Figure) -> None:
        ratios = (3.4, 1.45 * lines + 0.4)
        subfigures: NDArray[np.object_] = np.asarray(figure.subfigures(2, 1, height_ratios=ratios))
        upper, lower = subfigures
        _curves(upper.subplots(), found)
        grid = lower.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for panel, strategy in zip(grid.flat, found, strict=False):
            _weights(panel, strategy, simulation)
        grid.flat[0].set_ylim(0, 1.05 * max(np.max(simulation.best.weights), *(np.max(s.weights) for s in found)))
        for panel in list(grid.flat)[len(found) :]:
            panel.set_axis_off()
        lower.supxlabel(
            "step (a line per source, a colour per group; marks on the right: the best fixed mix)", fontsize=8
        )
        lower.supylabel("weight", fontsize=9)

    files = save(folder / "simulation", (WIDTH, 0.18 * len(found) + 1.4), ranking)
    return files + save(folder / "appendix", (WIDTH, 3.4 + 1.45 * lines + 0.4), appendix)


def _curves(panel: Axes, found: Sequence[SimulatedStrategy]) -> None:
    """Draw regret over time, the best strategies in colour."""
    named = found[:MOST_CURVES]
    for position, strategy in reversed(list(enumerate(found))):
        first = position < len(named)
        panel.plot(
            strategy.steps, np.array(strategy.regrets) * 1000, color=colour(position, len(named)) if first else "0.8",
            linestyle=LINES[position % len(LINES)] if first else "-", linewidth=1.4 if first else 0.7, zorder=1 + first,
        )  # fmt: skip
    panel.set_ylim(min(0.0, panel.get_ylim()[0]), panel.get_ylim()[1])
    ends = [(s.label, 1000 * s.regrets[-1], colour(i, len(named))) for i, s in enumerate(named)]
    label_ends(panel, named[0].steps[-1], ends)
    panel.axhline(0, color="0.5", linewidth=0.6)
    panel.set_xlabel("step")
    panel.set_ylabel("regret, thousandths of a nat")


def _rows(panel: Axes, found: Sequence[SimulatedStrategy]) -> Ints:
    """Make one row per strategy, the least regret on top, and return their heights."""
    height = np.arange(len(found))[::-1]
    panel.set_yticks(height, [strategy.label for strategy in found], parse_math=False)
    panel.grid(axis="y", color="0.93")
    panel.set_axisbelow(True)
    return height


def _dots(panel: Axes, found: Sequence[SimulatedStrategy]) -> None:
    height = _rows(panel, found)
    mean = np.array([strategy.regret.mean for strategy in found]) * 1000
    error = np.array([strategy.regret.stderr or 0.0 for strategy in found]) * 1000
    panel.errorbar(mean, height, xerr=error, fmt="o", color="0.15", markersize=3.5, linewidth=1, label="at the end")
    over_time = [strategy.regret_over_time.mean * 1000 for strategy in found]
    panel.plot(over_time, height, "|", color="0.5", markersize=7, label="mean over training")
    panel.axvline(0, color="0.5", linewidth=0.6)
    panel.set_xlabel("regret ± standard error, 0.001 nat")
    panel.legend(fontsize=7)


def _stability(panel: Axes, found: Sequence[SimulatedStrategy]) -> None:
    height = _rows(panel, found)
    panel.tick_params(labelleft=False)
    panel.plot([strategy.variation.mean for strategy in found], height, "o", color="0.15", markersize=3.5)
    panel.set_xscale("symlog", linthresh=1e-4)
    panel.set_xlim(left=0)
    panel.set_xlabel("total variation per update")
    for strategy, y in zip(found, height.tolist(), strict=True):
        panel.annotate(f"{strategy.effective_sources.mean:.1f}", (1.02, y), xycoords=("axes fraction", "data"),
                       ha="left", va="center", fontsize=7, color="0.4")  # fmt: skip
    panel.set_title("effective sources", fontsize=7, loc="right", color="0.4")


def _weights(panel: Axes, strategy: SimulatedStrategy, simulation: Simulation) -> None:
    weights = np.array(strategy.weights)
    groups = len(simulation.world.groups)
    crowded = len(simulation.names) > 12
    for source, group in enumerate(simulation.groups):
        before = simulation.groups[:source].count(group)
        shade = colour(group, groups)
        panel.stairs(
            weights[:, source], strategy.steps, color=shade, linewidth=0.5 if crowded else 1.2, baseline=None,
            linestyle="-" if crowded else LINES[before % len(LINES)],
        )  # fmt: skip
        if simulation.best.weights[source] > 0:
            panel.plot([strategy.steps[-1]], [simulation.best.weights[source]], "<", color=shade, markersize=4)
    regret = 1000 * strategy.regret.mean
    panel.set_title(f"{_short(strategy.label)} ({regret:+.1f})", fontsize=8, parse_math=False)
    panel.set_xlim(0, strategy.steps[-1])


def _short(label: str) -> str:
    return label if len(label) <= 20 else f"{label[:19]}…"
