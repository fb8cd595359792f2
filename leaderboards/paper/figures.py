"""The paper's figures as data: panels of points, lines, bars and distance matrices, computed from the records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr

from harness.errors import unknown
from harness.statistics.estimates import mean_over_seeds
from leaderboards.drawing import Panel, Point, draw_panels
from leaderboards.mixture import read_trajectory
from leaderboards.paper.measures import Loads, compare_lines, gate_loads
from leaderboards.paper.runs import BENCHMARK_LOAD, GATE_LOAD, SCORES, Experiments, Need
from leaderboards.paper.specs import INTERVALS, MODEL, SOURCES, STRATEGIES, Line, interval_label, published

TRAINED = ("datasize", "uniform", "random", "sequential", "ref_loss", "dynamic")
LENGTHS = ("500", "1000", "1500", "2000")
PAIR = ("uniform", "dynamic")
AVERAGE = "score:kr_average"
R_LOW, R_HIGH = "lower end of r's 95 % interval", "upper end of r's 95 % interval"


@dataclass
class FigureData:
    """A figure: its panels, single numbers (ours, and the paper's where it prints it), and what is missing."""

    name: str
    title: str
    panels: list[Panel] = field(default_factory=list)
    facts: list[tuple[str, float, float | None]] = field(default_factory=list)
    missing: dict[str, None] = field(default_factory=dict)

    def add(self, kind: str, x_label: str, points: list[Point]) -> None:
        """Add a panel of K&R averages, if there are any."""
        if points:
            self.panels.append(Panel("", kind, x_label, "K&R average, %", tuple(points)))

    def lacks(self, strategy: str, reasons: Iterable[str]) -> None:
        """Note why a strategy is missing."""
        self.missing |= dict.fromkeys(f"{strategy}: {reason}" for reason in reasons)


def figure_data(name: str, experiments: Experiments) -> FigureData:
    """Compute a figure of the paper from what the store holds.

    Raises:
        MoemixError: there is no figure of this name, or the records are damaged.
    """
    if name not in FIGURES:
        raise unknown("figure of the paper", name, FIGURES)
    figure = FigureData(name, FIGURES[name].title)
    FIGURES[name].build(figure, experiments)
    return figure


def draw_figure(figure: FigureData, path: Path) -> list[Path]:
    """Draw a figure, with its single numbers in the title, to a ``.png``, ``.pdf`` or ``.svg``, or PNG and SVG."""
    facts = [f"{name} {ours:.3f}" + (f" (paper {paper})" if paper is not None else "")
             for name, ours, paper in figure.facts if name not in (R_LOW, R_HIGH)]  # fmt: skip
    panels = [part for panel in figure.panels for part in ours_and_theirs(panel)]
    return draw_panels(panels, "; ".join([figure.title, *facts]).replace("-0", "−0"), path)


def ours_and_theirs(panel: Panel) -> list[Panel]:
    """Give the paper's points axes of their own: its benchmarks have another scale than those of a small preset."""
    theirs = tuple(replace(p, y=p.published, stderr=math.nan) for p in panel.points if p.published is not None)
    if panel.kind != "lines" or not theirs:
        return [panel]
    names = ("here", panel.points), ("in the paper", theirs)
    return [replace(panel, title=title, y_label=f"{panel.y_label}, {title}", points=points) for title, points in names]


def _averages(
    figure: FigureData, experiments: Experiments, strategies: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return strategy → K&R average in percent with its standard error, of those that have one."""
    lines = [Line(MODEL, strategy, strategy) for strategy in strategies]
    compared = compare_lines(experiments, lines, [AVERAGE])
    found = {}
    for line in lines:
        figure.lacks(line.strategy, compared.missing(line, AVERAGE))
        if score := compared.cell(line, AVERAGE).score:
            found[line.strategy] = (100 * score.value, 100 * score.se)
    return found


def _loads(figure: FigureData, experiments: Experiments, strategy: str, need: str = GATE_LOAD) -> list[Loads]:
    """Return the gate loads of a strategy's checkpoints, one for each seed."""
    measured = [gate_loads(experiments, planned, need) for planned in experiments.runs(MODEL, strategy)]
    if not measured:
        figure.lacks(strategy, [experiments.why_none(MODEL, strategy)])
    figure.lacks(strategy, [reason for reason in measured if isinstance(reason, str)])
    return [loads for loads in measured if not isinstance(loads, str)]


def _balance(figure: FigureData, experiments: Experiments) -> None:
    """Build figure 2."""
    rows = published()["table1"][MODEL]
    scores = _averages(figure, experiments, TRAINED)
    points = []
    for strategy in TRAINED:
        loads = _loads(figure, experiments, strategy)
        if strategy in scores and loads:
            cv = float(np.mean([load.cv_squared for load in loads]))
            points.append(Point(STRATEGIES[strategy], cv, *scores[strategy], rows[strategy]["kr_average"]))
    figure.add("points", "CV(load)²", points)
    x, y = [float(point.x) for point in points], [point.y for point in points]
    if len(points) > 3 and np.std(x) > 0 and np.std(y) > 0:
        found = pearsonr(x, y)
        low, high = found.confidence_interval(0.95)
        figure.facts.append(("Pearson's r", float(found.statistic), published()["figure2"]["pearson"]))
        figure.facts += [(R_LOW, float(low), None), (R_HIGH, float(high), None)]


def _combinations(figure: FigureData, experiments: Experiments) -> None:
    """Build figure 3."""
    rows = published()["table1"][MODEL]
    scores = _averages(figure, experiments, _COMBINATIONS)
    points = []
    for name in ("all", *SOURCES):
        for strategy in PAIR:
            label = strategy if name == "all" else f"without_{name}_{strategy}"
            if label in scores:
                paper = rows[strategy]["kr_average"] if name == "all" else None
                combination = "all four" if name == "all" else f"w/o {SOURCES[name]}"
                points.append(Point(STRATEGIES[strategy], combination, *scores[label], paper))
    figure.add("bars", "training sets", points)


def _before_after(figure: FigureData, experiments: Experiments) -> None:
    """Build figure 4."""
    for title, strategy in (("before training", "none"), ("after Dynamic", "dynamic")):
        loads = _loads(figure, experiments, strategy)
        if loads:
            figure.panels.append(_matrix(title, loads[0].names, loads[0].names, [load.distances for load in loads]))
            found = mean_over_seeds([math.sqrt(load.cv_squared) for load in loads])
            figure.facts.append((f"CV(load) {title}", found.value, None))


def _matrix(title: str, rows: Sequence[str], columns: Sequence[str], by_seed: Sequence[NDArray[np.float64]]) -> Panel:
    """Return a panel of the mean over seeds of f64[rows, columns]."""
    points = []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            found = mean_over_seeds([float(matrix[i, j]) for matrix in by_seed])
            points.append(Point(row, column, found.value, found.se))
    return Panel(title, "matrix", "", "L2 distance of gate loads", tuple(points))


def _trajectories(figure: FigureData, experiments: Experiments, strategy: str, title: str) -> None:
    """Add a panel of the weights over training, mean over seeds."""
    planned_runs = experiments.runs(MODEL, strategy)
    if not planned_runs:
        figure.lacks(strategy, [experiments.why_none(MODEL, strategy)])
    found = [read_trajectory(planned.run) if planned.run.trained else None for planned in planned_runs]
    trained = [trajectory for trajectory in found if trajectory is not None]
    figure.lacks(strategy, ["not trained yet"] * (len(trained) < len(found)))
    if not trained:
        return
    steps = trained[0].steps
    stacked = np.stack([t.weights for t in trained if np.array_equal(t.steps, steps)])  # [S, U + 2, K]
    points = []
    for k, name in enumerate(trained[0].names):
        for u, step in enumerate(steps):
            mean = mean_over_seeds(stacked[:, u, k].tolist())
            points.append(Point(name, float(step), mean.value, mean.se))
    figure.panels.append(Panel(title, "steps", "optimizer step", "weight", tuple(points)))


def _intervals(figure: FigureData, experiments: Experiments) -> None:
    """Build figure 5."""
    for interval in INTERVALS:
        _trajectories(figure, experiments, interval_label(interval), f"every {interval} of the paper's 2,000 steps")


def _lengths(figure: FigureData, experiments: Experiments) -> None:
    """Build figure 6."""
    rows, early = published()["table1"][MODEL], published()["other"]["steps_500_kr_average"]
    scores = _averages(figure, experiments, _LENGTHS)
    points = []
    for strategy in PAIR:
        paper = {"500": early[strategy], "2000": rows[strategy]["kr_average"]}
        for length in LENGTHS:
            label = strategy if length == "2000" else f"steps_{length}_{strategy}"
            if label in scores:
                points.append(Point(STRATEGIES[strategy], float(length), *scores[label], paper.get(length)))
    figure.add("lines", "training steps, on the paper's scale", points)


def _inverse(figure: FigureData, experiments: Experiments) -> None:
    """Build figure 7."""
    _trajectories(figure, experiments, "inverse", STRATEGIES["inverse"])
    _trajectories(figure, experiments, "dynamic", STRATEGIES["dynamic"])


def _benchmarks(figure: FigureData, experiments: Experiments) -> None:
    """Build figure 8."""
    loads = _loads(figure, experiments, "dynamic", BENCHMARK_LOAD)
    if not loads:
        return
    sources, tasks = ([i for i, kind in enumerate(loads[0].kinds) if kind == one] for one in ("source", "benchmark"))
    parts = [load.distances[np.ix_(sources, tasks)] for load in loads]
    names = loads[0].names
    figure.panels.append(_matrix("after Dynamic", [names[i] for i in sources], [names[i] for i in tasks], parts))


def _needs(strategies: Sequence[str], *kinds: str) -> list[Need]:
    return [(MODEL, strategy, kind) for strategy in strategies for kind in kinds]


_COMBINATIONS = [*PAIR, *(f"without_{name}_{strategy}" for name in SOURCES for strategy in PAIR)]
_LENGTHS = [*PAIR, *(f"steps_{length}_{strategy}" for length in LENGTHS[:-1] for strategy in PAIR)]


class FigureSpec(NamedTuple):
    """What a figure shows, what it needs of which runs, and the function that computes it."""

    title: str
    needs: list[Need]
    build: Callable[[FigureData, Experiments], None]


FIGURES = {
    "figure2": FigureSpec("CV(load)² against the K&R average", _needs(TRAINED, SCORES, GATE_LOAD), _balance),
    "figure3": FigureSpec("Combinations of training sets", _needs(_COMBINATIONS, SCORES), _combinations),
    "figure4": FigureSpec("Gate-load distances before and after", _needs(("none", "dynamic"), GATE_LOAD),
                          _before_after),
    "figure5": FigureSpec("Weights by update interval", _needs([interval_label(m) for m in INTERVALS], ""), _intervals),
    "figure6": FigureSpec("Training steps", _needs(_LENGTHS, SCORES), _lengths),
    "figure7": FigureSpec("Weights of the inverse", _needs(("inverse", "dynamic"), ""), _inverse),
    "figure8": FigureSpec("Gate-load distances to benchmarks", _needs(("dynamic",), BENCHMARK_LOAD), _benchmarks),
}  # fmt: skip
