"""Online data mixing: sources as arms of a bandit whose reward is their training loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import even, require_share

_PAPER = "Albalak et al. 2023, Efficient Online Data Mixing (arXiv:2312.02406)"


@dataclass(frozen=True)
class OnlineMixing(MixingStrategy):
    """Sources with a high training loss are drawn more, with exploration that fades (moving average).

    The variant of the released code: a moving average of the exponential of the loss is the reward, and probabilities
    are rewards normalised. At the t-th update, for every source seen since the last one,

        R_i ← α R_i + (1 − α) e^{loss_i},   p = (1 − Kε) R / ΣR + ε,   ε = min(1/K, √(ln K / (K t))).

    R begins at zero; rewards are kept as logarithms, so no loss is too large.

    Attributes:
        alpha: how much of the old reward is kept, α.
    """

    name = "odm"
    signals = frozenset({"train_loss"})
    source = f"{_PAPER}, as in the released code"

    alpha: float = 0.9

    def __post_init__(self) -> None:
        require_share(self.alpha, "odm.alpha")
        if self.alpha == 1:
            raise MoemixError("alpha is 1, and no loss would ever count", where="odm.alpha")

    def init(self, sources: Sources) -> MixtureState:
        count = len(sources.names)
        return MixtureState(even(count), {"log_reward": np.full(count, -np.inf), "updates": np.array(0)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        loss_K = seen.need("train_loss")
        updates = int(state.memory["updates"]) + 1
        log_K = state.memory["log_reward"].copy()
        known_K = np.isfinite(loss_K)
        with np.errstate(divide="ignore"):
            kept_K = np.log(self.alpha) + log_K[known_K]
        log_K[known_K] = np.logaddexp(kept_K, math.log1p(-self.alpha) + loss_K[known_K])
        return MixtureState(explored(log_K, updates), {"log_reward": log_K, "updates": np.array(updates)})


@dataclass(frozen=True)
class OnlineMixingExp3(MixingStrategy):
    """Sources with a high training loss are drawn more, with exploration that fades (Exp3).

    The paper's own rule. At the t-th update, for every source seen since the last one, with ε_t as in `odm`,

        R_i ← R_i + (loss_i / scale) / p_i,   p = (1 − K ε_t) softmax(ε_{t−1} R) + ε_t.

    Attributes:
        scale: what losses are divided by, so that rewards are about one at most (the paper: 10).
        warmup: updates at the beginning after which weights stay even, while rewards are gathered.
    """

    name = "odm_exp3"
    signals = frozenset({"train_loss"})
    source = f"{_PAPER}, Algorithm 1 (Exp3)"

    scale: float = 10.0
    warmup: int = 1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise MoemixError(f"scale is {self.scale}; it must be finite and positive", where="odm_exp3.scale")
        if self.warmup < 0:
            raise MoemixError(f"warmup is {self.warmup}; it is a number of updates", where="odm_exp3.warmup")

    def init(self, sources: Sources) -> MixtureState:
        count = len(sources.names)
        return MixtureState(even(count), {"reward": np.zeros(count), "updates": np.array(0)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        loss_K = seen.need("train_loss")
        updates = int(state.memory["updates"]) + 1
        gain_K = np.where(np.isfinite(loss_K), loss_K, 0.0) / self.scale / state.weights
        reward_K = state.memory["reward"] + gain_K
        weights_K = state.weights
        if updates > self.warmup:
            weights_K = explored(exploration(len(loss_K), updates - 1) * reward_K, updates)
        return MixtureState(weights_K.copy(), {"reward": reward_K, "updates": np.array(updates)})


def exploration(count: int, updates: int) -> float:
    """ε = min(1/K, √(ln K / (K t))): the least probability of a source at the t-th update; 1/K before the first."""
    return min(1.0 / count, math.sqrt(math.log(count) / (count * updates))) if updates else 1.0 / count


def explored(log_reward_K: Floats, updates: int) -> Floats:
    """(1 − Kε) R / ΣR + ε from the logarithms of R; even where no source has a reward."""
    count = len(log_reward_K)
    top = log_reward_K.max()
    if top == -np.inf:
        return even(count)
    share_K = np.exp(log_reward_K - top)
    epsilon = exploration(count, updates)
    weights_K = np.maximum((1.0 - count * epsilon) * share_K / share_K.sum() + epsilon, np.finfo(np.float64).tiny)
    return weights_K / weights_K.sum()
