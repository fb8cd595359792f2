"""Gate load: how many tokens of each source are routed to each expert of each MoE layer, padding excluded.

``online`` counts in the training batches' own forward passes, which costs nothing that training does not do anyway.
``probe`` is the paper's way: held-out examples are run through the model before each update.
Counts are the router's own selections, as integers, so they add up exactly over forward passes and ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import LongTensor

from harness.errors import MoemixError
from trainers.batches import Layout
from trainers.data import TokenSource
from trainers.loss import TargetLosses
from trainers.ranks import Ranks
from trainers.routers import RouterObserver
from trainers.signals.base import Signal
from trainers.tally import Tally


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
    """i64[K, L, E], counted over ``examples`` held-out examples of each source, drawn anew for every update.

    Raises:
        MoemixError: a source holds out no examples.
    """

    field = "gate_load"

    def __init__(
        self,
        observer: RouterObserver,
        losses: TargetLosses,
        sources: Sequence[TokenSource],
        examples: int,
        layout: Layout,
        seed: int,
        ranks: Ranks,
    ) -> None:
        for source in sources:
            if not len(source.probe):
                raise MoemixError(
                    "holds out no examples to probe the gate load with",
                    where=f"source {source.name}",
                    hint="set its `probe_examples` (the paper: 1000), or mixing.gate_load=online",
                )
        self._observer, self._losses, self._sources = observer, losses, sources
        self._examples, self._layout, self._seed, self._ranks = examples, layout, seed, ranks

    def observe(self, step: int) -> NDArray:
        examples, source_ids = [], []
        for k, source in enumerate(self._sources):
            order = np.random.default_rng((self._seed, step, k)).permutation(len(source.probe))
            picked = order[: self._examples].tolist()
            examples += [source.probe[i] for i in picked]
            source_ids += [k] * len(picked)
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        was_training = self._losses.training
        self._losses.eval()
        shape = (len(self._sources), self._observer.num_layers, self._observer.num_experts)
        counts_KLE = np.zeros(shape, dtype=np.int64)
        with torch.no_grad():
            for rows in self._layout.forwards(lengths)[self._ranks.index :: self._ranks.count]:
                batch = self._layout.collate(rows, examples, source_ids, self._losses.model.device)
                with self._observer.count(batch.source_RT, len(self._sources)):
                    self._losses.observe(batch)
                counts_KLE += self._observer.take()
        self._losses.train(was_training)
        return self._ranks.sum(counts_KLE)
