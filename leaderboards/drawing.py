"""Figures as data, and their drawing by matplotlib: the same data give the same bytes, readable in greyscale."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from harness.errors import MoemixError, nearest
from harness.files import write_bytes
from harness.grid import plain

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
HATCHES = ("", "//", "..", "xx", "\\\\", "++")


@dataclass(frozen=True)
class Point:
    """A point, a bar or an entry of a matrix; ``published`` where a paper gives the number, drawn as an open mark."""

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


def image_kind(path: Path) -> str:
    """Return ``png``, ``pdf`` or ``svg``.

    Raises:
        MoemixError: the file is of another kind.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in METADATA:
        raise MoemixError(f"cannot draw a {path.suffix or 'file without an ending'}", where=str(path),
                          hint=nearest(kind, METADATA))  # fmt: skip
    return kind


def save(path: Path, inches: tuple[float, float], paint: Callable[[Figure], None]) -> None:
    """Write the figure that ``paint`` draws, with the same settings and the same bytes on every machine.

    Raises:
        MoemixError: the file is not a ``.png``, ``.pdf`` or ``.svg``.
    """
    kind = image_kind(path)
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


def draw_panels(panels: Sequence[Panel], title: str, path: Path, *, columns: int = 2, width: float = 5.4) -> None:
    """Draw panels, at most ``columns`` side by side and each ``width`` inches wide; without panels, a sentence."""
    columns = max(1, min(columns, len(panels)))
    lines = max(1, math.ceil(len(panels) / columns))

    def paint(figure: Figure) -> None:
        grid = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes, panel in zip(grid, panels, strict=False):
            _PAINT[panel.kind](axes, panel)
            axes.set_title(plain(panel.title), fontsize=10, loc="left", parse_math=False)
            axes.set_xlabel(plain(panel.x_label), fontsize=9)
            if panel.kind != "matrix":
                axes.set_ylabel(plain(panel.y_label), fontsize=9)
                axes.spines[["top", "right"]].set_visible(False)
            if panel.y_range:
                axes.set_ylim(*panel.y_range)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        if not panels:
            grid[0].text(0.5, 0.5, "nothing measured yet", ha="center", va="center")
        figure.suptitle(plain(title), fontsize=10, parse_math=False, wrap=True)

    save(path, (width * columns, 3.6 * lines + 0.4), paint)


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
        axes.annotate(plain(name), (x[0], y[0]), (4, 4), textcoords="offset points", fontsize=8, parse_math=False)


def _lines(axes: Axes, panel: Panel) -> None:
    for position, (name, points) in enumerate(panel.series.items()):
        x, y, error = _numbers(points)
        look = _look(position, len(panel.series), 4)
        axes.errorbar(x, y, error, capsize=2, label=plain(name), linestyle=LINES[position % len(LINES)], **look)
        paper = [(float(p.x), p.published) for p in points if p.published is not None]
        if paper:
            axes.plot(*zip(*paper, strict=True), linestyle="none", fillstyle="none", label=f"{plain(name)}, paper",
                      **look)  # fmt: skip
    axes.legend(fontsize=8, frameon=False)


def _steps(axes: Axes, panel: Panel) -> None:
    for position, (name, points) in enumerate(panel.series.items()):
        x, y, error = map(np.array, _numbers(points))
        shade = colour(position, len(panel.series))
        axes.step(x, y, where="post", color=shade, linestyle=LINES[position % len(LINES)], label=plain(name))
        axes.fill_between(x, y - error, y + error, step="post", color=shade, alpha=0.15, linewidth=0)
    axes.legend(fontsize=8, frameon=False)


def _bars(axes: Axes, panel: Panel) -> None:
    places = list(dict.fromkeys(str(point.x) for point in panel.points))
    width = 0.8 / len(panel.series)
    for position, (name, points) in enumerate(panel.series.items()):
        x = [places.index(str(p.x)) + (position - (len(panel.series) - 1) / 2) * width for p in points]
        errors = [0.0 if math.isnan(p.stderr) else p.stderr for p in points]
        axes.bar(x, [p.y for p in points], 0.92 * width, yerr=errors, capsize=2, label=plain(name),
                 color=colour(position, len(panel.series)), edgecolor="0.2", linewidth=0.5,
                 hatch=HATCHES[position % len(HATCHES)], error_kw={"linewidth": 0.8})  # fmt: skip
    axes.set_xticks(range(len(places)), [plain(place).replace(" ", "\n", 1) for place in places], fontsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=min(6, len(panel.series)), loc="lower right", bbox_to_anchor=(1, 1))


def _matrix(axes: Axes, panel: Panel) -> None:
    columns = list(dict.fromkeys(str(point.x) for point in panel.points))
    values = np.array([point.y for point in panel.points]).reshape(len(panel.series), len(columns))
    axes.imshow(values, cmap="Greys", vmin=0, vmax=max(1e-9, 1.3 * values.max()))
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=8,
                  color="white" if value > 0.75 * values.max() else "black")  # fmt: skip
    names = [plain(name).removeprefix("moemix_quickstart_") for name in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=8, rotation=20)
    axes.set_yticks(range(len(panel.series)), [plain(name) for name in panel.series], fontsize=8)


_PAINT = {"points": _points, "lines": _lines, "steps": _steps, "bars": _bars, "matrix": _matrix}
