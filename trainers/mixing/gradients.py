"""Shares of the draws from the gradients of the sources: how well they agree, how long and how noisy they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import MixingStrategy, MixtureState, Observation
from trainers.mixing.simplex import check_options, fill_unknown, last_known, reweigh, softmax


@dataclass(frozen=True)
class RegroupBalance(MixingStrategy):
    """Sources whose gradient agrees with the mean gradient of all are drawn more.

    The Balance part of R&B. With G_ij = ⟨g_i, g_j⟩, g_i the gradient of source i, and p the shares of the sources in
    what is evaluated (here even),

        w = softmax(λ G p / ‖G p‖₂).

    Weights follow from the newest gradients alone. Inner products are those of sketches. The Regroup part, which
    clusters the examples first, is a matter of the sources in the recipe. Without any gradient weights stay.

    Attributes:
        strength: λ; 3 in the paper's runs that name it.
    """

    name = "rnb"
    signals = frozenset({"gradient"})
    source = "Ge et al. 2025, R&B (arXiv:2505.00358), Algorithm 1 (Balance); gradients of held-out examples"

    strength: float = 3.0

    def __post_init__(self) -> None:
        check_options(self, strength="not negative")

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Return the weights that these gradients ask for."""
        gradient = np.nan_to_num(seen.need("gradient").astype(np.float64))
        known = gradient.any(axis=1)
        if not known.any():
            return state
        scaled = gradient / np.abs(gradient).max()  # only directions count, and squares must not overflow
        agreement = scaled @ scaled[known].mean(axis=0)
        length = float(np.linalg.norm(agreement[known]))
        if length == 0:
            return state
        return MixtureState(softmax(self.strength * fill_unknown(np.where(known, agreement / length, np.nan))))


@dataclass(frozen=True)
class PiKE(MixingStrategy):
    """Sources with long gradients are drawn more, those with noisy gradients less.

    With ‖∇L_k‖² the squared norm of source k's gradient and σ_k² the variance of the gradient of one of its examples,

        w_k ∝ w_k e^{ζ₁ ‖∇L_k‖² − ζ₂ σ_k² / (2b)},

    where b is the number of examples in a batch. The paper tunes ζ₁ and ζ₂ for each model, so the defaults are ours.

    Attributes:
        gradient: ζ₁.
        noise: ζ₂.
        batch: b.
        c: share of the weights that is spread evenly (0 in the paper).
    """

    name = "pike"
    signals = frozenset({"gradient_noise"})
    source = "Li et al. 2025, PiKE (arXiv:2502.06244), Algorithm 1; gradients of held-out examples"

    gradient: float = 0.1
    noise: float = 0.1
    batch: int = 128
    c: float = 0.0

    def __post_init__(self) -> None:
        check_options(self, gradient="not negative", noise="not negative", batch="at least 1", c="share")

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to sources with long and steady gradients."""
        measured = last_known(seen.need("gradient_noise"), state.memory.get("gradient_noise"))
        gain = self.gradient * measured[:, 0] - self.noise * measured[:, 1] / (2 * self.batch)
        weights = reweigh(state.weights, fill_unknown(gain), self.c)
        return MixtureState(weights, {"gradient_noise": measured})
