"""The interface of a mixing strategy: arrays in, arrays out.

A strategy is a pair of pure functions, like one of optax's gradient transformations. It knows no trainer, no rank and
no file. Its hyper-parameters are the fields of a frozen dataclass, and everything that it remembers is in the state
that it returns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from trainers.plugins import SIGNALS

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MEMORY = "memory."


@dataclass(frozen=True)
class Reference:
    """The result of the finished run that a strategy ``needs``.

    Attributes:
        weights: f64[K], the run's last weights.
        losses: f64[K], the run's last mean training loss per target token; nan where a source was not seen.
    """

    weights: Floats
    losses: Floats


@dataclass(frozen=True)
class Sources:
    """The K datasets of a mixture, and what is known about a run before its first step.

    Attributes:
        names: the names of the sources, sorted; every array over sources follows this order.
        sizes: i64[K], the original dataset sizes in examples.
        steps: the number of optimizer steps of the whole run; 0 if it is unknown.
        seed: the seed of the run.
        reference: the result of the finished run that the strategy ``needs``.
        targets: the names of the target sets (the recipe's ``held_out``), in the order of the signals of targets.
    """

    names: tuple[str, ...]
    sizes: Ints
    steps: int = 0
    seed: int = 0
    reference: Reference | None = None
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if list(self.names) != sorted(set(self.names)):
            raise ValueError("source names must be sorted and distinct")
        if self.sizes.shape != (len(self.names),):
            raise ValueError(f"sizes has shape {self.sizes.shape}, expected ({len(self.names)},)")

    def need_reference(self, strategy: str) -> Reference:
        """Return the finished run that the named strategy starts from.

        Raises:
            MoemixError: there is no finished run.
        """
        if self.reference is None:
            raise MoemixError(
                f"`{strategy}` starts from a finished run, and none was given",
                hint="train it with `moemix bench` or `moemix train RECIPE`, which run what it needs first",
            )
        return self.reference


@dataclass(frozen=True)
class MixtureState:
    """What a strategy decides and remembers.

    Attributes:
        weights: f64[K], non-negative, sum 1: the probability that a drawn example comes from each source. If the
            strategy ``scales`` the loss: each source's share of the loss, while all sources are drawn equally often.
        memory: named arrays that the strategy gets back at its next update (moving averages, counters, …).
    """

    weights: Floats
    memory: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = {name: np.asarray(value) for name, value in self.memory.items() if isinstance(value, np.generic)}
        object.__setattr__(self, "memory", {**self.memory, **numbers})  # arithmetic on arrays of one number gives these
        for name, value in self.memory.items():
            if not isinstance(value, np.ndarray) or value.dtype.hasobject:
                kind = "an array of objects" if isinstance(value, np.ndarray) else type(value).__name__
                raise MoemixError(
                    f"the memory of a mixture state must be numpy arrays of numbers, and `{name}` is {kind}",
                    hint=f"write numpy.array(...) of numbers for `{name}`",
                )


def to_arrays(state: MixtureState) -> dict[str, Array]:
    """Return a state as ``weights`` and one ``memory.<name>`` each, for ``numpy.savez`` or safetensors."""
    return {"weights": state.weights, **{_MEMORY + name: array for name, array in state.memory.items()}}


def from_arrays(arrays: dict[str, Array]) -> MixtureState:
    """Return the state that :func:`to_arrays` was given, bit for bit.

    Raises:
        MoemixError: ``weights`` is missing.
    """
    if "weights" not in arrays:
        raise MoemixError("this is not a mixture state: `weights` is missing")
    memory = {name.removeprefix(_MEMORY): np.asarray(a) for name, a in arrays.items() if name.startswith(_MEMORY)}
    return MixtureState(np.asarray(arrays["weights"], dtype=np.float64), memory)


def weights_hash(weights: Floats) -> str:
    """Return the SHA-256 of the weights' bits. Ranks compare it to be sure that they draw from the same mixture."""
    return hashlib.sha256(np.ascontiguousarray(weights, dtype="<f8").tobytes()).hexdigest()


class Observation:
    """What was measured since the last update: each signal is an attribute, None if the strategy did not request it.

    The built-in signals (``moemix strategies signals`` lists all, also those of installed plug-ins):

    Attributes:
        step: the number of finished optimizer steps.
        names: the sources, in the order of every array below.
        examples_seen: i64[K], examples drawn from each source since training began.
        tokens_seen: i64[K], tokens of each source trained on since training began.
        targets: the J target sets, in the order of the arrays of targets.
        signals: every measured signal by its field.
        gate_load: i64[K, L, E], tokens routed to each expert of each MoE layer, without padding, over all ranks.
        train_loss: f64[K], mean loss per target token since the last update; nan where a source was not seen.
        probe_loss: f64[K], mean held-out loss per target token.
        reference_loss: f64[K], the reference model's mean held-out loss per target token.
        excess_loss: f64[K], mean over held-out target tokens of max(loss − the reference model's loss, 0).
        embedding: f32[K, D], mean sentence embedding of each source.
        gradient: f32[K, S], a sketch of each source's gradient.
        target_loss: f64[J], mean loss per target token of each target set.
        target_gradient: f32[J, S], a sketch of each target set's gradient.
    """

    def __init__(
        self,
        step: int,
        names: tuple[str, ...],
        examples_seen: Ints,
        tokens_seen: Ints,
        targets: tuple[str, ...] = (),
        **signals: Array | None,
    ) -> None:
        self.step, self.names, self.examples_seen, self.tokens_seen = step, names, examples_seen, tokens_seen
        self.targets = targets
        self.signals: dict[str, Array] = {field: each for field, each in signals.items() if each is not None}

    def __getattr__(self, field: str) -> Any:
        """Return a signal, or None if it was not measured."""
        if field.startswith("__") or field == "signals":
            raise AttributeError(field)
        if field not in self.signals and field not in SIGNALS.names():
            raise AttributeError(f"there is no signal {field!r}; measured: {', '.join(self.signals) or 'none'}")
        return self.signals.get(field)

    def need(self, signal: str) -> Array:
        """Return a signal that the strategy cannot work without.

        Raises:
            MoemixError: the signal was not measured.
        """
        if signal not in self.signals:
            raise MoemixError(f"the strategy needs the signal `{signal}`, and it was not measured")
        return self.signals[signal]


class MixingStrategy:
    """Base of all strategies: subclass it as ``@dataclass(frozen=True)``, one class per strategy.

    Class attributes:
        name: the name in recipes.
        signals: the fields of :class:`Observation` that the strategy needs at every update.
        at_start: the fields that it needs once, of the untrained model (gate load is then measured by probe).
        source: the paper, and the variant, that it follows.
        scales: what the weights change: how often each source is drawn, or how much it counts in the loss.
        trains: false if the strategy leaves the base checkpoint as it is.
        updates: false if the weights never change after ``init`` (and ``start``).
        needs: the strategy whose finished run this one starts from, if any.
        presets: further names of the strategy, each with the options that it sets.
        may_vanish: true if the strategy may give a source a weight of exactly zero.
        concentrates: true if the strategy intends to put nearly all weight on one source at a time.
        positional: true if the strategy takes sources in turn or draws noise for each, so that reordering the sources
            changes more than the order of the weights.
    """

    name: ClassVar[str]
    signals: ClassVar[frozenset[str]] = frozenset()
    at_start: ClassVar[frozenset[str]] = frozenset()
    source: ClassVar[str] = ""
    scales: ClassVar[Literal["draws", "loss"]] = "draws"
    trains: ClassVar[bool] = True
    updates: ClassVar[bool] = True
    needs: ClassVar[str | None] = None
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    may_vanish: ClassVar[bool] = False
    concentrates: ClassVar[bool] = False
    positional: ClassVar[bool] = False

    def init(self, sources: Sources) -> MixtureState:
        """Return the state before the first step: by default even weights and an empty memory.

        Raises:
            MoemixError: the strategy ``needs`` a finished run, and ``sources`` has none.
        """
        if self.needs:
            sources.need_reference(self.name)
        return MixtureState(np.full(len(sources.names), 1.0 / len(sources.names)))

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Return the state after the observation before the first step: by default that of an ordinary update.

        It is called only if ``at_start`` names a signal. Like ``update`` it must be pure.
        """
        return self.update(state, seen)

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Return the state after an observation. It must be pure: the same input gives the same output.

        It is never called if ``updates`` is false, and need not be defined then.

        Raises:
            MoemixError: a signal that the strategy needs is missing.
        """
        raise NotImplementedError

    def interval(self, sources: Sources) -> int | None:
        """Return the steps between two updates if the strategy sets them itself, or None for the recipe's value."""
        return None

    def average(self, state: MixtureState) -> Floats | None:
        """Return the mean weights of the run, f64[K], if the strategy's paper proposes them for a next run."""
        return None

    def advice(self, sources: Sources) -> str | None:
        """Return what a user should know before training on these sources, for example why weights cannot change."""
        return None
