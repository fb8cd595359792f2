"""Held-out losses of each source: the model's own, a reference model's, and how far the one lies above the other.

They cost forward passes over ``mixing.probe_batches`` × ``mixing.probe_batch_size`` held-out examples of each source.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.parallel.ranks import Ranks
from trainers.signals.base import Signal
from trainers.signals.probe import Probe, evaluating
from trainers.training.batches import Forward
from trainers.training.loss import TargetLosses


class ProbeLoss(Signal):
    """f64[K], mean held-out loss per target token of the model in training."""

    field = "probe_loss"

    def __init__(self, losses: TargetLosses, probe: Probe, ranks: Ranks) -> None:
        self._losses, self._probe, self._ranks = losses, probe, ranks

    def observe(self, step: int) -> NDArray:
        with evaluating(self._losses):
            return mean_by_source(
                self._probe, self._ranks, self._losses, step, lambda batch: _each(self._losses, batch)
            )


class ReferenceLoss(Signal):
    """f64[K], mean held-out loss per target token of the reference model.

    Args:
        load: gives the reference model; called for each observation, and let go after it.
    """

    field = "reference_loss"

    def __init__(self, load: Callable[[], TargetLosses], losses: TargetLosses, probe: Probe, ranks: Ranks) -> None:
        self._load, self._losses, self._probe, self._ranks = load, losses, probe, ranks

    def observe(self, step: int) -> NDArray:
        reference = self._load()
        return mean_by_source(self._probe, self._ranks, self._losses, step, partial(_each, reference))


class ExcessLoss(Signal):
    """f64[K], mean over held-out target tokens of max(loss − the reference model's loss of the same token, 0).

    Args:
        load: gives the reference model, which stays in memory beside the one in training, without gradients.
    """

    field = "excess_loss"

    def __init__(self, load: Callable[[], TargetLosses], losses: TargetLosses, probe: Probe, ranks: Ranks) -> None:
        self._reference = load()
        self._losses, self._probe, self._ranks = losses, probe, ranks

    def observe(self, step: int) -> NDArray:
        def excess(batch: Forward) -> Tensor:
            return (_each(self._losses, batch) - _each(self._reference, batch)).clamp_min(0)

        with evaluating(self._losses):
            return mean_by_source(self._probe, self._ranks, self._losses, step, excess)


def mean_by_source(
    probe: Probe, ranks: Ranks, losses: TargetLosses, step: int, each: Callable[[Forward], Tensor]
) -> NDArray[np.float64]:
    """f64[K], the mean over target tokens of what ``each`` gives for them; nan for a source without targets."""
    sums_2K = np.zeros((2, probe.num_sources))
    with torch.no_grad():
        for batch in probe.forwards(step, losses.model.device):
            values_N = each(batch).cpu().double().numpy()
            sums_2K[0] += np.bincount(batch.target_source_N, values_N, probe.num_sources)
            sums_2K[1] += np.bincount(batch.target_source_N, minlength=probe.num_sources)
    total_K, count_K = ranks.sum(sums_2K)
    return np.divide(total_K, count_K, out=np.full(probe.num_sources, np.nan), where=count_K > 0)


def _each(losses: TargetLosses, batch: Forward) -> Tensor:
    found: Tensor = losses(batch).each_N
    return found
