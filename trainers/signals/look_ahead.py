"""What one more step on a source would do: a trial step, taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainers.signals.base import Signal, Situation
from trainers.signals.losses import ProbeLoss, example_losses

if TYPE_CHECKING:
    from trainers.data import Example

_STEPS = 3
_SMALL = 1e-8  # of divisions


class LookAhead(Signal):
    """f64[K], the relative fall of the loss of a batch of each source by one trial step on that very batch.

    It is the mean over examples of (loss before − loss after) / loss before. A batch is ``mixing.probe_batches`` ×
    ``mixing.probe_batch_size`` training examples of the source, drawn for each update.
    """

    field = "look_ahead"
    cost = "a training step on each source, taken back, and two forward passes; a copy of weights and optimizer"
    sees = frozenset({"trial steps"})

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the true progress as a share of the loss, with the held-out error."""
        return now.measured(now.progress / np.maximum(now.loss, _SMALL))

    def observe(self, step: int) -> NDArray[np.float64]:
        """Try one step on each source."""
        fall_K = np.full(len(self._context.sources), np.nan)
        for k in range(len(fall_K)):
            (batch,) = self._context.trial_batches(k, step, 1)
            before = self._losses(batch)
            with self._context.tried(step, [batch], self.field):
                after = self._losses(batch)
            fall_K[k] = np.mean((before - after) / (before + _SMALL))
        return fall_K

    def _losses(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        context = self._context
        total, targets = example_losses(context.losses, examples, context.layout, context.ranks)
        mean: NDArray[np.float64] = total / np.maximum(targets, 1)
        return mean


class TrialFall(ProbeLoss):
    """f64[K, K], the fall of each source's held-out loss (columns) per trial step on one source alone (rows).

    Three steps are tried on each source.
    """

    field = "trial_fall"
    shape = "f64[K, K]"
    cost = (
        "three training steps on each source, taken back, K + 1 passes over the probe; a copy of weights and optimizer"
    )
    sees = frozenset({"held-out examples", "trial steps"})
    axes = (0, 1)

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return what the true gradients promise: the inner product of two sources', scaled to the true progress."""
        product = now.gradient @ now.gradient.T
        fall: NDArray[np.float64] = product * (now.progress.mean() / max(float(product.mean()), 1e-300))
        error: float = now.noise / now.held_out**0.5 * float(np.abs(fall).mean())
        return fall + error * now.rng.normal(size=fall.shape)

    def observe(self, step: int) -> NDArray[np.float64]:
        """Try a few steps on each source."""
        before_K, falls = super().observe(step), []
        for k in range(len(before_K)):
            batches = self._context.trial_batches(k, step, _STEPS)
            with self._context.tried(step, batches, self.field):
                falls.append((before_K - super().observe(step)) / _STEPS)
        falls_KK: NDArray[np.float64] = np.stack(falls)
        return falls_KK
