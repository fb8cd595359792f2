"""Gate load: how many tokens of each source are routed to each expert of each MoE layer, padding excluded.

``online`` counts in the training batches' own forward passes, at no further cost. ``probe`` is the paper's way: the
model runs on held-out examples before each update. Counts are the router's own selections, as integers, so they add up
exactly over forward passes and ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.recipe import Mixing
from trainers.signals.base import Sight, Signal, SignalContext, Situation, evaluating

if TYPE_CHECKING:
    from torch import Tensor

    from trainers.data.batches import Forward, Tally
    from trainers.models.loss import TargetLosses
    from trainers.models.routers import RouterObserver


class GateLoad(Signal):
    """i64[K, L, E], tokens routed to each expert of each MoE layer; measured as ``mixing.gate_load`` says."""

    field = "gate_load"
    shape = "i64[K, L, E]"
    cost = "nothing online, else a forward pass over the probe examples"
    sees = frozenset({"router"})
    unknown = 0

    @classmethod
    def make(cls, context: SignalContext) -> Signal:
        """Return the signal that counts as the recipe says."""
        return OnlineGateLoad(context) if context.mixing.gate_load == "online" else ProbeGateLoad(context)

    @classmethod
    def required(cls, mixing: Mixing) -> frozenset[Sight]:
        """Return what it must see: held-out examples, or the training batch."""
        return frozenset({"router", "training batch" if mixing.gate_load == "online" else "held-out examples"})

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.int64]:
        """Return counts that are multinomial over experts, with shares that have the error of the examples drawn."""
        share = now.measured(now.load, now.drawn)
        tokens = np.rint(now.drawn * now.lengths).astype(np.int64)
        return now.rng.multinomial(tokens[:, None], share / share.sum(axis=2, keepdims=True))


class ProbeGateLoad(GateLoad):
    """i64[K, L, E], counted over held-out examples of each source."""

    def __init__(self, context: SignalContext) -> None:
        from trainers.models.routers import RouterObserver

        super().__init__(context)
        self._observer, self._probe = RouterObserver(context.losses.model), context.probe(self.field)

    def observe(self, step: int) -> NDArray[np.int64]:
        """Run the model on held-out examples and count."""
        losses, forwards = self._context.losses, self._probe.forwards(step, self._context.device)
        return self._context.ranks.sum(count_routed(losses, self._observer, forwards, self._probe.num_sources))


def count_routed(
    losses: TargetLosses, observer: RouterObserver, forwards: Iterable[Forward], num_sources: int
) -> NDArray[np.int64]:
    """Run a model in evaluation mode (no gate noise), and return i64[K, L, E], its gate load."""
    import torch

    counts_KLE = np.zeros((num_sources, observer.num_layers, observer.num_experts), dtype=np.int64)
    with evaluating(losses), torch.no_grad():
        for batch in forwards:
            with observer.count(batch.source_RT, num_sources):
                losses.observe(batch)
            counts_KLE += observer.take()
    return counts_KLE


class OnlineGateLoad(GateLoad):
    """i64[K, L, E], counted in training since the last update.

    A source that gave fewer than ``mixing.min_tokens`` tokens since then keeps its last known load: a handful of tokens
    would be noise. Until it has given enough once, its load is zero, which strategies read as unknown.
    """

    def __init__(self, context: SignalContext) -> None:
        from trainers.models.routers import RouterObserver

        super().__init__(context)
        self._observer = RouterObserver(context.losses.model)
        shape = (len(context.sources), self._observer.num_layers, self._observer.num_experts)
        self._known_KLE = np.zeros(shape, dtype=np.int64)
        self._counts_KLE = np.zeros(shape, dtype=np.int64)  # of this rank, since the last update
        self._tokens_K = np.zeros(len(context.sources), dtype=np.int64)  # of all ranks, since the last update
        self._untaken = False

    def watch(self, source_RT: Tensor) -> AbstractContextManager[None]:
        """Count in the forward pass."""
        self._untaken = True
        return self._observer.count(source_RT, len(self._tokens_K))

    def add(self, step: Tally) -> None:
        """Add the step's tokens."""
        self._tokens_K += step.tokens

    def observe(self, step: int) -> NDArray[np.int64]:
        """Return the counts of sources with enough tokens, and the last known counts of the others."""
        enough_K = self._tokens_K >= self._context.mixing.min_tokens
        self._known_KLE[enough_K] = self._all_counts()[enough_K]
        self._counts_KLE.fill(0)
        self._tokens_K.fill(0)
        return self._known_KLE.copy()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the counts of all ranks, tokens, and last known counts."""
        return {"counts": self._all_counts(), "tokens": self._tokens_K, "known": self._known_KLE}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Give the counts of all ranks to the first."""
        self._counts_KLE = arrays["counts"] if self._context.ranks.first else np.zeros_like(arrays["counts"])
        self._tokens_K, self._known_KLE = arrays["tokens"], arrays["known"]

    def _all_counts(self) -> NDArray[np.int64]:
        if self._untaken:
            self._counts_KLE += self._observer.take()
            self._untaken = False
        return self._context.ranks.sum(self._counts_KLE)
