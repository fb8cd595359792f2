"""Sums over sources: what a stretch of training drew, trained on, and lost."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass
class Tally:
    """Sums over the K sources, of one step or of many, in the order of the sources' names.

    Attributes:
        examples: i64[K], examples drawn.
        tokens: i64[K], tokens trained on, padding excluded.
        targets: i64[K], of these, tokens that carried a loss.
        losses: f64[K], the sum of their losses.
    """

    examples: NDArray[np.int64]
    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    losses: NDArray[np.float64]

    @classmethod
    def empty(cls, num_sources: int) -> Tally:
        examples, tokens, targets = np.zeros((3, num_sources), dtype=np.int64)
        return cls(examples, tokens, targets, np.zeros(num_sources))

    def add(self, other: Tally) -> None:
        for mine, theirs in zip(self.arrays().values(), other.arrays().values(), strict=True):
            mine += theirs

    def clear(self) -> None:
        for array in self.arrays().values():
            array.fill(0)

    @property
    def loss(self) -> float:
        """Mean loss per target token over all sources; nan if there was none."""
        targets = int(self.targets.sum())
        return float(self.losses.sum()) / targets if targets else float("nan")

    @property
    def source_loss(self) -> NDArray[np.float64]:
        """f64[K], mean loss per target token; nan where a source was not seen."""
        unseen = np.full(len(self.losses), np.nan)
        return np.divide(self.losses, self.targets, out=unseen, where=self.targets > 0)

    def arrays(self) -> dict[str, NDArray]:
        """The fields by name, to be stored; ``Tally(**arrays)`` is the way back."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
