"""Compare strategies in the same simulated worlds, with the best fixed mix as the yardstick."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from harness.errors import MoemixError
from harness.grid import Grid, Number, terminal_table
from harness.provenance import provenance
from harness.records import Provenance, Record
from harness.schema import Strict
from trainers.mixing import MixingStrategy, load_strategy
from trainers.mixing.base import Floats
from trainers.mixing.simplex import minimise
from trainers.simulation.training import SimulatedRun, simulate_run
from trainers.simulation.worlds import DrawnWorld, World

TOLERANCE = 1e-7  # of the objective, which is of order 1
NEW_SOURCES = 8


class Estimate(Strict):
    """A mean over repeats and its standard error, which is null if there was one repeat."""

    mean: float
    stderr: float | None


class SimulatedStrategy(Strict):
    """The results of one strategy. Losses and regrets are in nats, the unit of the objective."""

    label: str
    name: str
    options: dict[str, object]
    loss: Estimate = Field(description="the objective at the end of training")
    regret: Estimate = Field(description="loss minus that of the best fixed mix; drift can make it negative")
    regret_over_time: Estimate = Field(description="mean over training of the regret at each step")
    over_uniform: Estimate = Field(description="loss minus that of uniform in the same worlds")
    variation: Estimate = Field(description="mean total variation of an update, ½ Σ |w' − w|")
    effective_sources: Estimate = Field(description="exp(entropy) of the weights, mean over training")
    smallest_weight: float = Field(description="the smallest of any source at any time in any repeat")
    seconds: float = Field(description="time in the strategy's own functions, per repeat")
    steps: tuple[int, ...] = Field(description="0 and the end of each interval between updates")
    weights: tuple[tuple[float, ...], ...] = Field(description="the weights of each interval, in the first repeat")
    regrets: tuple[float, ...] = Field(description="regret at each step of steps, mean over repeats")


class BestMix(Strict):
    """The best fixed mix of a world; in a simulation, that of the first repeat."""

    weights: tuple[float, ...]
    loss: float
    gap: float = Field(description="no fixed mix has a loss below ``loss - gap``")


class Simulation(Record):
    """``simulation.json``: strategies in a simulated world."""

    world: World
    seed: int
    repeats: int
    names: tuple[str, ...] = Field(description="sources; weights follow this order")
    groups: tuple[int, ...] = Field(description="the group of each source")
    best: BestMix
    strategies: tuple[SimulatedStrategy, ...] = Field(description="sorted by regret, the least first")
    failed: dict[str, str] = Field(default_factory=dict, description="strategies that could not be simulated, and why")
    provenance: Provenance


def best_fixed(drawn: DrawnWorld) -> BestMix:
    """Return the fixed weights w that minimise the objective at the end of training.

    The objective is convex in the skills, which are linear in w, so a local minimum is the minimum. For its gradient g
    at any w, w·g − min g bounds how far the minimum can be below (the Frank–Wolfe gap). A best mix needs at most M + 1
    sources. So few are used at first, and those with the lowest gradient are added until the gap is closed.
    """
    exposure = drawn.exposure()
    count = len(exposure)

    def slopes(weights: Floats) -> Floats:
        return exposure @ (drawn.slope(weights @ exposure) * drawn.aim)

    def gap(weights: Floats) -> float:
        return float(weights @ slopes(weights) - slopes(weights).min())

    weights = np.full(count, 1.0 / count)
    chosen = np.zeros(0, np.int64)
    for _ in range(count + 1):
        new = np.setdiff1d(np.argsort(slopes(weights), kind="stable")[:NEW_SOURCES], chosen)
        if gap(weights) < TOLERANCE or (not new.size and len(chosen)):
            break
        chosen = np.union1d(chosen[weights[chosen] > 0], new)
        weights = np.zeros(count)
        weights[chosen] = _best_among(drawn, exposure[chosen])
    loss = drawn.objective(weights @ exposure)
    return BestMix(weights=tuple(weights.tolist()), loss=loss, gap=max(0.0, gap(weights)))


def _best_among(drawn: DrawnWorld, exposure: Floats) -> Floats:
    """Return the best weights of a few sources."""

    def value(weights: Floats) -> tuple[float, Floats]:
        learned = np.maximum(weights, 0) @ exposure
        return drawn.objective(learned), exposure @ (drawn.slope(learned) * drawn.aim)

    return minimise(value, np.full(len(exposure), 1.0 / len(exposure)), tolerance=1e-14)[0]


def compare(
    rules: dict[str, MixingStrategy], world: World, seed: int, repeats: int, on_run: Callable[[], None] = lambda: None
) -> Simulation:
    """Simulate every strategy in the same worlds. One that raises an error is recorded as failed, and harms no other.

    The seed is that of worlds, draws and noise; ``on_run`` is called after each simulated run.
    """
    seeds = [(seed, repeat) for repeat in range(repeats)]
    worlds = [DrawnWorld.draw(world, np.random.default_rng(each)) for each in seeds]
    bests = [best_fixed(drawn) for drawn in worlds]
    uniform = load_strategy("uniform")
    even = [simulate_run(uniform, drawn, each) for drawn, each in zip(worlds, seeds, strict=True)]
    found, failed = [], {}
    for label, rule in rules.items():
        try:
            runs = []
            for drawn, each in zip(worlds, seeds, strict=True):
                runs.append(simulate_run(rule, drawn, each))
                on_run()
            found.append(_summary(label, rule, worlds, bests, even, runs))
        except Exception as error:  # any error of a plug-in's code
            failed[label] = str(error) if isinstance(error, MoemixError) else f"{type(error).__name__}: {error}"
    return Simulation(
        world=world,
        seed=seed,
        repeats=repeats,
        names=worlds[0].names,
        groups=tuple(worlds[0].group.tolist()),
        best=bests[0],
        strategies=tuple(sorted(found, key=lambda each: (each.regret.mean, each.label))),
        failed=failed,
        provenance=provenance(),
    )


def regrets(drawn: DrawnWorld, best: BestMix, run: SimulatedRun) -> Floats:
    """Return the objective at each step of a run minus that of the best fixed mix at the same step, f64[U + 1]."""
    total = drawn.world.steps * drawn.world.batch
    excess = []
    for step, learned in zip(run.steps.tolist(), run.learned, strict=True):
        time = step / drawn.world.steps
        fixed = total * time * (np.array(best.weights) @ drawn.teaching(time / 2))
        excess.append(drawn.objective(learned) - drawn.objective(fixed))
    return np.array(excess)


def _summary(
    label: str,
    rule: MixingStrategy,
    worlds: Sequence[DrawnWorld],
    bests: Sequence[BestMix],
    even: Sequence[SimulatedRun],
    runs: Sequence[SimulatedRun],
) -> SimulatedStrategy:
    """Summarise one strategy. Shapes: R repeats, U intervals, K sources."""
    regret = np.array([regrets(*each) for each in zip(worlds, bests, runs, strict=True)])  # [R, U + 1]
    loss, even_loss = (
        np.array([drawn.objective(run.learned[-1]) for drawn, run in zip(worlds, each, strict=True)])
        for each in (runs, even)
    )
    spans = np.diff(runs[0].steps)
    weights = np.array([run.weights for run in runs])  # [R, U, K]
    variation = np.abs(np.diff(weights, axis=1)).sum(axis=2).mean(axis=1) / 2 if len(spans) > 1 else loss * 0
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=2)
    return SimulatedStrategy(
        label=label,
        name=rule.name,
        options=dataclasses.asdict(rule) if dataclasses.is_dataclass(rule) else {},
        loss=_estimate(loss),
        regret=_estimate(regret[:, -1]),
        regret_over_time=_estimate((regret[:, 1:] + regret[:, :-1]) @ spans / 2 / spans.sum()),
        over_uniform=_estimate(loss - even_loss),
        variation=_estimate(variation),
        effective_sources=_estimate(np.exp(entropy) @ spans / spans.sum()),
        smallest_weight=float(weights.min()),
        seconds=float(np.mean([run.seconds for run in runs])),
        steps=tuple(runs[0].steps.tolist()),
        weights=tuple(map(tuple, runs[0].weights.tolist())),
        regrets=tuple(regret.mean(axis=0).tolist()),
    )


def _estimate(values: Floats) -> Estimate:
    count = len(values)
    stderr = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else None
    return Estimate(mean=float(values.mean()), stderr=stderr)


def table(simulation: Simulation) -> str:
    """Return a table for a terminal: one row per strategy, the least regret first, and the world below."""
    header = (
        "strategy",
        "final regret",
        "vs uniform",
        "mean regret",
        "variation",
        "eff. sources",
        "min weight",
        "ms/update",
    )
    rows = [
        [
            each.label,
            *(_thousandths(estimate) for estimate in (each.regret, each.over_uniform, each.regret_over_time)),
            f"{each.variation.mean:.4f}",
            f"{each.effective_sources.mean:.2f}",
            f"{each.smallest_weight:.1g}",
            f"{1000 * each.seconds / max(1, len(each.steps) - 2):.2f}",
        ]
        for each in simulation.strategies
    ]
    best = simulation.best
    return (
        f"{terminal_table(Grid(header, rows))}\n\nWorld {world_text(simulation)}. Regrets are in thousandths of a nat ±"
        f" standard error over the repeats.\nBest fixed mix of the first repeat: loss {best.loss:.4f} (no fixed mix is"
        f" lower by more than {best.gap:.1g}); {_mix(simulation)}."
    )


def world_text(simulation: Simulation) -> str:
    """Describe the world of a simulation in one line."""
    world = simulation.world
    if world.measured:
        known = f"{', '.join(simulation.names)}, fitted to trained models, noise {world.noise:.3g}"
    else:
        known = (
            f"{len(simulation.names)} sources in {len(world.groups)} groups, redundancy {world.redundancy:g}, drift"
            f" {world.drift:g}, noise {world.noise:g}, routing {world.routing:.3g}"
        )
    kept, profile = f"routing_kept {world.routing_kept:.2g}", "" if world.measured else f", profile {world.profile:g}"
    return (
        f"{world.name}: {known}, {kept}{profile}; {world.steps} steps of {world.batch} examples, updates every"
        f" {world.interval}; seed {simulation.seed}, {simulation.repeats} repeats"
    )


def _thousandths(estimate: Estimate) -> str:
    error = None if estimate.stderr is None else 1000 * estimate.stderr
    return str(Number(1000 * estimate.mean, error, decimals=1, signed=True))


def _mix(simulation: Simulation) -> str:
    """Return the sources of the best fixed mix with their shares, the largest first."""
    pairs = sorted(zip(simulation.best.weights, simulation.names, strict=True), key=lambda pair: -pair[0])
    shown = [f"{name} {weight:.2f}" for weight, name in pairs if weight >= 0.005]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
