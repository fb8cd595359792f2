"""The mixture during training: which weights are in force, when they change, and the trace of why."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from harness.records import MixtureUpdate
from trainers.data.batches import Tally
from trainers.mixing import MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.base import from_arrays, to_arrays, weights_hash
from trainers.mixing.dynamic import Dynamic
from trainers.mixing.guard import guarded
from trainers.mixing.regime import CORNER, PAPER_PULL, Regime, effective_sources
from trainers.mixing.simplex import even
from trainers.parallel.ranks import Ranks
from trainers.signals import Signal
from trainers.training.state import below, prefixed

logger = logging.getLogger("moemix.training")

Signals = Mapping[str, Signal]
Rule = Callable[[MixtureState, Observation], MixtureState]


class Mixture:
    """A strategy at work: its state, its signals, and the history of its weights.

    Args:
        strategy: the strategy.
        sources: what it may know of the sources.
        signals: the strategy's signals by the observation's field.
        at_start: makes the signals of the observation before the first step; called only if there is one.
        interval: optimizer steps between updates, for a strategy without an interval of its own.
        ranks: the processes that train together; the first one decides.

    Attributes:
        history: (first draw, weights f64[K]) of each stretch, from draw 0 on: with the seed, all that determines draws.
            Of a strategy that scales the loss, even ones throughout.
        since_update: what was drawn and trained on since the last update.
        seconds: the time spent on signals and updates.
    """

    def __init__(
        self,
        strategy: MixingStrategy,
        sources: Sources,
        signals: Signals,
        at_start: Callable[[], Signals],
        interval: int,
        ranks: Ranks,
    ) -> None:
        self._strategy, self._sources, self._signals, self._ranks = strategy, sources, signals, ranks
        self._at_start = at_start
        self._interval = (strategy.interval(sources) or interval) if strategy.updates else 0
        self._state = guarded(len(sources.names), strategy.init, sources)
        self._warned = self._warned_of_corner = False
        self.history: list[tuple[int, NDArray[np.float64]]] = []
        self.since_update = Tally.empty(len(sources.names))
        self.seconds = 0.0
        self._enact(self._state, 0)

    @property
    def weights(self) -> NDArray[np.float64]:
        """f64[K], what the strategy decided last."""
        return self._state.weights

    @property
    def draw_weights(self) -> NDArray[np.float64]:
        """f64[K], in force for the next draws."""
        return self.history[-1][1]

    @property
    def loss_scale(self) -> NDArray[np.float64] | None:
        """f64[K], the factor on the losses of each source's tokens; None where weights act on draws.

        It is the weight over the share of draws, so that a source's part of the expected loss is its weight; 1 for even
        weights.
        """
        return self.weights / self.draw_weights if self._strategy.scales == "loss" else None

    @property
    def average(self) -> NDArray[np.float64] | None:
        """f64[K], the mean of the weights so far, where the strategy's paper proposes that for a next run."""
        return self._strategy.average(self._state)

    def begin(self, seen: Tally) -> MixtureUpdate:
        """Return the first line of the trace: the first weights, and what was observed for them."""
        if not self._strategy.at_start:
            self._warn_if_dominated()
            return self._record(0, self.weights, self.draw_weights, {}, {})
        return self._decide(self._at_start(), self._strategy.start, 0, 0, seen)

    @contextmanager
    def watch(self, source_RT: Tensor) -> Iterator[None]:
        """Let the signals watch the forward pass of a training batch."""
        with ExitStack() as stack:
            for signal in self._signals.values():
                stack.enter_context(signal.watch(source_RT))
            yield

    def add(self, step: Tally) -> None:
        """Take note of a finished training step, by its sums over all ranks."""
        self.since_update.add(step)
        for signal in self._signals.values():
            signal.add(step)

    def due(self, step: int) -> bool:
        """Return whether to update the weights after ``step`` finished steps."""
        return bool(self._interval) and step % self._interval == 0

    def update(self, step: int, draw: int, seen: Tally) -> MixtureUpdate:
        """Observe after so many steps, decide on the first rank, and put the new weights in force on all.

        ``draw`` is the number of the first draw under them, ``seen`` the sums since training began.
        """
        return self._decide(self._signals, self._strategy.update, step, draw, seen)

    def _decide(self, signals: Signals, rule: Rule, step: int, draw: int, seen: Tally) -> MixtureUpdate:
        cost: dict[str, float] = {}
        observed: dict[str, Any] = {}
        for field, signal in signals.items():
            started = time.perf_counter()
            observed[field] = signal.observe(step)
            cost[field] = time.perf_counter() - started
        started = time.perf_counter()
        observation = Observation(
            step=step,
            names=self._sources.names,
            examples_seen=seen.examples.copy(),
            tokens_seen=seen.tokens.copy(),
            targets=self._sources.targets,
            **observed,
        )
        before, drawn, state = self.weights, self.draw_weights, self._state
        decided = guarded(len(before), rule, self._state, observation) if self._ranks.first else self._state
        self._enact(decided, draw)
        cost["update"] = time.perf_counter() - started
        self.seconds += sum(cost.values())
        regime = None
        if isinstance(self._strategy, Dynamic):
            regime = self._strategy.regime(state, self._state)
            if regime is not None and regime.corner and not self._warned_of_corner:
                self._warn_of_corner(regime, self._strategy.eta)
        self._warn_if_dominated()
        traced = {field: signals[field].trace(array) for field, array in observed.items()}
        record = self._record(step, before, drawn, traced, cost)
        if regime is not None:
            record = record.model_copy(update={"pull": regime.pull, "settles": tuple(regime.settles.tolist())})
        self.since_update.clear()
        return record

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that must survive a restart; all ranks call this."""
        arrays: dict[str, np.ndarray] = prefixed("state", to_arrays(self._state))
        arrays |= prefixed("since_update", self.since_update.arrays())
        for field, signal in self._signals.items():
            arrays |= prefixed(f"signal/{field}", signal.arrays())
        return arrays

    def facts(self) -> dict[str, object]:
        """Return everything else that must survive a restart, as JSON."""
        history = [(draw, weights.tolist()) for draw, weights in self.history]
        return {
            "history": history,
            "seconds": self.seconds,
            "warned": self._warned,
            "warned_of_corner": self._warned_of_corner,
        }

    def restore(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`arrays` and :meth:`facts`."""
        self._state = from_arrays(below("state", arrays))
        self.since_update = Tally(**below("since_update", arrays))
        for field, signal in self._signals.items():
            signal.restore(below(f"signal/{field}", arrays))
        self.history = [(draw, np.array(weights)) for draw, weights in facts["history"]]
        self.seconds, self._warned = facts["seconds"], facts["warned"]
        self._warned_of_corner = facts.get("warned_of_corner", False)

    def _enact(self, state: MixtureState, draw: int) -> None:
        """Put the first rank's weights in force from a draw on."""
        weights = self._ranks.from_first(np.asarray(state.weights, dtype=np.float64))
        self._ranks.agree("the weights of the mixture", weights_hash(weights))
        self._state = MixtureState(weights, state.memory)
        if self._strategy.scales == "draws":
            if self.history and self.history[-1][0] == draw:
                self.history.pop()  # nothing was drawn with these
            self.history.append((draw, weights))
        elif not self.history:
            self.history.append((draw, even(len(weights))))

    def _warn_of_corner(self, regime: Regime, eta: float) -> None:
        """Warn once in a run that the weights are on their way to one source, whatever the sources are."""
        self._warned_of_corner = True
        if self._ranks.first:
            settles, names = regime.settles, self._sources.names
            logger.warning(
                "warning: `%s` changes log-weights by up to %.2g an update (in the paper about %.2g); if the gate loads"
                " stay as they are, the weights settle at %.0f %% for source %s. eta=%.2g would move them as the"
                " paper's did",
                self._strategy.name,
                regime.pull,
                PAPER_PULL,
                100 * settles.max(),
                names[int(settles.argmax())],
                regime.eta_as_in_the_paper(eta),
            )

    def _warn_if_dominated(self) -> None:
        """Warn once in a run that one source has become nearly the whole mixture, unless the strategy intends it."""
        weights = self.weights
        effective = effective_sources(weights)
        if self._warned or self._strategy.concentrates or len(weights) < 2 or effective >= CORNER:
            return
        self._warned = True
        if self._ranks.first:
            what = "draws" if self._strategy.scales == "draws" else "loss"
            largest = f"{weights.max():.0%} of the {what} to source {self._sources.names[int(weights.argmax())]}"
            worth = f"{effective:.2f} of {len(weights)} sources"
            text = "warning: `%s` gives %s: by their entropy the weights are worth %s"
            logger.warning(text, self._strategy.name, largest, worth)

    def _record(
        self,
        step: int,
        before: NDArray[np.float64],
        drawn: NDArray[np.float64],
        observation: dict[str, object],
        cost: dict[str, float],
    ) -> MixtureUpdate:
        return MixtureUpdate(
            step=step,
            names=self._sources.names,
            before=tuple(before.tolist()),
            after=tuple(self.weights.tolist()),
            observation=observation,
            scales=self._strategy.scales,
            requested=tuple(drawn.tolist()),
            realised_examples=tuple(self.since_update.examples.tolist()),
            realised_tokens=tuple(self.since_update.tokens.tolist()),
            cost=cost,
        )
