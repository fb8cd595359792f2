"""The drawing of the paper's figures: readable in greyscale, published numbers as open marks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from harness.grid import plain
from leaderboards.figures import LINES, MARKERS, colour, save
from leaderboards.paper.figures import R_HIGH, R_LOW, FigureData, Panel, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Look(TypedDict):
    """How the marks of one series look."""

    color: tuple[float, ...]
    marker: str
    markersize: float


def draw_figure(figure: FigureData, path: Path) -> None:
    """Draw a figure's panels side by side, or the words that nothing has been measured yet.

    Args:
        figure: computed from the records.
        path: ends in ``.png``, ``.pdf`` or ``.svg``.
    """
    columns = max(1, min(2, len(figure.panels)))
    lines = max(1, math.ceil(len(figure.panels) / columns))

    def paint(canvas: Figure) -> None:
        panels = list(canvas.subplots(lines, columns, squeeze=False).flat)
        for axes, panel in zip(panels, figure.panels, strict=False):
            _PAINT[panel.kind](axes, panel)
            axes.set_title(plain(panel.title), fontsize=10, loc="left", parse_math=False)
            axes.set_xlabel(plain(panel.x_label), fontsize=9)
            if panel.kind != "matrix":
                axes.set_ylabel(plain(panel.y_label), fontsize=9)
                axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[len(figure.panels) :]:
            axes.set_axis_off()
        if not figure.panels:
            panels[0].text(0.5, 0.5, "nothing measured yet", ha="center", va="center")
        facts = [f"{name} {ours:.3f}" + (f" (paper {paper})" if paper is not None else "")
                 for name, ours, paper in figure.facts if name not in (R_LOW, R_HIGH)]  # fmt: skip
        title = plain("; ".join([figure.title, *facts])).replace("-0", "−0")
        canvas.suptitle(title, fontsize=10, parse_math=False, wrap=True)

    save(path, (5.4 * columns, 3.6 * lines + 0.4), paint)


def _series(panel: Panel) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in panel.points:
        found.setdefault(point.series, []).append(point)
    return found


def _look(position: int, count: int, size: float) -> _Look:
    return {"color": colour(position, count), "marker": MARKERS[position % len(MARKERS)], "markersize": size}


def _errors(points: list[Point]) -> list[float]:
    return [0.0 if math.isnan(point.stderr) else point.stderr for point in points]


def _points(axes: Axes, panel: Panel) -> None:
    for position, (name, points) in enumerate(_series(panel).items()):
        axes.errorbar([float(p.x) for p in points], [p.y for p in points], _errors(points),
                      linestyle="none", capsize=2, **_look(position, len(panel.points), 5))  # fmt: skip
        axes.annotate(plain(name), (float(points[0].x), points[0].y), (4, 4), textcoords="offset points", fontsize=8,
                      parse_math=False)  # fmt: skip


def _lines(axes: Axes, panel: Panel) -> None:
    series = _series(panel)
    for position, (name, points) in enumerate(series.items()):
        look = _look(position, len(series), 4)
        axes.errorbar([float(p.x) for p in points], [p.y for p in points], _errors(points), capsize=2,
                      label=plain(name), linestyle=LINES[position % len(LINES)], **look)  # fmt: skip
        paper = [(float(p.x), p.published) for p in points if p.published is not None]
        if paper:
            axes.plot([x for x, _ in paper], [y for _, y in paper], linestyle="none", fillstyle="none",
                      label=f"{plain(name)}, paper", **look)  # fmt: skip
    axes.legend(fontsize=8, frameon=False)


def _steps(axes: Axes, panel: Panel) -> None:
    series = _series(panel)
    for position, (name, points) in enumerate(series.items()):
        x, y = np.array([float(p.x) for p in points]), np.array([p.y for p in points])
        error = np.array(_errors(points))
        shade = colour(position, len(series))
        axes.step(x, y, where="post", color=shade, linestyle=LINES[position % len(LINES)], label=plain(name))
        axes.fill_between(x, y - error, y + error, step="post", color=shade, alpha=0.15, linewidth=0)
    axes.legend(fontsize=8, frameon=False)


def _bars(axes: Axes, panel: Panel) -> None:
    series = _series(panel)
    places = list(dict.fromkeys(str(point.x) for point in panel.points))
    width = 0.8 / len(series)
    for position, (name, points) in enumerate(series.items()):
        x = [places.index(str(p.x)) + (position - (len(series) - 1) / 2) * width for p in points]
        axes.bar(x, [p.y for p in points], width, yerr=_errors(points), color=colour(position, len(series)),
                 label=plain(name), capsize=2)  # fmt: skip
    axes.set_xticks(range(len(places)), [plain(place).replace(" ", "\n", 1) for place in places], fontsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=len(series), loc="lower right", bbox_to_anchor=(1, 1))


def _matrix(axes: Axes, panel: Panel) -> None:
    rows = list(dict.fromkeys(point.series for point in panel.points))
    columns = list(dict.fromkeys(str(point.x) for point in panel.points))
    values = np.array([point.y for point in panel.points]).reshape(len(rows), len(columns))
    axes.imshow(values, cmap="Greys", vmin=0, vmax=max(1e-9, 1.3 * values.max()))
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=8,
                  color="white" if value > 0.75 * values.max() else "black")  # fmt: skip
    names = [plain(name).removeprefix("moemix_quickstart_") for name in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=8, rotation=20)
    axes.set_yticks(range(len(rows)), [plain(name) for name in rows], fontsize=8)


_PAINT = {"points": _points, "lines": _lines, "steps": _steps, "bars": _bars, "matrix": _matrix}
