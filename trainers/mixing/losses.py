"""Weights from each source's loss: alone, as a bandit's reward, or compared with a finished uniform run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import (
    SMALLEST,
    check_options,
    even,
    fill_unknown,
    last_known,
    normalised,
    reweigh,
    softmax,
)
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

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Return the softmax of the last known losses."""
        loss = last_known(seen.need("train_loss"), state.memory.get("loss"))
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


_BANDIT_PAPER = "Albalak et al. 2023, Efficient Online Data Mixing (arXiv:2312.02406)"


@dataclass(frozen=True)
class OnlineMixing(MixingStrategy):
    """Sources with a high training loss are drawn more, with decreasing exploration (moving average).

    The variant of the released code: the reward is a moving average of the exponential of the loss, and probabilities
    are normalised rewards. At the t-th update, for every source seen since the last one,

        R_i ← α R_i + (1 − α) e^{loss_i},   p = (1 − Kε) R / ΣR + ε,   ε = min(1/K, √(ln K / (K t))).

    R begins at zero. Rewards are stored as logarithms, so no loss is too large.

    Attributes:
        alpha: the share α of the old reward that is kept.
    """

    name = "odm"
    signals = frozenset({"train_loss"})
    source = f"{_BANDIT_PAPER}, as in the released code"

    alpha: float = 0.9

    def __post_init__(self) -> None:
        check_options(self, alpha="share below 1")

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Add the losses to the moving averages, and draw in proportion to them."""
        loss = seen.need("train_loss")
        updates = int(state.memory.get("updates", 0)) + 1
        log_reward = state.memory.get("log_reward", np.full(len(loss), -np.inf)).copy()
        known = np.isfinite(loss)
        with np.errstate(divide="ignore"):
            kept = np.log(self.alpha) + log_reward[known]
        log_reward[known] = np.logaddexp(kept, math.log1p(-self.alpha) + loss[known])
        weights = mix_exploration(log_reward, updates)
        return MixtureState(weights, {"log_reward": log_reward, "updates": np.array(updates)})


@dataclass(frozen=True)
class OnlineMixingExp3(MixingStrategy):
    """Sources with a high training loss are drawn more, with decreasing exploration (Exp3).

    The rule of the paper itself. At the t-th update, for every source seen since the last one, with ε_t as in `odm`,

        R_i ← R_i + (loss_i / scale) / p_i,   p = (1 − K ε_t) softmax(ε_{t−1} R) + ε_t.

    Attributes:
        scale: losses are divided by it, so that rewards are about one at most (10 in the paper).
        warmup: number of first updates after which weights stay even while rewards are collected.
    """

    name = "odm_exp3"
    signals = frozenset({"train_loss"})
    source = f"{_BANDIT_PAPER}, Algorithm 1 (Exp3)"

    scale: float = 10.0
    warmup: int = 1

    def __post_init__(self) -> None:
        check_options(self, scale="positive", warmup="not negative")

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Add the losses to the rewards, and draw by their softmax."""
        loss = seen.need("train_loss")
        updates = int(state.memory.get("updates", 0)) + 1
        gain = np.where(np.isfinite(loss), loss, 0.0) / self.scale / state.weights
        reward = state.memory.get("reward", 0.0) + gain
        weights = state.weights
        if updates > self.warmup:
            weights = mix_exploration(exploration(len(loss), updates - 1) * reward, updates)
        return MixtureState(weights.copy(), {"reward": reward, "updates": np.array(updates)})


def exploration(count: int, updates: int) -> float:
    """Return ε = min(1/K, √(ln K / (K t))), the least probability at the t-th update; 1/K before the first."""
    return min(1.0 / count, math.sqrt(math.log(count) / (count * updates))) if updates else 1.0 / count


def mix_exploration(log_reward: Floats, updates: int) -> Floats:
    """Return (1 − Kε) R / ΣR + ε, f64[K], given log R; even weights where no source has a reward."""
    count = len(log_reward)
    top = log_reward.max()
    if top == -np.inf:
        return even(count)
    share = np.exp(log_reward - top)
    epsilon = exploration(count, updates)
    weights = np.maximum((1.0 - count * epsilon) * share / share.sum() + epsilon, SMALLEST)
    return normalised(weights)
