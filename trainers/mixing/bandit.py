"""Bandits whose reward is what a trial step on each source would gain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import check_options, normalised, softmax


@dataclass(frozen=True)
class DynamixSFT(MixingStrategy):
    """Sources on which one step lowers the loss most are drawn more, around shares by size.

    With r_k the relative fall of the loss of a batch of source k by one trial step on it, scaled to 0…1 over the
    sources, and p⁰ the shares of the sources by size,

        Q ← α Q + (1 − α) r,   w = (1 − γ) norm(p⁰ e^{βQ}) + γ / K.

    Q begins at zero. A source that was not tried keeps its Q. If all rewards are equal, they count as zero.

    Attributes:
        alpha: the share α of the old reward that is kept.
        beta: sharpness β; 4 for a model of 1 B parameters in the paper, 5 for 8 B.
        gamma: share γ of the weights that is spread evenly.
    """

    name = "dynamix_sft"
    signals = frozenset({"look_ahead"})
    source = "Shin et al. 2025, DynamixSFT (arXiv:2508.12116v2), equations 2 to 5"

    alpha: float = 0.95
    beta: float = 4.0
    gamma: float = 0.3

    def __post_init__(self) -> None:
        check_options(self, alpha="share", beta="not negative", gamma="share")

    def init(self, sources: Sources) -> MixtureState:
        """Return the weights without any reward."""
        sizes = np.maximum(sources.sizes, 1).astype(np.float64)
        memory = {"prior": normalised(sizes), "reward": np.zeros(len(sizes))}
        return self._state(memory)

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Add what the trial steps gained, and draw around the shares by size."""
        fall, reward = seen.need("look_ahead"), state.memory["reward"].copy()
        known = np.isfinite(fall)
        if known.any():
            spread = np.ptp(fall[known])
            scaled = (fall[known] - fall[known].min()) / spread if spread > 0 else np.zeros(known.sum())
            reward[known] = self.alpha * reward[known] + (1.0 - self.alpha) * scaled
        return self._state({**state.memory, "reward": reward})

    def _state(self, memory: dict[str, np.ndarray]) -> MixtureState:
        logits = np.log(memory["prior"]) + self.beta * memory["reward"]
        return MixtureState(softmax(logits, self.gamma), memory)
