"""Weights from each source's loss: alone, as a bandit's reward, or compared with a finished uniform run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

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
    """Weight moves to sources whose held-out loss is far above that of a finished `uniform` run.

    With ℓ the held-out loss and ℓ_ref that of the finished `uniform` model on the same examples,

        w ← (1 − c) softmax(log w + η (ℓ − ℓ_ref)) + c / K.

    It is the rule of three papers. `sheared` is the same under another name: Sheared LLaMA takes targets from a scaling
    law where this takes them from the `uniform` run, and its code does not clip the difference at zero. `versatune` has
    c = 0. A source whose loss or reference is unknown takes the mean difference of the others.

    Attributes:
        eta: step size η on the difference of losses.
        c: share of the weights that is spread evenly.
    """

    name = "ref_loss"
    signals = frozenset({"probe_loss"})
    at_start = frozenset({"reference_loss"})
    source = (
        f"{PAPER}, table 1 (RefLoss), as released; the rule of Xia et al. 2023, Sheared LLaMA (arXiv:2310.06694), and"
        " of Lu et al. 2024, VersaTune (arXiv:2411.11266)"
    )
    needs = "uniform"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"sheared": {}, "versatune": {"c": 0.0}}

    eta: float = 1.0
    c: float = 1e-4

    def __post_init__(self) -> None:
        check_options(self, eta="not negative", c="share")

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights; reference and losses are still unknown."""
        sources.need_reference(self.name)
        unknown = np.full(len(sources.names), np.nan)
        return MixtureState(even(len(sources.names)), {"reference": unknown, "loss": unknown.copy()})

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Remember the uniform model's held-out losses."""
        reference = seen.need("reference_loss").astype(np.float64)
        return MixtureState(state.weights, {**state.memory, "reference": reference.copy()})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources that are furthest above the uniform run."""
        loss = last_known(seen.need("probe_loss"), state.memory["loss"])
        gain = fill_unknown(loss - state.memory["reference"])
        return MixtureState(reweigh(state.weights, self.eta * gain, self.c), {**state.memory, "loss": loss})


_BANDIT_PAPER = "Albalak et al. 2023, Efficient Online Data Mixing (arXiv:2312.02406)"


@dataclass(frozen=True)
class OnlineMixing(MixingStrategy):
    """Sources with a high training loss are drawn more, with decreasing exploration (moving average).

    The variant of the released code: the reward is a moving average of the exponential of the loss, and probabilities
    are normalised rewards. At an update after t training steps, for every source seen since the last one,

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
        log_reward = state.memory.get("log_reward", np.full(len(loss), -np.inf)).copy()
        known = np.isfinite(loss)
        with np.errstate(divide="ignore"):
            kept = np.log(self.alpha) + log_reward[known]
        log_reward[known] = np.logaddexp(kept, math.log1p(-self.alpha) + loss[known])
        return MixtureState(_explore(log_reward, exploration(len(loss), seen.step)), {"log_reward": log_reward})


@dataclass(frozen=True)
class OnlineMixingExp3(MixingStrategy):
    """Sources with a high training loss are drawn more, with decreasing exploration (Exp3).

    The rule of the paper itself, as the released code has it. At an update after t training steps, for every source
    seen since the last one, with ε_t as in `odm` and ε' that of the last update (1/K before the first),

        R_i ← R_i + (loss_i / scale) / p_i,   p = (1 − K ε_t) softmax(ε' R) + ε_t.

    Attributes:
        scale: losses are divided by it, so that rewards are about one at most (10 in the paper).
        warmup: the share of the run in which weights stay even while rewards are collected (2 % in the released runs).
    """

    name = "odm_exp3"
    signals = frozenset({"train_loss"})
    source = f"{_BANDIT_PAPER}, Algorithm 1 (Exp3), as in the released code"

    scale: float = 10.0
    warmup: float = 0.02

    def __post_init__(self) -> None:
        check_options(self, scale="positive", warmup="share")

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights, no reward, and the length of the warm-up."""
        count = len(sources.names)
        memory = {"reward": np.zeros(count), "step": np.array(0), "warmup": np.array(self.warmup * sources.steps)}
        return MixtureState(even(count), memory)

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Add the losses to the rewards, and draw by their softmax."""
        loss, memory = seen.need("train_loss"), state.memory
        gain = np.where(np.isfinite(loss), loss, 0.0) / self.scale / state.weights
        reward, weights = memory["reward"] + gain, state.weights.copy()
        if seen.step > memory["warmup"]:
            before, now = (exploration(len(loss), step) for step in (int(memory["step"]), seen.step))
            weights = _explore(before * reward, now)
        return MixtureState(weights, {**memory, "reward": reward, "step": np.array(seen.step)})


def exploration(count: int, step: int) -> float:
    """Return ε = min(1/K, √(ln K / (K t))), the least probability after t training steps; 1/K before the first."""
    return min(1.0 / count, math.sqrt(math.log(count) / (count * step))) if step else 1.0 / count


def _explore(log_reward: Floats, epsilon: float) -> Floats:
    """Return (1 − Kε) R / ΣR + ε, f64[K], given log R; even weights where no source has a reward."""
    count = len(log_reward)
    top = log_reward.max()
    if top == -np.inf:
        return even(count)
    share = np.exp(log_reward - top)
    return normalised(np.maximum((1.0 - count * epsilon) * share / share.sum() + epsilon, SMALLEST))
