"""The figures of a comparison: weights over time, and judged scores by category and turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.drawing import LINES, MARKERS, WIDTH, colour, image_files, label_ends, save
from harness.errors import MoemixError
from harness.grid import plain
from harness.judging import JudgeSummary
from harness.statistics.estimates import Part, estimate
from leaderboards.drawing import Panel, Point, draw_panels
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


def trajectories(comparison: Comparison) -> dict[str, list[Trajectory]]:
    """Return the trajectories of every row's trained runs, one for each seed, in the order of the rows."""
    found: dict[str, list[Trajectory]] = {}
    for label, row in _named_rows(comparison):
        read = [read_trajectory(member.run) for member in row.members]
        seeds = [trajectory for trajectory in read if trajectory is not None]
        # Seeds that updated at other steps, of an older recipe say, have no common mean.
        if seeds:
            found[label] = [each for each in seeds if np.array_equal(each.steps, seeds[0].steps)]
    return found


def draw_weights(rows: dict[str, list[Trajectory]], path: Path) -> list[Path]:
    """Draw weights over time, one panel per row: thick the mean over seeds, thin each seed's share of examples.

    Raises:
        MoemixError: there is no trained run, or the file is of another kind.
    """
    image_files(path)
    if not rows:
        raise MoemixError("no run has been trained: there are no weights to draw", where=str(path))
    columns = min(2, len(rows))
    lines = math.ceil(len(rows) / columns)

    def paint(figure: Figure) -> None:
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
        every = [array for seeds in rows.values() for seed in seeds for array in (seed.weights, seed.realised)]
        top = 1.05 * max(float(np.nanmax(array)) for array in every)
        for panel, (name, seeds) in zip(panels.flat, rows.items(), strict=False):
            _draw(panel, name, seeds, top)
        for panel in list(panels.flat)[len(rows) :]:
            panel.set_axis_off()
        figure.supxlabel("optimizer step (thick: weight, mean over seeds; thin: share of examples)", fontsize=9)
        figure.supylabel("share", fontsize=9)

    return save(path, (WIDTH, 2.3 * lines + 0.4), paint)


def _draw(panel: Axes, name: str, seeds: list[Trajectory], top: float) -> None:
    steps, names = seeds[0].steps, seeds[0].names
    weights = np.mean([seed.weights for seed in seeds], axis=0)  # [updates, sources]
    end, final = int(steps[-1]), weights[-1]
    labelled = sorted(np.argsort(-final, kind="stable")[:MOST_LABELLED].tolist())
    for source in set(range(len(final))) - set(labelled):
        panel.plot(steps, weights[:, source], color="0.8", linewidth=0.6, drawstyle="steps-post")
    panel.set_xlim(0, end)
    panel.set_ylim(0, top)
    for position, source in enumerate(labelled):
        shade = colour(position, len(labelled))
        panel.plot(
            steps, weights[:, source], color=shade, linewidth=1.8, drawstyle="steps-post",
            linestyle=LINES[position % len(LINES)], marker=MARKERS[position % len(MARKERS)], markersize=3.5,
            markevery=max(1, len(steps) // 8),
        )  # fmt: skip
        for seed in seeds:
            panel.stairs(seed.realised[:, source], steps, color=shade, linewidth=0.5, alpha=0.7, baseline=None)
    shades = [colour(position, len(labelled)) for position in range(len(labelled))]
    ends = [(f"{names[source]} {final[source]:.2f}", float(final[source])) for source in labelled]
    label_ends(panel, end, [(text, height, shade) for (text, height), shade in zip(ends, shades, strict=True)])
    panel.set_title(plain(name), parse_math=False)


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


def draw_judged(title: str, panels: Sequence[Panel], path: Path) -> list[Path]:
    """Draw what :func:`judged_panels` returns for a bench, the first turn on top."""
    return draw_panels(panels, title, path, columns=1)
