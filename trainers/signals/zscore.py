"""Router z-scores: how far the load of a source is from the model's own balanced load, in standard errors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.recipe import Mixing
from trainers.signals.base import Sight, Signal, SignalContext, Situation
from trainers.signals.gate_load import GateLoad

if TYPE_CHECKING:
    from torch import Tensor

    from trainers.data.batches import Tally


class RouterZScore(Signal):
    """f64[K, L, E], how far the share of each expert is from the mean of all sources, in standard errors of counting.

    With s_k the gate load of source k in a layer, normalised, n_k its tokens, and p the mean of the s_j, which is the
    load of the model if all sources are drawn alike: z_ke = (s_ke − p_e) / √(p_e (1 − p_e) / n_k). It is measured as
    the gate load is.
    """

    field = "router_zscore"
    shape = "f64[K, L, E]"
    cost = GateLoad.cost
    sees = GateLoad.sees

    @classmethod
    def required(cls, mixing: Mixing) -> frozenset[Sight]:
        """Return what the gate load must see."""
        return GateLoad.required(mixing)

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the z-scores of an invented gate load."""
        return z_scores(GateLoad.invent(now))

    def __init__(self, context: SignalContext) -> None:
        super().__init__(context)
        self._load = GateLoad.make(context)

    def watch(self, source_RT: Tensor) -> AbstractContextManager[None]:
        """Let the gate load count."""
        return self._load.watch(source_RT)

    def add(self, step: Tally) -> None:
        """Add the step's tokens."""
        self._load.add(step)

    def observe(self, step: int) -> NDArray[np.float64]:
        """Compare the gate load of each source with that of all."""
        return z_scores(self._load.observe(step))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the counts."""
        return self._load.arrays()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the counts."""
        self._load.restore(arrays)


def z_scores(load_KLE: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the z-scores of a gate load; nan for a source without tokens, 0 for an expert that gets none or all."""
    total_KL = load_KLE.sum(axis=2, keepdims=True)
    share = np.full(load_KLE.shape, np.nan)
    np.divide(load_KLE, total_KL, out=share, where=total_KL > 0)
    known = np.isfinite(share).all(axis=(1, 2))
    if not known.any():
        return share
    mean_LE = share[known].mean(axis=0)
    error = np.sqrt(mean_LE * (1.0 - mean_LE) / np.maximum(total_KL, 1))
    score = np.zeros(share.shape)
    np.divide(share - mean_LE, error, out=score, where=error > 0)
    score[~known] = np.nan
    return score
