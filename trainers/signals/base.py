"""The interface of a signal: what a strategy may need to see, measured during training; and held-out examples.

Importing this module, or a built-in signal, does not import torch: strategies are listed, checked and simulated without
it. A signal imports torch in the functions that measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.recipe import Mixing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trainers.data import Example, TokenSource, TokenSplit
    from trainers.data.batches import Forward, Layout, Tally
    from trainers.models.loss import TargetLosses
    from trainers.parallel.ranks import Ranks

Sight = Literal[
    "training batch",
    "held-out examples",
    "target sets",
    "trial steps",
    "router",
    "gradients",
    "reference model",
    "texts",
]
"""What a signal must see."""

Trial = Callable[[int, "Sequence[Sequence[Example]]"], AbstractContextManager[None]]
"""Train on a few batches of examples after so many steps, and take it back exactly when the context ends."""


@dataclass(frozen=True)
class Resources:
    """What signals may need beside the model in training; each is used only by the signals that need it.

    Attributes:
        tokenizer: decodes tokens into texts.
        reference: loads the reference model: that of the run that the strategy needs, else the base.
        cache: a folder for results that do not depend on the run.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    reference: Callable[[], PreTrainedModel] | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class SignalContext:
    """What signals are measured on.

    Attributes:
        losses: the model in training.
        sources: the sources of the mixture, sorted by name.
        mixing: the recipe's settings of signals.
        layout: how held-out examples become forward passes.
        seed: the seed of the run.
        ranks: the processes that train together.
        resources: what some signals need beside the model.
        targets: the target sets by name: examples that are never trained on, and that strategies may aim at.
        trial: trains on a few batches, and takes it back.
    """

    losses: TargetLosses
    sources: Sequence[TokenSource]
    mixing: Mixing
    layout: Layout
    seed: int
    ranks: Ranks
    resources: Resources = Resources()
    targets: Mapping[str, TokenSplit] = field(default_factory=dict)
    trial: Trial | None = None

    @property
    def device(self) -> torch.device:
        """Where the model in training is."""
        return self.losses.model.device

    def probe(self, field: str) -> Probe:
        """Return held-out examples of the sources for a signal, as many as the recipe says.

        Raises:
            MoemixError: a source holds out no examples.
        """
        for source in self.sources:
            if not len(source.probe):
                raise no_held_out(source.name, field)
        return self._probe([source.probe for source in self.sources])

    def target_probe(self, field: str) -> Probe:
        """Return examples of the target sets for a signal, as many of each as the recipe says.

        Raises:
            MoemixError: there are no target sets.
        """
        if not self.targets:
            raise no_targets(field)
        return self._probe(list(self.targets.values()))

    @property
    def probe_examples(self) -> int:
        """The examples of each source that a signal is measured on."""
        return self.mixing.probe_batches * self.mixing.probe_batch_size

    def _probe(self, splits: Sequence[TokenSplit]) -> Probe:
        return Probe(splits, self.probe_examples, self.layout, self.seed, self.ranks)

    def trial_batches(self, source: int, step: int, count: int) -> list[list[Example]]:
        """Return batches of training examples of a source for trial steps after ``step`` steps, as large as a probe."""
        train = self.sources[source].train
        picked = np.random.default_rng((self.seed, step, source, 1)).integers(
            len(train), size=(count, self.probe_examples)
        )
        return [[train[i] for i in row] for row in picked.tolist()]

    def tried(self, step: int, batches: Sequence[Sequence[Example]], field: str) -> AbstractContextManager[None]:
        """Return a context in which the model has been trained on these batches; its end takes that back exactly.

        Raises:
            MoemixError: nothing is trained here, so nothing can be tried.
        """
        if self.trial is None:
            raise MoemixError(f"the signal `{field}` needs trial steps, which only a training can do")
        return self.trial(step, batches)

    def reference_losses(self) -> TargetLosses:
        """Load the reference model in evaluation mode, in the precision and on the device of the model in training.

        Raises:
            MoemixError: there is no reference model.
        """
        if self.resources.reference is None:
            raise MoemixError("the strategy compares with a reference model, and there is none")
        from trainers.models.loss import TargetLosses

        model = self.resources.reference()
        cast("nn.Module", model).to(self.device).requires_grad_(False)
        return TargetLosses(model, bfloat16=self.losses.autocast).eval()


