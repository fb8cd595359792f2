"""One strategy in one simulated world, with signals whose values are invented from the true state of the world."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ParamSpec

import numpy as np

from trainers.mixing import MixingStrategy, MixtureState, Observation, Sources, load_strategy
from trainers.mixing.base import Array, Floats, Ints, Reference
from trainers.mixing.guard import guarded
from trainers.plugins import SIGNALS, random_streams, situation
from trainers.simulation.worlds import DrawnWorld

P = ParamSpec("P")
TARGETS = ("objective",)  # the target set of every world
PROBE = 100  # examples per source that held-out signals are averages of
SKETCH, EMBEDDING = 64, 32  # dimensions of gradients and embeddings


@dataclass(frozen=True)
class SimulatedRun:
    """The result of one strategy in one world, with U intervals between updates.

    Attributes:
        steps: i64[U + 1], 0 and the end of each interval.
        weights: f64[U, K], the weights of each interval.
        learned: f64[U + 1, M], what had been taught of each skill at ``steps``.
        state: the strategy's last state.
        losses: f64[K], the sources' last training losses; nan where a source was never seen.
        seconds: time spent in the strategy's own functions.
    """

    steps: Ints
    weights: Floats
    learned: Floats
    state: MixtureState
    losses: Floats
    seconds: float


def simulate_run(rule: MixingStrategy, drawn: DrawnWorld, seed: tuple[int, ...]) -> SimulatedRun:
    """Let a strategy choose the mix of a simulated training.

    Each interval between two updates draws its examples by the current weights, adds what they teach, and is then
    observed. If the strategy scales the loss, draws are even, and each example counts by its weight. With the same
    seed, that of draws and noise, two strategies see the same noise.

    Raises:
        MoemixError: the strategy needs a signal that the simulation does not have.
    """
    world, count = drawn.world, len(drawn.names)
    sources = Sources(drawn.names, drawn.sizes, steps=world.steps, seed=seed[-1], targets=TARGETS)
    for field in sorted(rule.signals | rule.at_start):
        SIGNALS.find(field)  # an unknown signal is an error before anything is simulated
    if rule.needs:
        before = simulate_run(load_strategy(rule.needs), drawn, seed)
        sources = replace(sources, reference=Reference(before.weights[-1], before.losses))
    clock = _Clock(count)
    state = clock(rule.init, sources)
    observer = Observer(
        drawn, drawn.exposure().mean(axis=0), seed
    )  # the reference model learned from all sources alike
    draws = np.random.default_rng([*seed, 10**6])
    learned, total, losses = np.zeros(world.skills), np.zeros(count, np.int64), np.full(count, np.nan)
    if rule.at_start:
        seen = observer.observe(rule.at_start, Snapshot(0.0, learned, np.full(count, PROBE)))
        state = clock(rule.start, state, _observation(drawn, 0, total, seen))
    interval = (rule.interval(sources) or world.interval) if rule.updates else world.interval
    ends = [*range(interval, world.steps, interval), world.steps]
    all_weights, all_learned, begin = [], [learned], 0
    for end in ends:
        all_weights.append(state.weights)
        examples, scaled = (end - begin) * world.batch, rule.scales == "loss"
        chances = np.full(count, 1.0 / count) if scaled else state.weights / state.weights.sum()
        fresh = draws.multinomial(examples, chances)
        worth = fresh * state.weights if scaled else fresh
        learned = learned + (worth * (examples / worth.sum())) @ drawn.teaching((begin + end) / 2 / world.steps)
        total = total + fresh
        all_learned.append(learned)
        signals = {*rule.signals, "train_loss"} if rule.updates else {"train_loss"}
        seen = observer.observe(sorted(signals), Snapshot(end / world.steps, learned, fresh))
        losses = np.where(fresh > 0, seen["train_loss"], losses)
        if rule.updates and end < world.steps:
            shown = {signal: seen[signal] for signal in rule.signals}
            state = clock(rule.update, state, _observation(drawn, end, total, shown))
        begin = end
    steps = np.array([0, *ends])
    return SimulatedRun(steps, np.array(all_weights), np.array(all_learned), state, losses, clock.seconds)


def _observation(drawn: DrawnWorld, step: int, total: Ints, seen: dict[str, Array]) -> Observation:
    return Observation(step, drawn.names, total, np.rint(total * drawn.lengths).astype(np.int64), TARGETS, **seen)


class _Clock:
    """Calls a strategy's functions under the guard, and sums the time that they take."""

    def __init__(self, sources: int) -> None:
        self.sources, self.seconds = sources, 0.0

    def __call__(self, function: Callable[P, MixtureState], *args: P.args, **kwargs: P.kwargs) -> MixtureState:
        started = time.perf_counter()
        result = guarded(self.sources, function, *args, **kwargs)
        self.seconds += time.perf_counter() - started
        return result


# --- what is observed -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """The state of a training when it is observed.

    Attributes:
        time: 0 at the start, 1 at the end.
        learned: f64[M], the examples that have taught each skill.
        drawn: i64[K], the examples of each source since the last update; before the first step, those of a probe.
    """

    time: float
    learned: Floats
    drawn: Ints


class Observer:
    """Draws signals. Every signal has its own random stream, so that all strategies see the same noise.

    Args:
        world: the world that is observed.
        reference: f64[M], the skills of the reference model.
        seed: the seed of the noise.
    """

    def __init__(self, world: DrawnWorld, reference: Floats, seed: Iterable[int]) -> None:
        self._world, self._seed = world, tuple(seed)
        self._reference = world.skill_loss(reference)
        self._streams: dict[str, np.random.Generator] = {}
        self._before = 0.0, world.teaching(0.0) @ world.skill_loss(np.zeros(world.world.skills))  # time, losses
        fixed, skills = np.random.default_rng([*self._seed, 0]), world.world.skills
        self._meaning = fixed.normal(size=(skills, EMBEDDING)) / np.sqrt(EMBEDDING)
        self._direction = fixed.normal(size=(skills, SKETCH)) / np.sqrt(SKETCH)

    def observe(self, signals: Iterable[str], now: Snapshot) -> dict[str, Array]:
        """Return the signals by name.

        Raises:
            MoemixError: there is no such signal, or it does not say how to invent values.
        """
        world, teaching = self._world, self._world.teaching(now.time)
        strength = -world.slope(now.learned) * world.scale
        loss = teaching @ world.skill_loss(now.learned)
        steps = max(1.0, (now.time - self._before[0]) * world.world.steps)
        progress = (self._before[1] - loss) / steps
        self._before = now.time, loss
        true = {
            "drawn": now.drawn,
            "lengths": world.lengths,
            "held_out": PROBE,
            "noise": world.world.noise,
            "loss": loss,
            "progress": progress,
            "reference_loss": teaching @ self._reference,
            "load": (teaching @ world.routing_at(now.time)).transpose(1, 0, 2),
            "meaning": world.first @ self._meaning,
            "gradient": (teaching * strength) @ self._direction,
            # The one target set is what the objective counts.
            "target_loss": np.array([world.objective(now.learned)]),
            "target_gradient": ((strength * world.aim) @ self._direction)[None],
        }
        found = {}
        for field in signals:
            own, constant = random_streams(field, *self._seed)
            own = self._streams.setdefault(field, own)  # it goes on from one observation to the next
            found[field] = SIGNALS.find(field).invent(situation(own, constant, **true))
        return found
