"""Weights from each source's loss, alone or compared with the loss of a finished uniform run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import check_options, even, fill_unknown, last_known, reweigh, softmax
from trainers.mixing.static import PAPER


@dataclass(frozen=True)
class LossSoftmax(MixingStrategy):
    """Shares by a softmax of the training loss since the last update: w = softmax(loss / T).

    A source that was not seen keeps its last known loss; one that was never seen takes the mean of the others.

    Attributes:
        temperature: T; the larger, the more even the weights.
        c: share of the weights that is spread evenly.
    """

    name = "loss_softmax"
    signals = frozenset({"train_loss"})
    source = "a common baseline of the field, of no one paper: softmax of mean losses"

    temperature: float = 1.0
    c: float = 0.0

    def __post_init__(self) -> None:
        check_options(self, temperature="positive", c="share")

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights; no loss is known."""
        count = len(sources.names)
        return MixtureState(even(count), {"loss": np.full(count, np.nan)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Return the softmax of the last known losses."""
        loss = last_known(seen.need("train_loss"), state.memory["loss"])
        return MixtureState(softmax(fill_unknown(loss) / self.temperature, self.c), {"loss": loss})


@dataclass(frozen=True)
class RefLoss(MixingStrategy):
    """Weight moves to sources whose training loss is far above that of a finished `uniform` run.

    Algorithm 1 with Δ_i = loss_i − reference_i: the training loss since the last update (the last known one if a
    source was not seen) minus the uniform run's last loss of that source. A source whose loss or reference is unknown
    takes the mean Δ of the others.

    Attributes:
        eta: step size η on the difference of losses.
        c: share of the weights that is spread evenly.
    """

    name = "ref_loss"
    signals = frozenset({"train_loss"})
    source = f"{PAPER}, table 1 (RefLoss); after Xia et al. 2023 (arXiv:2310.06694)"
    needs = "uniform"

    eta: float = 1.0
    c: float = 1e-4

    def __post_init__(self) -> None:
        check_options(self, eta="not negative", c="share")

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights, and remember the uniform run's losses."""
        reference = sources.need_reference(self.name).losses.astype(np.float64)
        return MixtureState(even(len(sources.names)), {"reference": reference})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources that are furthest above the uniform run."""
        return self._move(state, seen.need("train_loss"), state.memory["reference"])

    def _move(self, state: MixtureState, loss: Floats, reference: Floats) -> MixtureState:
        loss = last_known(loss, state.memory.get("loss"))
        gain = fill_unknown(loss - reference)
        return MixtureState(reweigh(state.weights, self.eta * gain, self.c), {**state.memory, "loss": loss})


@dataclass(frozen=True)
class Sheared(RefLoss):
    """Weight moves to sources whose held-out loss is above its target, the loss of a finished `uniform` run.

    Dynamic batch loading, w ← (1 − c) softmax(log w + η (ℓ − target)) + c / K, with held-out losses ℓ. Variant: the
    difference is not clipped at zero, so weight also leaves a source that is below its target; targets are the
    finished `uniform` model's losses on held-out examples instead of a scaling law's predictions.

    Attributes:
        eta: step size η.
        c: share of the weights that is spread evenly.
    """

    name = "sheared"
    signals = frozenset({"probe_loss"})
    at_start = frozenset({"reference_loss"})
    source = "Xia et al. 2023, Sheared LLaMA (arXiv:2310.06694), Algorithm 1, without its clipping at zero"

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights; targets and losses are still unknown."""
        sources.need_reference(self.name)
        unknown = np.full(len(sources.names), np.nan)
        return MixtureState(even(len(sources.names)), {"target": unknown, "loss": unknown.copy()})

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Remember the uniform model's held-out losses as targets."""
        target = seen.need("reference_loss").astype(np.float64)
        return MixtureState(state.weights, {**state.memory, "target": target.copy()})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources that are furthest above their targets."""
        return self._move(state, seen.need("probe_loss"), state.memory["target"])


@dataclass(frozen=True)
class VersaTune(Sheared):
    """Weights are multiplied by e to the held-out loss minus that of a finished `uniform` run: w ∝ w e^{σ (ℓ − ℓ_ref)}.

    The learnable potential of VersaTune's domain-robust training as a multiplicative rule. The reference is the
    finished `uniform` model on the same held-out examples.

    Attributes:
        eta: σ, the strength of an update.
        c: share of the weights that is spread evenly (0 in the paper).
    """

    name = "versatune"
    source = "Lu et al. 2024, VersaTune (arXiv:2411.11266): w ∝ w exp(loss − reference loss), held-out losses"

    c: float = 0.0
