"""Weights that somebody chose: a person, or a proposal fitted on proxy runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.errors import MoemixError, unknown
from trainers.mixing.base import MixingStrategy, MixtureState, Sources

_TOLERANCE = 1e-3  # of the sum: weights are written with a few digits


@dataclass(frozen=True)
class Static(MixingStrategy):
    """The weights that the recipe gives; sources it does not name share evenly what is left of 1.

    Attributes:
        weights: source name → share, zero if it is not to be drawn at all.
    """

    name = "static"
    source = "weights of one's own, or of `moemix propose`"
    updates = False
    may_vanish = True

    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not (np.isfinite(weight) and weight >= 0):
                raise MoemixError(f"{weight} is no share", where=f"static.weights.{name}")

    def init(self, sources: Sources) -> MixtureState:
        for name in self.weights:
            if name not in sources.names:
                raise unknown("source", name, sources.names, where="static.weights")
        unnamed = [name for name in sources.names if name not in self.weights]
        rest = 1.0 - sum(self.weights.values())
        if rest < -_TOLERANCE or (not unnamed and rest > _TOLERANCE):
            hint = None if unnamed else "they must sum to 1 if every source is named"
            raise MoemixError(f"the weights sum to {1.0 - rest:.4g}", where="static.weights", hint=hint)
        even = max(0.0, rest) / max(1, len(unnamed))
        weights_K = np.array([self.weights.get(name, even) for name in sources.names], dtype=np.float64)
        return MixtureState(weights_K / weights_K.sum())
