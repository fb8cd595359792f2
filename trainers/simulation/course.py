"""One strategy through one simulated world."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from trainers.mixing import MixingStrategy, MixtureState, Observation, Sources, load_strategy
from trainers.mixing.base import Floats, Ints, Reference
from trainers.simulation.ground import Ground
from trainers.simulation.observing import PROBE, Moment, Observer


@dataclass(frozen=True)
class Course:
    """What a strategy did.

    Attributes:
        steps: i64[U + 1], 0 and the ends of U stretches of training.
        weights: f64[U, K], in force during each stretch.
        learnt: f64[U + 1, M], what had been taught of each skill at ``steps``.
        state: the strategy's last.
        losses: f64[K], the sources' last training losses; nan where a source was never seen.
        seconds: spent in the strategy's own functions.
    """

    steps: Ints
    weights: Floats
    learnt: Floats
    state: MixtureState
    losses: Floats
    seconds: float


def follow(rule: MixingStrategy, ground: Ground, seed: tuple[int, ...]) -> Course:
    """Let a strategy choose the mix of a simulated training.

    A stretch between two updates draws its examples from the weights in force (of a strategy that scales the loss: even
    draws, each counted by its weight), adds what they teach, and is then observed.

    Args:
        seed: of draws and noise; the same for two strategies, both see the same world.

    Raises:
        MoemixError: the strategy asks for what the simulation does not have.
    """
    world, count = ground.world, len(ground.names)
    sources = Sources(ground.names, ground.sizes_K, steps=world.steps, seed=seed[-1])
    if rule.needs:
        before = follow(load_strategy(rule.needs), ground, seed)
        sources = replace(sources, reference=Reference(before.weights[-1], before.losses))
    clock = _Clock()
    state = clock(rule.init, sources)
    observer = Observer(ground, _evenly_taught(ground), seed)
    draws = np.random.default_rng([*seed, 10**6])
    learnt_M, drawn_K, losses_K = np.zeros(world.skills), np.zeros(count, np.int64), np.full(count, np.nan)
    if rule.at_start:
        seen = observer.see(rule.at_start, Moment(0.0, learnt_M, np.full(count, PROBE)))
        state = clock(rule.start, state, _observation(ground, 0, drawn_K, seen))
    interval = (rule.interval(sources) or world.interval) if rule.updates else world.interval
    ends = [*range(interval, world.steps, interval), world.steps]
    weights, learnt, begin = [], [learnt_M], 0
    for end in ends:
        weights.append(state.weights)
        scaled = rule.scales == "loss"
        chances_K = np.full(count, 1.0 / count) if scaled else state.weights / state.weights.sum()
        fresh_K = draws.multinomial((end - begin) * world.batch, chances_K)
        worth_K = fresh_K * state.weights if scaled else fresh_K
        worth_K = worth_K * ((end - begin) * world.batch / worth_K.sum())
        learnt_M = learnt_M + worth_K @ ground.teaching_KM((begin + end) / 2 / world.steps)
        drawn_K = drawn_K + fresh_K
        learnt.append(learnt_M)
        moment = Moment(end / world.steps, learnt_M, fresh_K)
        wanted = {*rule.signals, "train_loss"} if rule.updates else {"train_loss"}
        seen = observer.see(sorted(wanted), moment)
        losses_K = np.where(fresh_K > 0, seen["train_loss"], losses_K)
        if rule.updates and end < world.steps:
            shown = {signal: seen[signal] for signal in rule.signals}
            state = clock(rule.update, state, _observation(ground, end, drawn_K, shown))
        begin = end
    return Course(np.array([0, *ends]), np.array(weights), np.array(learnt), state, losses_K, clock.seconds)


def fixed_exposure(ground: Ground) -> Floats:
    """f64[K, M], what a whole training on each source alone would teach. Drift is linear, so its middle is its mean."""
    return ground.world.steps * ground.world.batch * ground.teaching_KM(0.5)


def _evenly_taught(ground: Ground) -> Floats:
    """The reference model: trained as long, on all sources alike."""
    return fixed_exposure(ground).mean(axis=0)


def _observation(ground: Ground, step: int, drawn_K: Ints, seen: dict) -> Observation:
    return Observation(step, ground.names, drawn_K, np.rint(drawn_K * ground.lengths_K).astype(np.int64), **seen)


class _Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function, *arguments):  # type: ignore[no-untyped-def]
        started = time.perf_counter()
        result = function(*arguments)
        self.seconds += time.perf_counter() - started
        return result
