"""Weights that change with time alone: noise, and one source after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import even, require_finite
from trainers.mixing.static import PAPER


@dataclass(frozen=True)
class Random(MixingStrategy):
    """New weights from uniform noise at every update.

    w = u / Σu with u_i uniform on (0, 1], drawn anew from (the run's seed, ``seed``, step): the same run draws the
    same noise wherever it is resumed. Even weights before the first update.

    Attributes:
        seed: for another course of noise under the same run seed.
    """

    name = "random"
    source = f"{PAPER}, table 1 (Random)"
    positional = True

    seed: int = 0

    def init(self, sources: Sources) -> MixtureState:
        return MixtureState(even(len(sources.names)), {"run_seed": np.array(sources.seed)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        entropy = [int(state.memory["run_seed"]) % 2**64, self.seed % 2**64, seen.step]
        noise_K = 1.0 - np.random.default_rng(entropy).random(len(seen.names))
        return MixtureState(noise_K / noise_K.sum(), state.memory)


@dataclass(frozen=True)
class Sequential(MixingStrategy):
    """One source after the other, in the order of their names.

    All weight lies on one source and 1e-5 on each other one; after ``steps / K`` steps (500 of the paper's 2,000) the
    next one follows. The rhythm is the strategy's own, whatever the recipe's update interval.

    Attributes:
        every: steps on one source; none for an equal part of the run.
        rest: weight of each source whose turn it is not.
    """

    name = "sequential"
    source = f"{PAPER}, table 1 (Sequential)"
    concentrates = True
    positional = True

    every: int | None = None
    rest: float = 1e-5

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise MoemixError(f"every is {self.every}; a turn takes at least one step", where="sequential.every")
        require_finite(self.rest, "sequential.rest", positive=True)
        if self.rest >= 1:
            raise MoemixError(f"rest is {self.rest}; it is the small share of each other source", where=self.name)

    def interval(self, sources: Sources) -> int | None:
        return self.every or -(-sources.steps // len(sources.names)) or None

    def init(self, sources: Sources) -> MixtureState:
        return MixtureState(self._turn(0, len(sources.names)), {"every": np.array(self.interval(sources) or 0)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        every = int(state.memory["every"])
        current = int(state.weights.argmax())
        turn = seen.step // every if every else current + 1  # without a known length: on at every update
        return MixtureState(self._turn(turn, len(seen.names)), state.memory)

    def _turn(self, number: int, count: int) -> np.ndarray:
        weights_K = np.full(count, self.rest)
        weights_K[number % count] = 1.0
        return weights_K / weights_K.sum()
