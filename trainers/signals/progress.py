"""Learning progress: how fast the held-out loss of each source falls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainers.signals.base import SignalContext, Situation
from trainers.signals.losses import ProbeLoss


class LearningProgress(ProbeLoss):
    """f64[K], the fall of the held-out loss per training step since the last update, on the same examples each time.

    It is nan at the first update.
    """

    field = "learning_progress"

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the true falls with the held-out error."""
        return now.measured(now.progress)

    def __init__(self, context: SignalContext) -> None:
        super().__init__(context)
        self._last_K, self._step = np.full(len(context.sources), np.nan), np.array(0)

    def observe(self, step: int) -> NDArray[np.float64]:
        """Measure the held-out loss and compare it with the last one."""
        loss_K = super().observe(0)
        fall_K = (self._last_K - loss_K) / max(1, step - int(self._step))
        self._last_K, self._step = loss_K, np.array(step)
        return fall_K

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the last losses and their step."""
        return {"last": self._last_K, "step": self._step}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the last losses and their step."""
        self._last_K, self._step = arrays["last"], arrays["step"]
