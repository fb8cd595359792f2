"""Strategies in the same simulated worlds, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from tabulate import tabulate

from harness.provenance import provenance
from trainers.mixing import MixingStrategy, load_strategy
from trainers.mixing.base import Floats
from trainers.simulation.best import Best, best_fixed
from trainers.simulation.course import Course, fixed_exposure, follow
from trainers.simulation.ground import Ground
from trainers.simulation.records import BestMix, Estimate, SimulatedStrategy, Simulation
from trainers.simulation.worlds import World


def compare(
    rules: dict[str, MixingStrategy], world: World, seed: int, repeats: int, shown: Callable[[], None] = lambda: None
) -> Simulation:
    """Every strategy in the same ``repeats`` worlds.

    Args:
        rules: label → strategy.
        shown: called after each strategy's course through a world.
    """
    seeds = [(seed, repeat) for repeat in range(repeats)]
    grounds = [Ground.draw(world, np.random.default_rng(each)) for each in seeds]
    bests = [best_fixed(ground, fixed_exposure(ground)) for ground in grounds]
    uniform = load_strategy("uniform")
    even = [follow(uniform, ground, each) for ground, each in zip(grounds, seeds, strict=True)]
    found = []
    for label, rule in rules.items():
        courses = []
        for ground, each in zip(grounds, seeds, strict=True):
            courses.append(follow(rule, ground, each))
            shown()
        found.append(_summary(label, rule, grounds, bests, even, courses))
    first = bests[0]
    return Simulation(
        world=world,
        seed=seed,
        repeats=repeats,
        names=grounds[0].names,
        groups=tuple(grounds[0].group_K.tolist()),
        best=BestMix(weights=tuple(first.weights.tolist()), loss=first.loss, gap=first.gap),
        strategies=tuple(sorted(found, key=lambda each: (each.regret.mean, each.label))),
        provenance=provenance(),
    )


def regrets(ground: Ground, best: Best, course: Course) -> Floats:
    """f64[U + 1], the objective at each step of a course above that of the best fixed mix at the same step."""
    total = ground.world.steps * ground.world.batch
    excess = []
    for step, learnt_M in zip(course.steps.tolist(), course.learnt, strict=True):
        time = step / ground.world.steps
        fixed_M = total * time * (best.weights @ ground.teaching_KM(time / 2))
        excess.append(ground.objective(learnt_M) - ground.objective(fixed_M))
    return np.array(excess)


def _summary(
    label: str,
    rule: MixingStrategy,
    grounds: Sequence[Ground],
    bests: Sequence[Best],
    even: Sequence[Course],
    courses: Sequence[Course],
) -> SimulatedStrategy:
    regret_RU = np.array([regrets(*each) for each in zip(grounds, bests, courses, strict=True)])
    loss_R, even_R = (
        np.array([ground.objective(course.learnt[-1]) for ground, course in zip(grounds, each, strict=True)])
        for each in (courses, even)
    )
    spans_U = np.diff(courses[0].steps)
    weights_RUK = np.array([course.weights for course in courses])
    variation_R = np.abs(np.diff(weights_RUK, axis=1)).sum(axis=2).mean(axis=1) / 2 if len(spans_U) > 1 else loss_R * 0
    entropy_RU = -(weights_RUK * np.log(np.maximum(weights_RUK, 1e-300))).sum(axis=2)
    return SimulatedStrategy(
        label=label,
        name=rule.name,
        options=dataclasses.asdict(rule),  # type: ignore[call-overload]
        loss=_estimate(loss_R),
        regret=_estimate(regret_RU[:, -1]),
        regret_over_time=_estimate((regret_RU[:, 1:] + regret_RU[:, :-1]) @ spans_U / 2 / spans_U.sum()),
        over_uniform=_estimate(loss_R - even_R),
        variation=_estimate(variation_R),
        effective_sources=_estimate(np.exp(entropy_RU) @ spans_U / spans_U.sum()),
        smallest_weight=float(weights_RUK.min()),
        seconds=float(np.mean([course.seconds for course in courses])),
        steps=tuple(courses[0].steps.tolist()),
        weights=tuple(map(tuple, courses[0].weights.tolist())),
        regrets=tuple(regret_RU.mean(axis=0).tolist()),
    )


def _estimate(values_R: Floats) -> Estimate:
    count = len(values_R)
    stderr = float(values_R.std(ddof=1) / np.sqrt(count)) if count > 1 else None
    return Estimate(mean=float(values_R.mean()), stderr=stderr)


def table(simulation: Simulation) -> str:
    """For a terminal: one row a strategy, the least regret first."""
    rows = [
        (
            each.label,
            _milli(each.regret),
            _milli(each.over_uniform),
            _milli(each.regret_over_time),
            f"{each.variation.mean:.4f}",
            f"{each.effective_sources.mean:.2f}",
            f"{each.smallest_weight:.1g}",
            f"{1000 * each.seconds / max(1, len(each.steps) - 2):.2f}",
        )
        for each in simulation.strategies
    ]
    headers = (
        "strategy",
        "regret at the end",
        "loss − uniform's",
        "regret over time",
        "variation per update",
        "effective sources",
        "smallest weight",
        "ms per update",
    )
    world, best = simulation.world, simulation.best
    told = (
        f"World {world.name}: {len(simulation.names)} sources in {len(world.groups)} groups, redundancy"
        f" {world.redundancy:g}, drift {world.drift:g}, noise {world.noise:g}; {world.steps} steps of {world.batch}"
        f" examples; seed {simulation.seed}, {simulation.repeats} repeats. Losses and regrets in thousandths of a nat"
        f" ± standard error over the repeats.\nBest fixed mix of the first repeat: loss {best.loss:.4f}"
        f" (none is lower by more than {best.gap:.1g}); {_mix(simulation)}."
    )
    wrapped = [header.replace(" ", "\n", 1) for header in headers]
    return tabulate(rows, headers=wrapped, tablefmt="simple", disable_numparse=True) + "\n\n" + told


def _milli(estimate: Estimate) -> str:
    error = "" if estimate.stderr is None else f" ± {1000 * estimate.stderr:.1f}"
    return f"{1000 * estimate.mean:+.1f}{error}"


def _mix(simulation: Simulation) -> str:
    """The sources of the best fixed mix with their shares, the largest first."""
    weights = simulation.best.weights
    order = sorted(range(len(weights)), key=lambda k: -weights[k])
    largest = [f"{simulation.names[k]} {weights[k]:.2f}" for k in order[:8] if weights[k] >= 0.005]
    rest = sum(1 for weight in weights if weight >= 0.005) - len(largest)
    return ", ".join(largest) + (f" and {rest} more" if rest > 0 else "")
