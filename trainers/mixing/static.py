"""Weights that never change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import MixingStrategy, MixtureState, Sources

PAPER = "Zhu et al. 2025, Dynamic Data Mixing (arXiv:2406.11256)"


@dataclass(frozen=True)
class Uniform(MixingStrategy):
    """Every source gets the same share."""

    name = "uniform"
    source = PAPER
    updates = False

    def init(self, sources: Sources) -> MixtureState:
        count = len(sources.names)
        return MixtureState(np.full(count, 1.0 / count))


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
                raise MoemixError(f"the size is {size}, and `datasize` gives shares by size", where=f"source {name}")
        sizes_K = sources.sizes.astype(np.float64)
        return MixtureState(sizes_K / sizes_K.sum())
