"""Write figures as PNG files: the same record gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(
    path: Path, size: tuple[float, float], draw: Callable[[Figure], None], *, font_size: float, dpi: int
) -> None:
    """Draw a figure with matplotlib's default settings and write it.

    Args:
        path: the file.
        size: width and height in inches.
        draw: draws into the figure.
        font_size: in points.
        dpi: pixels per inch.
    """
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = {key: value for key, value in rcParamsDefault.items() if not key.startswith(("backend", "interactive"))}
    with rc_context({**settings, "font.size": font_size, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