@dataclass(frozen=True)
class Situation:
    """The true state of an invented training, from which signals invent their values; K sources, L layers, E experts.

    The contract and the simulation make it up. Noise is relative: an average over c examples has an error of
    ``noise`` / √c.

    Attributes:
        rng: random numbers, of this signal alone.
        constant: random numbers that are the same at every observation of a run.
        drawn: i64[K], examples of each source since the last update.
        lengths: f64[K], tokens in an example.
        held_out: examples of a source that held-out signals average over.
        noise: the error of one example.
        loss, reference_loss: f64[K], each source's mean loss per target token: of the model, and of the reference.
        progress: f64[K], the fall of the loss per training step since the last observation.
        target_loss: f64[J], the mean loss per target token of each target set.
        target_gradient: f64[J, S], the direction in which each target set pulls the model.
        load: f64[K, L, E], the share of each source's tokens that each expert gets.
        meaning: f64[K, D], what each source is about.
        gradient: f64[K, S], the direction in which each source pulls the model.
    """

    rng: np.random.Generator
    constant: np.random.Generator
    drawn: NDArray[np.int64]
    lengths: NDArray[np.float64]
    held_out: int
    noise: float
    loss: NDArray[np.float64]
    reference_loss: NDArray[np.float64]
    progress: NDArray[np.float64]
    target_loss: NDArray[np.float64]
    target_gradient: NDArray[np.float64]
    load: NDArray[np.float64]
    meaning: NDArray[np.float64]
    gradient: NDArray[np.float64]

    def measured(
        self, values: NDArray[np.float64], examples: NDArray[np.int64] | int | None = None
    ) -> NDArray[np.float64]:
        """Return positive values f64[K, …] with the error of a mean over examples; by default of held-out ones."""
        shape = (len(values),) + (1,) * (values.ndim - 1)
        count = np.broadcast_to(self.held_out if examples is None else examples, len(values)).reshape(shape)
        sigma = self.noise / np.sqrt(np.maximum(count, 1))
        noisy: NDArray[np.float64] = values * np.exp(sigma * self.rng.normal(size=values.shape) - sigma**2 / 2)
        return noisy

    def blurred(
        self, vectors: NDArray[np.float64], examples: NDArray[np.int64] | int, rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """Return vectors f64[K, D] plus noise of their own length × noise / √examples."""
        length = np.linalg.norm(vectors, axis=1) / np.sqrt(vectors.shape[1])
        spread = length * self.noise / np.sqrt(np.maximum(examples, 1))
        noisy: NDArray[np.float64] = vectors + (rng or self.rng).normal(size=vectors.shape) * spread[:, None]
        return noisy


class Signal:
    """One field of :class:`trainers.mixing.Observation`, measured only if the strategy needs it.

    Class attributes:
        field: the observation's field that it fills.
        shape: the array's type and shape, for the listing.
        cost: what measuring costs in addition to training, for the listing; ``nothing`` if it is free.
        sees: what it must see to be measured; a plan checks that it is there.
        unknown: the value that stands for a source of which nothing is known.
        axes: the axes of the array that run over sources.
    """

    field: ClassVar[str]
    shape: ClassVar[str] = "f64[K]"
    cost: ClassVar[str] = "a forward pass over the probe examples"
    sees: ClassVar[frozenset[Sight]] = frozenset({"held-out examples"})
    unknown: ClassVar[float] = math.nan
    axes: ClassVar[tuple[int, ...]] = (0,)

    @classmethod
    def make(cls, context: SignalContext) -> Signal:
        """Return a new signal of a run; a class that has several ways to measure chooses one here."""
        return cls(context)

    @classmethod
    def required(cls, mixing: Mixing) -> frozenset[Sight]:
        """Return what the signal must see under these settings of a recipe: by default ``sees``."""
        return cls.sees

    @classmethod
    def invent(cls, now: Situation) -> np.ndarray[Any, Any]:
        """Return values for an invented training, for the contract and the simulation.

        Raises:
            MoemixError: the signal does not say how.
        """
        raise MoemixError(
            f"the signal `{cls.field}` does not say how to invent values, so a strategy that needs it can be trained"
            " only, not checked or simulated",
            hint="define its class method `invent`",
        )

    def __init__(self, context: SignalContext) -> None:
        self._context = context

    def watch(self, source_RT: Tensor) -> AbstractContextManager[None]:
        """Return the context of a training batch's forward pass; the source of a token is -1 in padding."""
        return nullcontext()

    def add(self, step: Tally) -> None:
        """Take note of a finished training step, by its sums over all ranks."""

    def observe(self, step: int) -> np.ndarray[Any, Any]:
        """Return the signal after ``step`` steps, the same on every rank, and start the next window."""
        raise NotImplementedError

    def trace(self, observed: np.ndarray) -> object:
        """Return what the trace records of an observation, as JSON."""
        return plain(observed)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what must survive a restart. All ranks call this; the first rank's arrays are stored."""
        return {}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the result of :meth:`arrays`, on every rank."""


def plain(array: np.ndarray) -> object:
    """Return nested lists, with null for values that are not finite, which JSON does not know."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array.tolist()
    return [plain(row) if row.ndim else (float(row) if math.isfinite(row) else None) for row in array]


def no_held_out(source: str, field: str) -> MoemixError:
    """Return the error of a signal that needs held-out examples where a source has none."""
    return MoemixError(
        f"the source holds out no examples, which the signal `{field}` is measured on",
        where=f"source {source}",
        hint="set its `probe_examples` (the paper: 1000)"
        + (", or mixing.gate_load=online" if field == "gate_load" else ""),
    )


def no_targets(field: str) -> MoemixError:
    """Return the error of a signal that needs target sets where there are none."""
    return MoemixError(
        f"there is no target set, which the signal `{field}` is measured on",
        hint="add one to the recipe's `held_out`, written like a source (docs/strategies.md#target-sets)",
    )


class Probe:
    """Some examples of each set, drawn anew for every update; the same for all signals of one update.

    A set with fewer than ``examples`` gives all of them. The sets are what the sources hold out, or the target sets.
    """

    def __init__(self, splits: Sequence[TokenSplit], examples: int, layout: Layout, seed: int, ranks: Ranks) -> None:
        self.num_sources = len(splits)
        self._splits, self._examples, self._layout, self._seed = splits, examples, layout, seed
        self._ranks = ranks

    def drawn(self, step: int, k: int) -> list[Example]:
        """Return the examples of a set after ``step`` steps."""
        split = self._splits[k]
        order = np.random.default_rng((self._seed, step, k)).permutation(len(split))
        return [split[i] for i in order[: self._examples].tolist()]

    def forwards(self, step: int, device: torch.device, only: int | None = None) -> Iterator[Forward]:
        """Yield this rank's share of the forward passes after ``step`` steps; every rank gets equally many.

        With ``only``, they hold examples of that set alone; otherwise those of all sets, in mixed rows.
        """
        examples: list[Example] = []
        source_ids: list[int] = []
        for k in range(self.num_sources) if only is None else (only,):
            picked = self.drawn(step, k)
            examples += picked
            source_ids += [k] * len(picked)
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        forwards, ranks = self._layout.forwards(lengths), self._ranks
        yield from self._layout.shares(forwards, examples, source_ids, ranks.index, ranks.count, device)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode (no dropout, no gate noise), and back afterwards."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
