"""Losses of each source: in training, held out, of a reference model, and how far the model lies above the reference.

The training loss costs nothing, as the loop computes it anyway. Held-out losses cost forward passes over
``mixing.probe_batches`` × ``mixing.probe_batch_size`` held-out examples of each source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainers.signals.base import Probe, Signal, SignalContext, Situation, evaluating

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainers.data import Example
    from trainers.data.batches import Forward, Layout, Tally
    from trainers.models.loss import TargetLosses
    from trainers.parallel.ranks import Ranks


class TrainLoss(Signal):
    """f64[K], the mean loss per target token since the last update; nan where a source was not seen."""

    field = "train_loss"
    cost = "nothing"
    sees = frozenset({"training batch"})

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the true losses with the error of the examples drawn; nan where there were none."""
        loss = now.measured(now.loss, now.drawn)
        loss[now.drawn == 0] = np.nan
        return loss

    def __init__(self, context: SignalContext) -> None:
        from trainers.data.batches import Tally

        super().__init__(context)
        self._seen = Tally.empty(len(context.sources))

    def add(self, step: Tally) -> None:
        """Add the step's sums."""
        self._seen.add(step)

    def observe(self, step: int) -> NDArray[np.float64]:
        """Return the mean losses and start from zero."""
        loss_K = self._seen.source_loss
        self._seen.clear()
        return loss_K

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the sums since the last update."""
        return self._seen.arrays()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the sums."""
        from trainers.data.batches import Tally

        self._seen = Tally(**arrays)


class ProbeLoss(Signal):
    """f64[K], the mean held-out loss per target token of the model in training."""

    field = "probe_loss"

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the true losses with the error of the held-out examples."""
        return now.measured(now.loss)

    def __init__(self, context: SignalContext) -> None:
        super().__init__(context)
        self._probe = context.probe(self.field)

    def observe(self, step: int) -> NDArray[np.float64]:
        """Run the model on held-out examples."""
        with evaluating(self._context.losses):
            return self._mean(step, lambda batch: each_loss(self._context.losses, batch))

    def _mean(self, step: int, each: Callable[[Forward], Tensor]) -> NDArray[np.float64]:
        return mean_by_source(self._probe, self._context.ranks, self._context.device, step, each)


class ReferenceLoss(ProbeLoss):
    """f64[K], the mean held-out loss per target token of the reference model.

    The reference model is loaded for each observation, and dropped after it.
    """

    field = "reference_loss"
    cost = "a forward pass of the reference model over the probe examples"
    sees = frozenset({"held-out examples", "reference model"})

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the reference model's true losses with the error of the held-out examples."""
        return now.measured(now.reference_loss)

    def observe(self, step: int) -> NDArray[np.float64]:
        """Run the reference model on held-out examples."""
        reference = self._context.reference_losses()
        return self._mean(step, lambda batch: each_loss(reference, batch))


class ExcessLoss(ProbeLoss):
    """f64[K], the mean over held-out target tokens of max(loss − the reference model's loss of the same token, 0).

    The reference model stays in memory beside the one in training, without gradients.
    """

    field = "excess_loss"
    cost = "two forward passes over the probe examples, a second model in memory"
    sees = frozenset({"held-out examples", "reference model"})

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return E max(x, 0) of a token's excess x ~ N(mean excess, noise²), in closed form."""
        from scipy.special import ndtr

        error: float = now.noise / now.held_out**0.5
        mean = now.loss - now.reference_loss + error * now.rng.normal(size=len(now.loss))
        z = mean / max(now.noise, 1e-9)
        positive: NDArray[np.float64] = mean * ndtr(z) + now.noise * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        return positive

    def __init__(self, context: SignalContext) -> None:
        super().__init__(context)
        self._reference = context.reference_losses()

    def observe(self, step: int) -> NDArray[np.float64]:
        """Run both models on held-out examples."""
        losses = self._context.losses
        with evaluating(losses):
            return self._mean(
                step, lambda batch: (each_loss(losses, batch) - each_loss(self._reference, batch)).clamp_min(0)
            )


def mean_by_source(
    probe: Probe, ranks: Ranks, device: torch.device, step: int, each: Callable[[Forward], Tensor]
) -> NDArray[np.float64]:
    """Return f64[K], the mean over the targets of held-out examples; nan for a source without targets.

    ``each`` gives f[N], a value for each target of a forward pass.
    """
    import torch

    sums_2K = np.zeros((2, probe.num_sources))
    with torch.no_grad():
        for batch in probe.forwards(step, device):
            values_N = each(batch).cpu().double().numpy()
            sums_2K[0] += np.bincount(batch.target_source_N, values_N, probe.num_sources)
            sums_2K[1] += np.bincount(batch.target_source_N, minlength=probe.num_sources)
    total_K, count_K = ranks.sum(sums_2K)
    mean_K = np.full(probe.num_sources, np.nan)
    np.divide(total_K, count_K, out=mean_K, where=count_K > 0)
    return mean_K


class TargetLoss(ProbeLoss):
    """f64[J], the mean loss per target token on each target set."""

    field = "target_loss"
    shape = "f64[J]"
    cost = "a forward pass over as many examples of each target set"
    sees = frozenset({"target sets"})
    axes = ()

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the true losses with the error of as many examples as are held out."""
        return now.measured(now.target_loss)

    def __init__(self, context: SignalContext) -> None:
        super().__init__(context)
        self._probe = context.target_probe(self.field)


class ExampleLoss(ProbeLoss):
    """f64[K, N], the mean loss per target token of each held-out example; nan where a source has fewer."""

    field = "example_loss"
    shape = "f64[K, N]"

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return losses of examples that vary around the true loss of their source."""
        return now.measured(np.repeat(now.loss[:, None], now.held_out, axis=1), 1)

    def observe(self, step: int) -> NDArray[np.float64]:
        """Run the model on held-out examples."""
        context, count = self._context, self._probe.num_sources
        loss_KN = np.full((count, context.probe_examples), np.nan)
        for k in range(count):
            examples = self._probe.drawn(step, k)
            total_n, targets_n = example_losses(context.losses, examples, context.layout, context.ranks)
            np.divide(total_n, targets_n, out=loss_KN[k, : len(examples)], where=targets_n > 0)
        return loss_KN


def example_losses(
    losses: TargetLosses, examples: Sequence[Example], layout: Layout, ranks: Ranks
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return f64[n], the summed loss of each example, and f64[n], the number of its targets, the same on every rank."""
    import torch

    count = len(examples)
    lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
    sums_2n = np.zeros((2, count))
    with torch.no_grad(), evaluating(losses):
        # The number of the example stands where its source would, so that losses can be summed by example.
        for batch in layout.shares(
            layout.forwards(lengths), examples, range(count), ranks.index, ranks.count, losses.model.device
        ):
            each = losses(batch).each_N.cpu().double().numpy()
            sums_2n[0] += np.bincount(batch.target_source_N, each, count)
            sums_2n[1] += np.bincount(batch.target_source_N, minlength=count)
    total_n, targets_n = ranks.sum(sums_2n)
    return total_n, targets_n


def each_loss(losses: TargetLosses, batch: Forward) -> Tensor:
    """Return f32[N], the loss of each target of a forward pass."""
    each_N: Tensor = losses(batch).each_N
    return each_N
