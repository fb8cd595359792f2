"""Figures by matplotlib: the same records give the same bytes, and every figure is readable in greyscale."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import MoemixError, nearest
from harness.files import write_bytes
from harness.grid import plain
from leaderboards.facts import run_facts
from leaderboards.mixture import Trajectory, read_trajectory
from leaderboards.table import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Without these, two files that show the same would differ.
METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_LABELLED = 12  # sources with a line of their own style and a label; the rest are drawn thin and grey


def trajectories(comparison: Comparison) -> dict[str, Trajectory]:
    """Return name → trajectory of every trained run, in the order of the rows."""
    several = len(comparison.tables) > 1
    found = {}
    for table in comparison.tables:
        for row in table.rows:
            for member, fact in zip(row.members, run_facts(row), strict=True):
                trajectory = read_trajectory(member.run)
                if trajectory is not None:
                    found[f"{table.model} · {fact.name}" if several else fact.name] = trajectory
    return found


def draw_weights(runs: dict[str, Trajectory], path: Path) -> None:
    """Draw weights over time, one panel per run: thick the weight in force, thin the realised share of examples.

    Args:
        runs: name → trajectory.
        path: ends in ``.png``, ``.pdf`` or ``.svg``.

    Raises:
        MoemixError: there is no trained run, or the file is of another kind.
    """
    _kind(path)
    if not runs:
        raise MoemixError("no run has been trained: there are no weights to draw", where=str(path))
    columns = 2 if len(runs) == 4 else min(3, len(runs))
    lines = math.ceil(len(runs) / columns)

    def paint(figure: Figure) -> None:
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
        top = 1.05 * max(float(np.nanmax([t.weights.max(), np.nanmax(t.realised)])) for t in runs.values())
        for panel, (name, trajectory) in zip(panels.flat, runs.items(), strict=False):
            _draw(panel, name, trajectory, top)
        for panel in list(panels.flat)[len(runs) :]:
            panel.set_axis_off()
        figure.supxlabel("optimizer step (thick: weight in force; thin: realised share of examples)", fontsize=9)
        figure.supylabel("share", fontsize=9)

    save(path, (4.4 * columns, 3.0 * lines + 0.3), paint)


def _kind(path: Path) -> str:
    kind = path.suffix.lower().lstrip(".")
    if kind not in METADATA:
        raise MoemixError(f"cannot draw a {path.suffix or 'file without an ending'}", where=str(path),
                          hint=nearest(kind, METADATA))  # fmt: skip
    return kind


def save(path: Path, inches: tuple[float, float], paint: Callable[[Figure], None]) -> None:
    """Draw a figure and write it as a whole, with the same settings and the same bytes on every machine.

    Args:
        path: ends in ``.png``, ``.pdf`` or ``.svg``.
        inches: width and height.
        paint: draws on the empty figure that it is given.

    Raises:
        MoemixError: the file is of another kind.
    """
    kind = _kind(path)
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = {key: value for key, value in rcParamsDefault.items() if not key.startswith(("backend", "interactive"))}
    with rc_context(settings | {"svg.hashsalt": "moemix", "font.size": 9}):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata=METADATA[kind])
    write_bytes(path, buffer.getvalue())


def colour(position: int, count: int) -> tuple[float, ...]:
    """Return the colour of one of several lines or bars; they differ in lightness, so a grey print shows them too."""
    from matplotlib import colormaps

    return tuple(colormaps["viridis"](0.7 * position / max(1, count - 1)))


def _draw(panel: Axes, name: str, trajectory: Trajectory, top: float) -> None:
    end = int(trajectory.steps[-1])
    final = trajectory.weights[-1]
    labelled = sorted(np.argsort(-final, kind="stable")[:MOST_LABELLED].tolist())
    for source in set(range(len(final))) - set(labelled):
        panel.plot(trajectory.steps, trajectory.weights[:, source], color="0.8", linewidth=0.6, drawstyle="steps-post")
    heights = _spread([float(final[source]) for source in labelled], gap=0.055 * top)
    for position, (source, height) in enumerate(zip(labelled, heights, strict=True)):
        look = colour(position, len(labelled))
        panel.plot(
            trajectory.steps, trajectory.weights[:, source], color=look, linewidth=1.8, drawstyle="steps-post",
            linestyle=LINES[position % len(LINES)], marker=MARKERS[position % len(MARKERS)], markersize=3.5,
            markevery=max(1, len(trajectory.steps) // 8),
        )  # fmt: skip
        panel.stairs(trajectory.realised[:, source], trajectory.steps, color=look, linewidth=0.6, baseline=None)
        panel.annotate(
            f"{trajectory.names[source]} {final[source]:.2f}", (end, final[source]), (1.04 * end, height),
            va="center", fontsize=8, color=look, annotation_clip=False, parse_math=False,
            arrowprops={"arrowstyle": "-", "color": look, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
    panel.set_title(plain(name), fontsize=10, loc="left", parse_math=False)
    panel.set_xlim(0, end)
    panel.set_ylim(0, top)
    panel.spines[["top", "right"]].set_visible(False)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return label heights close to the given ones, at least ``gap`` apart, in the same order, none below 0."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights)[order]
    # Least squares with a minimum distance is isotonic regression of the heights minus gap times their rank.
    blocks: list[list[float]] = []  # [mean, size]
    for height in placed - gap * np.arange(len(placed)):
        blocks.append([float(height), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (low, few), (high, many) = blocks[-2:]
            blocks[-2:] = [[(low * few + high * many) / (few + many), few + many]]
    flat = np.maximum(0.0, np.repeat([mean for mean, _ in blocks], [int(size) for _, size in blocks]))
    result = np.empty(len(placed))
    result[order] = flat + gap * np.arange(len(placed))
    return [float(height) for height in result]
