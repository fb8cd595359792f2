"""Weights that change with time alone: random weights, and one source after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import check_options, even, normalised
from trainers.mixing.static import PAPER


@dataclass(frozen=True)
class Random(MixingStrategy):
    """New random weights at every update.

    w = u / Σu with u_i uniform on (0, 1], drawn from (the run's seed, ``seed``, step): a resumed run draws the same
    weights. Weights are even before the first update.

    Attributes:
        seed: another value gives other weights under the same run seed.
    """

    name = "random"
    source = f"{PAPER}, table 1 (Random)"
    positional = True

    seed: int = 0

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights, and remember the run's seed."""
        return MixtureState(even(len(sources.names)), {"run_seed": np.array(sources.seed)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Return the random weights of this step."""
        entropy = [int(state.memory["run_seed"]) % 2**64, self.seed % 2**64, seen.step]
        noise = 1.0 - np.random.default_rng(entropy).random(len(seen.names))
        return MixtureState(normalised(noise), state.memory)


@dataclass(frozen=True)
class Sequential(MixingStrategy):
    """One source after the other, in the order of their names.

    One source has nearly all weight, and every other one 1e-5 of it. After ``steps / K`` steps (500 of the paper's
    2,000) the next source follows. The strategy sets these turns itself, whatever the recipe's update interval is.

    Attributes:
        every: steps per source; None for an equal part of the run.
        rest: the weight of every other source, relative to the one whose turn it is.
    """

    name = "sequential"
    source = f"{PAPER}, table 1 (Sequential)"
    concentrates = True
    positional = True

    every: int | None = None
    rest: float = 1e-5

    def __post_init__(self) -> None:
        check_options(self, every="at least 1", rest="positive")
        if self.rest >= 1:
            raise MoemixError(f"rest is {self.rest}; it must be below 1", where="sequential.rest")

    def interval(self, sources: Sources) -> int | None:
        """Return the steps per source; None if neither ``every`` nor the length of the run is known."""
        return self.every or -(-sources.steps // len(sources.names)) or None

    def init(self, sources: Sources) -> MixtureState:
        """Return the weights of the first source's turn."""
        return MixtureState(self._turn(0, len(sources.names)), {"every": np.array(self.interval(sources) or 0)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Return the weights of the turn that this step belongs to."""
        every = int(state.memory["every"])
        current = int(state.weights.argmax())
        turn = seen.step // every if every else current + 1  # if the length is unknown, each update begins a turn
        return MixtureState(self._turn(turn, len(seen.names)), state.memory)

    def _turn(self, number: int, count: int) -> Floats:
        weights = np.full(count, self.rest)
        weights[number % count] = 1.0
        return normalised(weights)
