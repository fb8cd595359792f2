"""The one style of figures: narrow enough for a phone, readable in greyscale, the same bytes from the same data."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
WIDTH = 6.6  # inches of a figure: on a phone its letters are still legible
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "//", "..", "xx", "\\\\", "++")
_STYLE: Any = {
    "svg.hashsalt": "moemix",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def image_files(path: Path) -> list[Path]:
    """Return the files of a figure: the path itself, or a PNG and an SVG if it has no ending.

    Raises:
        MoemixError: the ending is of another kind.
    """
    if not path.suffix:
        return [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]
    if path.suffix.lower().lstrip(".") not in METADATA:
        raise MoemixError(f"cannot draw a {path.suffix}", where=str(path), hint=nearest(path.suffix, METADATA))
    return [path]


def save(path: Path, inches: tuple[float, float], paint: Callable[[Figure], None]) -> list[Path]:
    """Write the figure that ``paint`` draws, and return its files: ``path``, or a PNG and an SVG if it has no ending.

    Raises:
        MoemixError: the file is of another kind than ``.png``, ``.pdf`` and ``.svg``.
    """
    files = image_files(path)
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = {key: value for key, value in rcParamsDefault.items() if not key.startswith(("backend", "interactive"))}
    with rc_context(settings | _STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        for file in files:
            kind, buffer = file.suffix.lower().lstrip("."), io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=METADATA[kind])
            write_bytes(file, buffer.getvalue())
    return files


def colour(position: int, count: int) -> tuple[float, ...]:
    """Return the colour of one of several lines or bars; they differ in lightness, so every eye and grey print can."""
    from matplotlib import colormaps

    return tuple(colormaps["viridis"](0.7 * position / max(1, count - 1)))


def label_ends(axes: Axes, end: float, labels: Sequence[tuple[str, float, tuple[float, ...]]]) -> None:
    """Write labels (text, height and colour) right of the lines that end at ``end``, apart from each other.

    The vertical limits of the axes must be set.
    """
    low, high = axes.get_ylim()
    heights = spread([height - low for _, height, _ in labels], gap=0.085 * (high - low))
    for (text, height, shade), place in zip(labels, heights, strict=True):
        axes.annotate(
            plain(text), (end, height), (1.04, place / (high - low)), textcoords="axes fraction",
            va="center", fontsize=8, color=shade, annotation_clip=False, parse_math=False,
            arrowprops={"arrowstyle": "-", "color": shade, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
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
