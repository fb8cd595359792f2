"""Weights that never change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import MixingStrategy, MixtureState, Sources
from trainers.mixing.simplex import even, require_finite, softmax

PAPER = "Zhu et al. 2025, Dynamic Data Mixing (arXiv:2406.11256)"


@dataclass(frozen=True)
class Uniform(MixingStrategy):
    """Every source gets the same share."""

    name = "uniform"
    source = PAPER
    updates = False

    def init(self, sources: Sources) -> MixtureState:
        return MixtureState(even(len(sources.names)))


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
        for name, size in zip(sources.names, sources.sizes, strict=True):
            if size <= 0:
                raise MoemixError(f"the size is {size}, and `{self.name}` gives shares by size", where=f"source {name}")
        sizes_K = sources.sizes.astype(np.float64)
        return MixtureState(sizes_K / sizes_K.sum())


@dataclass(frozen=True)
class Temperature(DataSize):
    """Shares proportional to a root of the sources' sizes: small ones count for more than their size.

    w_i ∝ n_i^(1/T); T = 1 is ``datasize``, T → ∞ is ``uniform``.

    Attributes:
        temperature: T; 2 is the square root.
    """

    name = "temperature"
    source = "Arivazhagan et al. 2019 (arXiv:1907.05019), section 4.2: temperature-based sampling; T = 2 here, 5 there"

    temperature: float = 2.0

    def __post_init__(self) -> None:
        require_finite(self.temperature, "temperature.temperature", positive=True)

    def init(self, sources: Sources) -> MixtureState:
        return MixtureState(softmax(np.log(super().init(sources).weights) / self.temperature))


@dataclass(frozen=True)
class FinalStatic(MixingStrategy):
    """The last weights of a finished `dynamic` run, from the first step on."""

    name = "final_static"
    source = f"{PAPER}, table 2 (FinalStatic)"
    updates = False
    needs = "dynamic"

    def init(self, sources: Sources) -> MixtureState:
        return MixtureState(sources.need_reference(self.name).weights.copy())
