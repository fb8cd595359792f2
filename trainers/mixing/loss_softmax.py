"""The plainest rule of all: what is hard is drawn more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import even, filled, last_known, require_finite, require_share, softmax


@dataclass(frozen=True)
class LossSoftmax(MixingStrategy):
    """Shares by a softmax of the training loss since the last update: w = softmax(loss / T).

    A source that was not seen keeps its last known loss; one never seen takes the mean of the others.

    Attributes:
        temperature: T; the larger, the more even.
        c: share of the weights that is spread evenly.
    """

    name = "loss_softmax"
    signals = frozenset({"train_loss"})
    source = "a common baseline of the field, of no one paper: softmax of mean losses"

    temperature: float = 1.0
    c: float = 0.0

    def __post_init__(self) -> None:
        require_finite(self.temperature, "loss_softmax.temperature", positive=True)
        require_share(self.c, "loss_softmax.c")

    def init(self, sources: Sources) -> MixtureState:
        count = len(sources.names)
        return MixtureState(even(count), {"loss": np.full(count, np.nan)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        loss_K = last_known(seen.need("train_loss"), state.memory["loss"])
        return MixtureState(softmax(filled(loss_K) / self.temperature, self.c), {"loss": loss_K})
