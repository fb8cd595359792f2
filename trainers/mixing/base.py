"""The interface of a mixing strategy: arrays in, arrays out.

A strategy is a pair of pure functions, as optax's gradient transformations are. It knows no trainer, no rank
and no file; its hyper-parameters are the fields of a frozen dataclass, and everything it remembers is in the
state that it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """What the finished run that a strategy ``needs`` came to.

    Attributes:
        weights: f64[K], its last weights.
        losses: f64[K], its last mean training loss per target token; nan where a source was not seen.
    """

    weights: Floats
    losses: Floats


@dataclass(frozen=True)
class Sources:
    """The K datasets of a mixture, and what is known of a run before its first step.

    Attributes:
        names: sorted; every array over sources follows this order.
        sizes: i64[K], original dataset sizes in examples.
        steps: optimizer steps of the whole run; 0 where it is not known.
        seed: of the run.
        reference: of the finished run that the strategy ``needs``.
    """

    names: tuple[str, ...]
    sizes: Ints
    steps: int = 0
    seed: int = 0
    reference: Reference | None = None

    def __post_init__(self) -> None:
        if list(self.names) != sorted(set(self.names)):
            raise ValueError("source names must be sorted and distinct")
        if self.sizes.shape != (len(self.names),):
            raise ValueError(f"sizes has shape {self.sizes.shape}, expected ({len(self.names)},)")

    def need_reference(self, wanted_by: str) -> Reference:
        """The finished run that a strategy starts from.

        Raises:
            MoemixError: there is none.
        """
        if self.reference is None:
            raise MoemixError(
                f"`{wanted_by}` starts from a finished run, and none was given",
                hint="train it with `moemix bench` or `moemix train RECIPE`, which run what it needs first",
            )
        return self.reference


@dataclass(frozen=True)
class MixtureState:
    """What a strategy decides and remembers.

    Attributes:
        weights: f64[K], non-negative, sum 1: the probability that a drawn example comes from each source. Of a
            strategy that ``scales`` the loss: each source's share of the loss, while draws stay even.
        memory: named arrays the strategy wants back at its next update (moving averages, counters, …).
    """

    weights: Floats
    memory: dict[str, NDArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """What was seen since the last update. Fields that a strategy did not ask for are None.

    Attributes:
        step: optimizer steps finished.
        names: the sources, in the order of every array below.
        examples_seen: i64[K], examples drawn from each source since training began.
        tokens_seen: i64[K], tokens trained on since training began.
        gate_load: i64[K, L, E], tokens routed to each expert of each MoE layer, padding excluded, over all ranks.
        train_loss: f64[K], mean loss per target token since the last update; nan where a source was not seen.
        probe_loss: f64[K], mean held-out loss per target token.
        reference_loss: f64[K], the reference model's mean held-out loss per target token.
        excess_loss: f64[K], mean over held-out target tokens of max(loss − the reference model's loss, 0).
        embedding: f32[K, D], mean sentence embedding of each source.
        gradient: f32[K, S], a sketch of each source's gradient.
    """

    step: int
    names: tuple[str, ...]
    examples_seen: Ints
    tokens_seen: Ints
    gate_load: Ints | None = None
    train_loss: Floats | None = None
    probe_loss: Floats | None = None
    reference_loss: Floats | None = None
    excess_loss: Floats | None = None
    embedding: NDArray[np.float32] | None = None
    gradient: NDArray[np.float32] | None = None

    def need(self, signal: str) -> NDArray:
        """A signal that the strategy cannot do without; training on as if nothing had been asked would be silent."""
        value: NDArray | None = getattr(self, signal)
        if value is None:
            raise MoemixError(f"the strategy needs the signal `{signal}`, and it was not measured")
        return value


class MixingStrategy:
    """Base of all strategies: subclass as ``@dataclass(frozen=True)``, one class per strategy.

    Class attributes:
        name: what recipes call it.
        signals: the optional fields of :class:`Observation` it needs at every update.
        at_start: the fields it needs once, before the first step, of the model as it is then (gate load by probe).
        source: the paper (and variant) it follows.
        scales: what the weights act on: which sources are drawn, or how much each counts in the loss.
        trains: false for a strategy that leaves the base checkpoint as it is.
        updates: false for a strategy whose weights never change after ``init``.
        needs: the strategy whose finished run this one starts from, if any.
        may_vanish: true for a strategy that may give a source a weight of exactly zero.
        concentrates: true for a strategy that means to put nearly all weight on one source at a time.
        positional: true for a strategy that takes sources in turn or draws noise for each, so that reordering them
            does more than reorder its weights.
    """

    name: ClassVar[str]
    signals: ClassVar[frozenset[str]] = frozenset()
    at_start: ClassVar[frozenset[str]] = frozenset()
    source: ClassVar[str] = ""
    scales: ClassVar[Literal["draws", "loss"]] = "draws"
    trains: ClassVar[bool] = True
    updates: ClassVar[bool] = True
    needs: ClassVar[str | None] = None
    may_vanish: ClassVar[bool] = False
    concentrates: ClassVar[bool] = False
    positional: ClassVar[bool] = False

    def init(self, sources: Sources) -> MixtureState:
        """The state before the first step, and before anything was observed."""
        raise NotImplementedError

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        """The state after the observation before the first step (``at_start``): an update like any other by default.

        Only called where ``at_start`` names a signal. Pure, as ``update`` is.
        """
        return self.update(state, seen)

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """The state after an observation. Pure: the same input gives the same output.

        A strategy with ``updates = False`` is never called and need not define it.

        Raises:
            MoemixError: a signal it needs is missing.
        """
        raise NotImplementedError

    def interval(self, sources: Sources) -> int | None:
        """Steps between updates, of a strategy with a rhythm of its own; None for the recipe's."""
        return None

    def average(self, state: MixtureState) -> Floats | None:
        """f64[K], the mean of the weights over the run, of a strategy whose paper proposes that for the next run."""
        return None

    def advice(self, sources: Sources) -> str | None:
        """What a user should know before training on these sources: why nothing will change, for instance."""
        return None
