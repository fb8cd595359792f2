"""Weights that are known before training and never change."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.errors import MoemixError, unknown
from trainers.mixing.base import MixingStrategy, MixtureState, Sources
from trainers.mixing.simplex import check_options, normalised, softmax

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
