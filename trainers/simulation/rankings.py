"""Several worlds side by side: how much better than uniform each strategy is in each of them, and its rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.drawing import WIDTH, save
from harness.grid import Cell, Grid, Number
from trainers.mixing.base import Floats
from trainers.simulation.comparison import Estimate, Simulation, world_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.95


def half_interval(estimate: Estimate, repeats: int) -> float:
    """Return half of the 95 % interval of a mean over repeats; nan for one repeat."""
    from scipy.special import stdtrit

    if estimate.stderr is None:
        return float("nan")
    return float(stdtrit(repeats - 1, (1 + CONFIDENCE) / 2)) * estimate.stderr


def ranks(simulations: Sequence[Simulation]) -> tuple[list[str], Floats]:
    """Return the strategies that were simulated in all worlds, the best mean rank first, and f64[S, W], their ranks."""
    places = [{each.label: place for place, each in enumerate(found.strategies, 1)} for found in simulations]
    common = [label for label in places[0] if all(label in place for place in places)]
    order = sorted(common, key=lambda label: (np.mean([place[label] for place in places]), label))
    return order, np.array([[place[label] for place in places] for label in order], dtype=np.float64)


def rankings(simulations: Sequence[Simulation]) -> Grid:
    """Return the loss at the end minus that of uniform, in thousandths of a nat ± half of the 95 % interval."""
    order, places = ranks(simulations)
    rows: list[list[Cell | str | int]] = [
        [label, *(Cell(difference(found, label)) for found in simulations), f"{place.mean():.1f}"]
        for label, place in zip(order, places, strict=True)
    ]
    return Grid(("strategy", *(found.world.name for found in simulations), "mean rank"), rows)


def difference(simulation: Simulation, label: str) -> Number:
    """Return one cell of the rankings."""
    (found,) = (each for each in simulation.strategies if each.label == label)
    half = 1000 * half_interval(found.over_uniform, simulation.repeats)
    return Number(1000 * found.over_uniform.mean, half, decimals=1, signed=True)


def notes(simulations: Sequence[Simulation]) -> list[str]:
    """Return what the numbers are, and every constant of each world."""
    return [
        "Loss at the end minus that of `uniform` in the same worlds, in thousandths of a nat ± half of the 95 %"
        f" interval over {simulations[0].repeats} repeats; the best mean rank first.",
        *(world_text(found) for found in simulations),
    ]


def draw_rankings(simulations: Sequence[Simulation], path: Path) -> list[Path]:
    """Draw a row per strategy and a column per world, coloured by rank, and return the files."""
    order, places = ranks(simulations)

    def panels(figure: Figure) -> None:
        panel = figure.subplots()
        image = panel.imshow(places, cmap="viridis_r", aspect="auto", alpha=0.55, vmin=1, vmax=places.max())
        panel.set_yticks(range(len(order)), order, parse_math=False)
        worlds = [found.world.name for found in simulations]
        panel.set_xticks(range(len(worlds)), worlds, rotation=30, ha="left", parse_math=False)
        panel.xaxis.tick_top()
        for row, label in enumerate(order):
            for column, found in enumerate(simulations):
                cell = difference(found, label)
                clear = abs(cell.value) > (cell.error or 0.0)  # the interval does not hold zero
                text = str(replace(cell, error=None))
                panel.text(column, row, text, ha="center", va="center", fontweight="bold" if clear else "normal")
        figure.colorbar(image, ax=panel, label="rank in the world (1: the lowest loss)", shrink=0.5)
        panel.set_xlabel(
            "loss at the end minus uniform's, thousandths of a nat\n(bold: its 95 % interval is without zero)"
        )

    return save(path, (WIDTH, 1.2 + 0.24 * len(order)), panels)
