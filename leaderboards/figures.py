"""The figures of a comparison: weights over time, and judged scores by category and turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import MoemixError
from harness.grid import plain
from harness.judging import JudgeSummary
from harness.statistics.estimates import Part, estimate
from leaderboards.drawing import LINES, MARKERS, Panel, Point, colour, draw_panels, image_kind, save
from leaderboards.judged import PREFIX, JudgedRow, read_rows
from leaderboards.mixture import Trajectory, read_trajectory
from leaderboards.table import Comparison, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELLED = 12  # sources with a line of their own style and a label; the rest are drawn thin and grey


def _named_rows(comparison: Comparison) -> list[tuple[str, Row]]:
    """Return every row with its label; of several models each label names its model."""
    several = len(comparison.tables) > 1
    return [
        (f"{table.model} · {row.label}" if several else row.label, row)
        for table in comparison.tables
        for row in table.rows
    ]


def trajectories(comparison: Comparison) -> dict[str, Trajectory]:
    """Return name → trajectory of every trained run, in the order of the rows."""
    found = {}
    for label, row in _named_rows(comparison):
        for member in row.members:
            trajectory = read_trajectory(member.run)
            if trajectory is not None:
                found[label if len(row.members) == 1 else f"{label} · seed {member.seed}"] = trajectory
    return found


def draw_weights(runs: dict[str, Trajectory], path: Path) -> None:
    """Draw weights over time, one panel per run: thick the weight in force, thin the realised share of examples.

    Raises:
        MoemixError: there is no trained run, or the file is of another kind.
    """
    image_kind(path)
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


def _draw(panel: Axes, name: str, trajectory: Trajectory, top: float) -> None:
    end = int(trajectory.steps[-1])
    final = trajectory.weights[-1]
    labelled = sorted(np.argsort(-final, kind="stable")[:MOST_LABELLED].tolist())
    for source in set(range(len(final))) - set(labelled):
        panel.plot(trajectory.steps, trajectory.weights[:, source], color="0.8", linewidth=0.6, drawstyle="steps-post")
    heights = _spread([float(final[source]) for source in labelled], gap=0.055 * top)
    for position, (source, height) in enumerate(zip(labelled, heights, strict=True)):
        shade = colour(position, len(labelled))
        panel.plot(
            trajectory.steps, trajectory.weights[:, source], color=shade, linewidth=1.8, drawstyle="steps-post",
            linestyle=LINES[position % len(LINES)], marker=MARKERS[position % len(MARKERS)], markersize=3.5,
            markevery=max(1, len(trajectory.steps) // 8),
        )  # fmt: skip
        panel.stairs(trajectory.realised[:, source], trajectory.steps, color=shade, linewidth=0.6, baseline=None)
        panel.annotate(
            f"{trajectory.names[source]} {final[source]:.2f}", (end, final[source]), (1.04 * end, height),
            va="center", fontsize=8, color=shade, annotation_clip=False, parse_math=False,
            arrowprops={"arrowstyle": "-", "color": shade, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0,
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


# --- judged scores ------------------------------------------------------------------------------------


def judged_panels(comparison: Comparison) -> dict[str, tuple[str, list[Panel]]]:
    """Return bench → the title of its figure and a panel of bars for each turn: categories by strategy."""
    rows: dict[str, dict[str, list[list[JudgedRow]]]] = {}
    summaries: dict[str, JudgeSummary] = {}
    for label, row in _named_rows(comparison):
        for name in (name for name in row.cells if name.startswith(PREFIX)):
            folders = [scores.path.parent for held in row.scored(name).values() for scores in held.values()]
            for folder in folders:
                summaries[name] = JudgeSummary.read(folder / "summary.json")
                rows.setdefault(name, {}).setdefault(label, []).append(read_rows(folder, summaries[name].model))
    return {name.removeprefix(PREFIX): _judged(summaries[name], by_label) for name, by_label in rows.items()}


def _judged(summary: JudgeSummary, rows: dict[str, list[list[JudgedRow]]]) -> tuple[str, list[Panel]]:
    categories = dict.fromkeys(row.category for seeds in rows.values() for seed in seeds for row in seed)
    judges = ", ".join(judge.name for judge in summary.request.judges)
    title = summary.title if summary.request.protocol == "reference" else f"{summary.title}, judged by {judges}"
    panels = []
    turns = {row.turn for seeds in rows.values() for seed in seeds for row in seed}
    for turn in sorted({1, 2, *turns}):
        words = {1: "first turn", 2: "second turn"}.get(turn, f"turn {turn}")
        points = (
            Point(label, category, *_mean(seeds, turn, category))
            for label, seeds in rows.items()
            for category in categories
        )
        panels.append(Panel(words, "bars", "", "score ± standard error", tuple(points), summary.scale))
    return title, panels


def _mean(seeds: list[list[JudgedRow]], turn: int, category: str) -> tuple[float, float]:
    """Return mean and standard error over the questions (and seeds) that were judged in every seed."""
    by_seed = [
        {row.question: row.score for row in seed
         if (row.turn, row.category) == (turn, category) and row.score is not None}
        for seed in seeds
    ]  # fmt: skip
    common = [question for question in by_seed[0] if all(question in scores for scores in by_seed)]
    if not common:
        return math.nan, math.nan
    scores = np.array([[held[question] for question in common] for held in by_seed], dtype=np.float64)
    found = estimate([Part(1.0, scores, np.arange(len(common)))])
    return found.value, found.se


def draw_judged(title: str, panels: Sequence[Panel], path: Path) -> None:
    """Draw what :func:`judged_panels` returns for a bench, the first turn on top."""
    draw_panels(panels, title, path, columns=1, width=max(6.0, 0.125 * sum(len(p.points) for p in panels) + 2))
