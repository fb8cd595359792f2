"""The paper's figures as data: panels of points, lines, bars and distance matrices, computed from the records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import pearsonr

from harness.errors import unknown
from leaderboards.mixture import read_trajectory
from leaderboards.paper.measures import Loads, NotMeasured, gate_loads, measure, over_seeds
from leaderboards.paper.published import published
from leaderboards.paper.runs import BENCHMARK_LOAD, GATE_LOAD, SCORES, Experiments, Need
from leaderboards.paper.specs import INTERVALS, SOURCES, STRATEGIES, interval_label

MODEL = "llama_moe"
TRAINED = ("datasize", "uniform", "random", "sequential", "ref_loss", "dynamic")
LENGTHS = ("500", "1000", "1500", "2000")
PAIR = ("uniform", "dynamic")
R_LOW, R_HIGH = "lower end of r's 95 % interval", "upper end of r's 95 % interval"


@dataclass(frozen=True)
class Point:
    """One point, bar or matrix entry; ``published`` where the paper gives the number."""

    series: str
    x: float | str
    y: float
    stderr: float = math.nan
    published: float | None = None


@dataclass(frozen=True)
class Panel:
    """What is drawn in one pair of axes. A ``matrix`` has its rows in ``series`` and its columns in ``x``."""

    title: str
    kind: str  # points, lines, steps, bars or matrix
    x_label: str
    y_label: str
    points: tuple[Point, ...]


@dataclass
class FigureData:
    """A figure: its panels, single numbers (ours, and the paper's where it prints it), and what is missing."""

    name: str
    title: str
    panels: list[Panel] = field(default_factory=list)
    facts: list[tuple[str, float, float | None]] = field(default_factory=list)
    missing: dict[str, None] = field(default_factory=dict)


def figure_names() -> list[str]:
    return list(_FIGURES)


def figure_title(name: str) -> str:
    return _known(name)[0]


def figure_needs(name: str) -> list[Need]:
    return _known(name)[1]


def figure_data(name: str, experiments: Experiments) -> FigureData:
    """A figure of the paper from what the store holds."""
    title, _, build = _known(name)
    figure = FigureData(name, title)
    build(figure, experiments)
    return figure


def _known(name: str) -> tuple[str, list[Need], Callable[[FigureData, Experiments], None]]:
    if name not in _FIGURES:
        raise unknown("figure of the paper", name, _FIGURES)
    return _FIGURES[name]


def _average(figure: FigureData, experiments: Experiments, strategy: str) -> tuple[float, float] | None:
    """K&R average of a strategy in percent, with its standard error."""
    found = measure(experiments, MODEL, strategy, "score:kr_average")
    figure.missing |= dict.fromkeys(f"{strategy}: {reason}" for reason in found.missing)
    value = found.estimate()
    return (100 * value.value, 100 * value.se) if value else None


def _loads(figure: FigureData, experiments: Experiments, strategy: str, need: str = GATE_LOAD) -> list[Loads]:
    """The gate loads of a strategy's checkpoints, one a seed."""
    found = []
    planned_runs = experiments.runs(MODEL, strategy)
    if not planned_runs:
        figure.missing[f"{strategy}: {experiments.why_none(MODEL, strategy)}"] = None
    for planned in planned_runs:
        try:
            found.append(gate_loads(experiments, planned, need))
        except NotMeasured as reason:
            figure.missing[f"{strategy}: {reason}"] = None
    return found


def _balance(figure: FigureData, experiments: Experiments) -> None:
    """Figure 2."""
    rows = published()["table1"][MODEL]
    points, cvs = [], []
    for strategy in TRAINED:
        score, loads = _average(figure, experiments, strategy), _loads(figure, experiments, strategy)
        if score and loads:
            cv = float(np.mean([load.cv_squared for load in loads]))
            cvs.append((cv, score[0]))
            points.append(Point(STRATEGIES[strategy], cv, score[0], score[1], rows[strategy]["kr_average"]))
    if points:
        figure.panels.append(Panel("", "points", "CV(load)²", "K&R average, %", tuple(points)))
    if len(cvs) > 3:
        x, y = zip(*cvs, strict=True)
        if np.std(x) > 0 and np.std(y) > 0:
            found = pearsonr(x, y)
            low, high = found.confidence_interval(0.95)
            figure.facts.append(("Pearson's r", float(found.statistic), published()["figure2"]["pearson"]))
            figure.facts += [(R_LOW, float(low), None), (R_HIGH, float(high), None)]


def _combinations(figure: FigureData, experiments: Experiments) -> None:
    """Figure 3."""
    rows = published()["table1"][MODEL]
    points = []
    for name in ("all", *SOURCES):
        for strategy in PAIR:
            label = strategy if name == "all" else f"without_{name}_{strategy}"
            score = _average(figure, experiments, label)
            if score:
                told = rows[strategy]["kr_average"] if name == "all" else None
                combination = "all four" if name == "all" else f"w/o {SOURCES[name]}"
                points.append(Point(STRATEGIES[strategy], combination, *score, told))
    if points:
        figure.panels.append(Panel("", "bars", "training sets", "K&R average, %", tuple(points)))


def _before_after(figure: FigureData, experiments: Experiments) -> None:
    """Figure 4."""
    for title, strategy in (("before training", "none"), ("after Dynamic", "dynamic")):
        loads = _loads(figure, experiments, strategy)
        if loads:
            figure.panels.append(_matrix(title, loads[0].names, loads[0].names, [load.distances for load in loads]))
            found = over_seeds([math.sqrt(load.cv_squared) for load in loads])
            figure.facts.append((f"CV(load) {title}", found.value, None))


def _matrix(title: str, rows: Sequence[str], columns: Sequence[str], by_seed: Sequence[np.ndarray]) -> Panel:
    mean = np.mean(by_seed, axis=0)
    error = (
        np.std(by_seed, axis=0, ddof=1) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else np.full(mean.shape, np.nan)
    )
    points = (
        Point(row, column, float(mean[i, j]), float(error[i, j]))
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    )
    return Panel(title, "matrix", "", "L2 distance of gate loads", tuple(points))


def _trajectories(figure: FigureData, experiments: Experiments, strategy: str, title: str) -> None:
    """Weights over training, mean over seeds."""
    held = []
    for planned in experiments.runs(MODEL, strategy):
        trajectory = read_trajectory(planned.run) if planned.run.trained else None
        if trajectory is None:
            figure.missing[f"{strategy}: not trained yet"] = None
        else:
            held.append(trajectory)
    if not held:
        if not experiments.runs(MODEL, strategy):
            figure.missing[f"{strategy}: {experiments.why_none(MODEL, strategy)}"] = None
        return
    steps = held[0].steps
    stacked = np.stack([t.weights for t in held if np.array_equal(t.steps, steps)])
    points = []
    for k, name in enumerate(held[0].names):
        for u, step in enumerate(steps):
            found = over_seeds(stacked[:, u, k].tolist())
            points.append(Point(name, float(step), found.value, found.se))
    figure.panels.append(Panel(title, "steps", "optimizer step", "weight", tuple(points)))


def _intervals(figure: FigureData, experiments: Experiments) -> None:
    """Figure 5."""
    for interval in INTERVALS:
        _trajectories(figure, experiments, interval_label(interval), f"every {interval} of the paper's 2,000 steps")


def _lengths(figure: FigureData, experiments: Experiments) -> None:
    """Figure 6."""
    rows = published()["table1"][MODEL]
    told = published()["other"]["steps_500_kr_average"]
    points = []
    for strategy in PAIR:
        for length in LENGTHS:
            score = _average(figure, experiments, strategy if length == "2000" else f"steps_{length}_{strategy}")
            if score:
                figures = {"500": told[strategy], "2000": rows[strategy]["kr_average"]}
                points.append(Point(STRATEGIES[strategy], float(length), *score, figures.get(length)))
    if points:
        figure.panels.append(
            Panel("", "lines", "training steps, on the paper's scale", "K&R average, %", tuple(points))
        )


def _inverse(figure: FigureData, experiments: Experiments) -> None:
    """Figure 7."""
    _trajectories(figure, experiments, "inverse", STRATEGIES["inverse"])
    _trajectories(figure, experiments, "dynamic", STRATEGIES["dynamic"])


def _benchmarks(figure: FigureData, experiments: Experiments) -> None:
    """Figure 8."""
    loads = _loads(figure, experiments, "dynamic", BENCHMARK_LOAD)
    if not loads:
        return
    sources = [i for i, kind in enumerate(loads[0].kinds) if kind == "source"]
    tasks = [i for i, kind in enumerate(loads[0].kinds) if kind == "benchmark"]
    parts = [load.distances[np.ix_(sources, tasks)] for load in loads]
    names = loads[0].names
    figure.panels.append(_matrix("after Dynamic", [names[i] for i in sources], [names[i] for i in tasks], parts))


def _needs(strategies: Sequence[str], *kinds: str) -> list[Need]:
    return [(MODEL, strategy, kind) for strategy in strategies for kind in kinds]


_COMBINATIONS = [*PAIR, *(f"without_{name}_{strategy}" for name in SOURCES for strategy in PAIR)]
_LENGTHS = [*PAIR, *(f"steps_{length}_{strategy}" for length in LENGTHS[:-1] for strategy in PAIR)]
_FIGURES: dict[str, tuple[str, list[Need], Callable[[FigureData, Experiments], None]]] = {
    "figure2": ("CV(load)² against the K&R average", _needs(TRAINED, SCORES, GATE_LOAD), _balance),
    "figure3": ("Combinations of training sets", _needs(_COMBINATIONS, SCORES), _combinations),
    "figure4": ("Gate-load distances before and after", _needs(("none", "dynamic"), GATE_LOAD), _before_after),
    "figure5": ("Weights by update interval", _needs([interval_label(m) for m in INTERVALS], ""), _intervals),
    "figure6": ("Training steps", _needs(_LENGTHS, SCORES), _lengths),
    "figure7": ("Weights of the inverse", _needs(("inverse", "dynamic"), ""), _inverse),
    "figure8": ("Gate-load distances to benchmarks", _needs(("dynamic",), BENCHMARK_LOAD), _benchmarks),
}
