"""Weights that need no measurement: fixed ones, random ones, and one source after another."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.errors import MoemixError, unknown
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import check_options, even, normalised, softmax

PAPER = "Zhu et al. 2025, Dynamic Data Mixing (arXiv:2406.11256)"
_TOLERANCE = 1e-3  # of the sum of weights, which are written with a few digits


@dataclass(frozen=True)
class Uniform(MixingStrategy):
    """Every source gets the same share."""

    name = "uniform"
    source = PAPER
    updates = False


@dataclass(frozen=True)
class Nothing(Uniform):
    """The base checkpoint as it is, evaluated without instruction tuning."""

    name = "none"
    trains = False


@dataclass(frozen=True)
class DataSize(MixingStrategy):
    """Shares proportional to the sources' original sizes in examples."""

    name = "datasize"
    source = PAPER
    updates = False

    def init(self, sources: Sources) -> MixtureState:
        """Return weights proportional to the sizes.

        Raises:
            MoemixError: a source has no size.
        """
        for name, size in zip(sources.names, sources.sizes, strict=True):
            if size <= 0:
                raise MoemixError(f"the size is {size}, and `{self.name}` gives shares by size", where=f"source {name}")
        sizes = sources.sizes.astype(np.float64)
        return MixtureState(normalised(sizes))


@dataclass(frozen=True)
class Temperature(DataSize):
    """Shares proportional to a root of the sources' sizes: small sources get more than their size.

    w_i ∝ n_i^(1/T). T = 1 is ``datasize``, T → ∞ is ``uniform``.

    Attributes:
        temperature: T; 2 is the square root.
    """

    name = "temperature"
    source = "Arivazhagan et al. 2019 (arXiv:1907.05019), section 4.2: temperature-based sampling; T = 2 here, 5 there"

    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_options(self, temperature="positive")

    def init(self, sources: Sources) -> MixtureState:
        """Return weights proportional to a root of the sizes."""
        return MixtureState(softmax(np.log(super().init(sources).weights) / self.temperature))


@dataclass(frozen=True)
class Static(MixingStrategy):
    """The weights that the recipe gives; sources that it does not name share the rest evenly.

    Attributes:
        weights: source name → share; 0 if the source is not to be drawn at all.
    """

    name = "static"
    source = "weights chosen by a person, or by `moemix propose`"
    updates = False
    may_vanish = True

    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not (np.isfinite(weight) and weight >= 0):
                raise MoemixError(f"weight must be finite and >= 0, got {weight}", where=f"static.weights.{name}")

    def init(self, sources: Sources) -> MixtureState:
        """Return the given weights, normalised.

        Raises:
            MoemixError: a source is unknown, or the weights do not sum to 1.
        """
        for name in self.weights:
            if name not in sources.names:
                raise unknown("source", name, sources.names, where="static.weights")
        unnamed = [name for name in sources.names if name not in self.weights]
        rest = 1.0 - sum(self.weights.values())
        if rest < -_TOLERANCE or (not unnamed and rest > _TOLERANCE):
            hint = None if unnamed else "they must sum to 1 if every source is named"
            raise MoemixError(f"the weights sum to {1.0 - rest:.4g}", where="static.weights", hint=hint)
        share = max(0.0, rest) / max(1, len(unnamed))
        weights = np.array([self.weights.get(name, share) for name in sources.names], dtype=np.float64)
        return MixtureState(normalised(weights))


@dataclass(frozen=True)
class FinalStatic(MixingStrategy):
    """The last weights of a finished `dynamic` run, from the first step on."""

    name = "final_static"
    source = f"{PAPER}, table 2 (FinalStatic)"
    updates = False
    needs = "dynamic"

    def init(self, sources: Sources) -> MixtureState:
        """Return the last weights of the finished run."""
        return MixtureState(sources.need_reference(self.name).weights.copy())


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
