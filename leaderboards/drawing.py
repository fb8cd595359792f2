"""Panels of a figure as data, and their drawing: panels that show the same quantity have the same axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from harness.drawing import HATCHES, LINES, MARKERS, WIDTH, colour, label_ends, save
from harness.grid import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELS = 8  # lines that are named at their ends; of more there is a legend


@dataclass(frozen=True)
class Point:
    """A point, a bar or an entry of a matrix; ``published`` where a paper gives the number."""

    series: str
    x: float | str
    y: float
    stderr: float = math.nan
    published: float | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes. A ``matrix`` has its rows in ``series`` and its columns in ``x``.

    Attributes:
        kind: ``points``, ``lines``, ``steps``, ``bars`` or ``matrix``.
        y_range: lower and upper end of the vertical axis; chosen by the points if None.
    """

    title: str
    kind: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    y_range: tuple[float, float] | None = None

    @property
    def series(self) -> dict[str, list[Point]]:
        """Return the points by series, in the order in which the series first come."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.series, []).append(point)
        return found


def draw_panels(panels: Sequence[Panel], title: str, path: Path, *, columns: int = 2) -> list[Path]:
    """Draw panels, at most ``columns`` side by side; without panels, a sentence. Return the files."""
    columns = max(1, min(columns, len(panels)))
    lines = max(1, math.ceil(len(panels) / columns))

    def paint(figure: Figure) -> None:
        grid = list(figure.subplots(lines, columns, squeeze=False).flat)
        drawn = list(zip(grid, panels, strict=False))
        for axes, panel in drawn:
            axes.set_title(plain(panel.title), parse_math=False, wrap=True)
            axes.set_xlabel(plain(panel.x_label))
            if panel.kind == "matrix":
                continue
            _PAINT[panel.kind](axes, panel)
            axes.set_ylabel(plain(panel.y_label))
            if panel.y_range:
                axes.set_ylim(*panel.y_range)
        for y_label in dict.fromkeys(panel.y_label for panel in panels):
            alike = [(axes, panel) for axes, panel in drawn if panel.y_label == y_label]
            _same_axes([axes for axes, panel in alike if panel.kind != "matrix"])
            _matrices(figure, [(axes, panel) for axes, panel in alike if panel.kind == "matrix"], y_label)
        for axes, panel in drawn:
            if panel.kind in ("lines", "steps"):
                _name_lines(axes, panel)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        if not panels:
            grid[0].text(0.5, 0.5, "nothing measured yet", ha="center", va="center")
        figure.suptitle(plain(title), fontsize=10, parse_math=False, wrap=True)

    return save(path, (WIDTH if columns > 1 else 0.85 * WIDTH, (2.6 if columns > 1 else 3.4) * lines + 0.4), paint)


def _same_axes(group: Sequence[Axes]) -> None:
    """Give axes that show the same quantity the same vertical limits."""
    limits = [axes.get_ylim() for axes in group]
    for axes in group:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


class _Look(TypedDict):
    """How the marks of one series look."""

    color: tuple[float, ...]
    marker: str
    markersize: float


def _look(position: int, count: int, size: float) -> _Look:
    return {"color": colour(position, count), "marker": MARKERS[position % len(MARKERS)], "markersize": size}


def _numbers(points: list[Point]) -> tuple[list[float], list[float], list[float]]:
    """Return x, y and standard errors, unknown ones as 0."""
    errors = [0.0 if math.isnan(point.stderr) else point.stderr for point in points]
    return [float(point.x) for point in points], [point.y for point in points], errors


def _points(axes: Axes, panel: Panel) -> None:
    for position, (name, points) in enumerate(panel.series.items()):
        x, y, error = _numbers(points)
        look = _look(position, len(panel.points), 5)
        axes.errorbar(x, y, error, linestyle="none", capsize=2, **look)
        axes.annotate(plain(name), (x[0], y[0]), (5, 5), textcoords="offset points", fontsize=8, parse_math=False)


def _lines(axes: Axes, panel: Panel) -> None:
    for position, (name, points) in enumerate(panel.series.items()):
        x, y, error = _numbers(points)
        look = _look(position, len(panel.series), 4)
        axes.errorbar(x, y, error, capsize=2, label=plain(name), linestyle=LINES[position % len(LINES)], **look)


def _steps(axes: Axes, panel: Panel) -> None:
    for position, (name, points) in enumerate(panel.series.items()):
        x, y, error = map(np.array, _numbers(points))
        shade = colour(position, len(panel.series))
        axes.step(x, y, where="post", color=shade, linestyle=LINES[position % len(LINES)], label=plain(name))
        axes.fill_between(x, y - error, y + error, step="post", color=shade, alpha=0.15, linewidth=0)


def _name_lines(axes: Axes, panel: Panel) -> None:
    """Name each line where it ends; many lines get a legend."""
    if len(panel.series) > MOST_LABELS:
        axes.legend(ncols=2)
        return
    end = max(float(point.x) for point in panel.points)
    labels = [
        (name, points[-1].y, colour(position, len(panel.series)))
        for position, (name, points) in enumerate(panel.series.items())
    ]
    label_ends(axes, end, labels)


def _bars(axes: Axes, panel: Panel) -> None:
    places = list(dict.fromkeys(str(point.x) for point in panel.points))
    width = 0.8 / len(panel.series)
    for position, (name, points) in enumerate(panel.series.items()):
        x = [places.index(str(p.x)) + (position - (len(panel.series) - 1) / 2) * width for p in points]
        errors = [0.0 if math.isnan(p.stderr) else p.stderr for p in points]
        axes.bar(x, [p.y for p in points], 0.92 * width, yerr=errors, capsize=2, label=plain(name),
                 color=colour(position, len(panel.series)), edgecolor="0.2", linewidth=0.5,
                 hatch=HATCHES[position % len(HATCHES)], error_kw={"linewidth": 0.8})  # fmt: skip
    axes.set_xticks(range(len(places)), [plain(place).replace(" ", "\n") for place in places], fontsize=8)
    axes.legend(ncols=min(6, len(panel.series)), loc="lower right", bbox_to_anchor=(1, 1))


def _matrices(figure: Figure, drawn: Sequence[tuple[Axes, Panel]], y_label: str) -> None:
    """Draw matrices of the same quantity in the same colours, with one bar that says what they mean."""
    top = max((point.y for _, panel in drawn for point in panel.points), default=0.0) or 1.0
    for axes, panel in drawn:
        columns = list(dict.fromkeys(str(point.x) for point in panel.points))
        values = np.array([point.y for point in panel.points]).reshape(len(panel.series), len(columns))
        image = axes.imshow(values, cmap="viridis_r", vmin=0, vmax=top)
        for (i, j), value in np.ndenumerate(values):
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=7,
                      color="white" if value > 0.5 * top else "black")  # fmt: skip
        names = [plain(name).removeprefix("moemix_quickstart_") for name in columns]
        axes.set_xticks(range(len(columns)), names, fontsize=8, rotation=30)
        axes.set_yticks(range(len(panel.series)), [plain(name) for name in panel.series], fontsize=8)
    if drawn:
        figure.colorbar(image, ax=[axes for axes, _ in drawn], label=plain(y_label), shrink=0.8)


_PAINT = {"points": _points, "lines": _lines, "steps": _steps, "bars": _bars}
