"""The figure of a simulation: regret and stability of every strategy, then its weights over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainers.figures import write_png
from trainers.mixing.base import Ints
from trainers.simulation.comparison import SimulatedStrategy, Simulation, world_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 5
MOST_CURVES = 6  # strategies with a coloured curve; the others are grey
_DASHES = ("-", "--", "-.", ":")


def draw(simulation: Simulation, path: Path) -> None:
    """Write the figure as PNG."""
    found = simulation.strategies
    lines = math.ceil(len(found) / COLUMNS)
    height = max(3.0, 0.17 * len(found) + 1.0)

    def panels(figure: Figure) -> None:
        subfigures: NDArray[np.object_] = np.asarray(figure.subfigures(2, 1, height_ratios=(height, 1.75 * lines)))
        upper, lower = subfigures
        curves, regret, stability = upper.subplots(1, 3, width_ratios=(1.4, 1, 1))
        _curves(curves, found)
        _dots(regret, found)
        _stability(stability, found)
        grid = lower.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for panel, strategy in zip(grid.flat, found, strict=False):
            _weights(panel, strategy, simulation)
        grid.flat[0].set_ylim(0, 1.05 * max(np.max(simulation.best.weights), *(np.max(s.weights) for s in found)))
        for panel in list(grid.flat)[len(found) :]:
            panel.set_axis_off()
        lower.supxlabel("step (one line per source, one colour per group; marks on the right: the best fixed mix)")
        lower.supylabel("weight")
        figure.suptitle(f"world {world_text(simulation)}", parse_math=False)

    write_png(path, (13, height + 1.75 * lines + 0.5), panels, font_size=8, dpi=110)


def _colour(position: int, count: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["viridis"](0.85 * position / max(1, count - 1))
    return red, green, blue, alpha


def _curves(panel: Axes, found: Sequence[SimulatedStrategy]) -> None:
    """Draw regret over time, the best strategies in colour."""
    for position, strategy in reversed(list(enumerate(found))):
        named = position < MOST_CURVES
        panel.plot(
            strategy.steps, np.array(strategy.regrets) * 1000, color=_colour(position, MOST_CURVES) if named else "0.8",
            linestyle=_DASHES[position % len(_DASHES)] if named else "-", linewidth=1.4 if named else 0.7,
            label=strategy.label if named else None, zorder=2 if named else 1,
        )  # fmt: skip
    handles, labels = panel.get_legend_handles_labels()
    legend = panel.legend(handles[::-1], labels[::-1], frameon=False, title="least regret at the end")
    for text in legend.get_texts():
        text.set_parse_math(False)
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
    panel.set_xlabel("regret ± standard error")
    panel.legend(frameon=False, fontsize=7)


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
        colour = _colour(group, groups)
        panel.stairs(
            weights[:, source], strategy.steps, color=colour, linewidth=0.5 if crowded else 1.2, baseline=None,
            linestyle="-" if crowded else _DASHES[before % len(_DASHES)],
        )  # fmt: skip
        if simulation.best.weights[source] > 0:
            panel.plot([strategy.steps[-1]], [simulation.best.weights[source]], "<", color=colour, markersize=4)
    regret = 1000 * strategy.regret.mean
    panel.set_title(f"{strategy.label}  ({regret:+.1f})", fontsize=8, loc="left", parse_math=False)
    panel.set_xlim(0, strategy.steps[-1])
