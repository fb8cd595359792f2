"""Online data mixing: sources are the arms of a bandit, and their training loss is the reward."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import SMALLEST, check_options, even, normalised

_PAPER = "Albalak et al. 2023, Efficient Online Data Mixing (arXiv:2312.02406)"


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
    source = f"{_PAPER}, as in the released code"

    alpha: float = 0.9

    def __post_init__(self) -> None:
        check_options(self, alpha="share below 1")

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights, without rewards."""
        count = len(sources.names)
        return MixtureState(even(count), {"log_reward": np.full(count, -np.inf), "updates": np.array(0)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Add the losses to the moving averages, and draw in proportion to them."""
        loss = seen.need("train_loss")
        updates = int(state.memory["updates"]) + 1
        log_reward = state.memory["log_reward"].copy()
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
    source = f"{_PAPER}, Algorithm 1 (Exp3)"

    scale: float = 10.0
    warmup: int = 1

    def __post_init__(self) -> None:
        check_options(self, scale="positive", warmup="not negative")

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights, without rewards."""
        count = len(sources.names)
        return MixtureState(even(count), {"reward": np.zeros(count), "updates": np.array(0)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Add the losses to the rewards, and draw by their softmax."""
        loss = seen.need("train_loss")
        updates = int(state.memory["updates"]) + 1
        gain = np.where(np.isfinite(loss), loss, 0.0) / self.scale / state.weights
        reward = state.memory["reward"] + gain
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
