"""Gate load: how many tokens of each source are routed to each expert of each MoE layer, padding excluded.

``online`` counts in the training batches' own forward passes, which costs nothing that training does not do anyway.
``probe`` is the paper's way: held-out examples are run through the model before each update.
Counts are the router's own selections, as integers, so they add up exactly over forward passes and ranks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import LongTensor

from trainers.models.routers import RouterObserver
from trainers.parallel.ranks import Ranks
from trainers.signals.base import Signal
from trainers.signals.probe import Probe, evaluating
from trainers.training.loss import TargetLosses
from trainers.training.tally import Tally


class OnlineGateLoad(Signal):
    """i64[K, L, E], counted in training since the last update.

    A source that gave fewer than ``min_tokens`` tokens since then keeps its last known load: a handful of tokens
    would be noise. Until it has given enough once its load is zero, which strategies read as unknown.
    """

    field = "gate_load"

    def __init__(self, observer: RouterObserver, num_sources: int, min_tokens: int, ranks: Ranks) -> None:
        self._observer, self._min_tokens, self._ranks = observer, min_tokens, ranks
        shape = (num_sources, observer.num_layers, observer.num_experts)
        self._known_KLE = np.zeros(shape, dtype=np.int64)
        self._counts_KLE = np.zeros(shape, dtype=np.int64)  # of this rank, since the last update
        self._tokens_K = np.zeros(num_sources, dtype=np.int64)  # of all ranks, since the last update
        self._untaken = False

    def watch(self, source_RT: LongTensor) -> AbstractContextManager[None]:
        self._untaken = True
        return self._observer.count(source_RT, len(self._tokens_K))

    def add(self, step: Tally) -> None:
        self._tokens_K += step.tokens

    def observe(self, step: int) -> NDArray:
        enough_K = self._tokens_K >= self._min_tokens
        self._known_KLE[enough_K] = self._all_counts()[enough_K]
        self._counts_KLE.fill(0)
        self._tokens_K.fill(0)
        return self._known_KLE.copy()

    def arrays(self) -> dict[str, NDArray]:
        return {"counts": self._all_counts(), "tokens": self._tokens_K, "known": self._known_KLE}

    def restore(self, arrays: dict[str, NDArray]) -> None:
        self._counts_KLE = arrays["counts"] if self._ranks.first else np.zeros_like(arrays["counts"])
        self._tokens_K, self._known_KLE = arrays["tokens"], arrays["known"]

    def _all_counts(self) -> NDArray[np.int64]:
        if self._untaken:
            self._counts_KLE += self._observer.take()
            self._untaken = False
        return self._ranks.sum(self._counts_KLE)


class ProbeGateLoad(Signal):
    """i64[K, L, E], counted over held-out examples of each source."""

    field = "gate_load"

    def __init__(self, observer: RouterObserver, losses: TargetLosses, probe: Probe, ranks: Ranks) -> None:
        self._observer, self._losses, self._probe, self._ranks = observer, losses, probe, ranks

    def observe(self, step: int) -> NDArray:
        count = self._probe.num_sources
        counts_KLE = np.zeros((count, self._observer.num_layers, self._observer.num_experts), dtype=np.int64)
        with evaluating(self._losses), torch.no_grad():
            for batch in self._probe.forwards(step, self._losses.model.device):
                with self._observer.count(batch.source_RT, count):
                    self._losses.observe(batch)
                counts_KLE += self._observer.take()
        return self._ranks.sum(counts_KLE)
