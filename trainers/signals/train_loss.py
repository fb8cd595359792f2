"""The training loss of each source since the last update: free, the loop computes it anyway."""

from __future__ import annotations

from numpy.typing import NDArray

from trainers.signals.base import Signal
from trainers.training.tally import Tally


class TrainLoss(Signal):
    """f64[K], mean loss per target token since the last update; nan where a source was not seen."""

    field = "train_loss"

    def __init__(self, num_sources: int) -> None:
        self._seen = Tally.empty(num_sources)

    def add(self, step: Tally) -> None:
        self._seen.add(step)

    def observe(self, step: int) -> NDArray:
        loss_K = self._seen.source_loss
        self._seen.clear()
        return loss_K

    def arrays(self) -> dict[str, NDArray]:
        return self._seen.arrays()

    def restore(self, arrays: dict[str, NDArray]) -> None:
        self._seen = Tally(**arrays)
