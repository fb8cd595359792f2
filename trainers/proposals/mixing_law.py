"""The data mixing law: each source's loss is a constant plus an exponential of a linear function of the mix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares, minimize

from harness.errors import StageFailed
from trainers.mixing.base import Floats
from trainers.proposals.laws import Law

STARTS = 12


@dataclass(frozen=True)
class MixingLaw(Law):
    """L_j(w) = e^{c_j} + e^{t_j·w} for every source j, by least squares from several starts.

    The factor k_j of the paper's L_j = c_j + k_j e^{t_j·w} is in t_j, for the weights sum to 1. Errors are measured
    relative to the spread of each source's losses, and large ones count linearly (the paper: Huber loss).

    Attributes:
        constant_J, slope_JK: c and t.
        target_J: how much the loss of each source counts.
    """

    name = "mixing_law"
    source = "Ye et al. 2024, Data Mixing Laws (arXiv:2403.16952), equation 7; the proxies' losses, not extrapolated"

    constant_J: Floats
    slope_JK: Floats
    target_J: Floats

    @staticmethod
    def fewest(sources: int) -> int:
        return sources + 2  # the law of a source has sources + 1 numbers

    @classmethod
    def fit(cls, mixes_NK: Floats, losses_NK: Floats, target_K: Floats, seed: int) -> MixingLaw:
        rng = np.random.default_rng(seed)
        found = [_fit_one(mixes_NK, losses_N, rng) for losses_N in losses_NK.T]
        return cls(np.array([c for c, _ in found]), np.array([t_K for _, t_K in found]), target_K)

    def losses(self, mixes_NK: Floats) -> Floats:
        """f64[N, J], each source's loss under each mix."""
        return np.exp(self.constant_J) + np.exp(mixes_NK @ self.slope_JK.T)

    def predict(self, mixes_NK: Floats) -> Floats:
        found: Floats = self.losses(mixes_NK) @ self.target_J
        return found

    def best(self, prior_K: Floats, seed: int) -> Floats:
        """The minimum on the simplex; the sum of exponentials is convex, so there is only one.

        Raises:
            StageFailed: the solver did not reach it.
        """

        def value(w_K: Floats) -> tuple[float, Floats]:
            rising_J = self.target_J * np.exp(self.slope_JK @ w_K)
            return float(rising_J.sum()), rising_J @ self.slope_JK

        found = minimize(
            value,
            prior_K,
            jac=True,
            bounds=[(0.0, 1.0)] * len(prior_K),
            constraints={"type": "eq", "fun": lambda w_K: w_K.sum() - 1.0, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 1000},
        )
        weights_K = np.maximum(found.x, 0.0)
        weights_K /= weights_K.sum()
        _, slope_K = value(weights_K)
        gap = float(weights_K @ slope_K - slope_K.min())
        if not gap < 1e-3 * max(1.0, float(np.abs(slope_K).max())):
            raise StageFailed(f"the best mix under the law was not found: {found.message}")
        return weights_K


def _fit_one(mixes_NK: Floats, losses_N: Floats, rng: np.random.Generator) -> tuple[float, Floats]:
    """c and t of one source."""
    low, spread = float(losses_N.min()), max(float(losses_N.std()), 1e-9)

    def residuals(p: Floats) -> Floats:
        return (np.exp(p[0]) + np.exp(mixes_NK @ p[1:]) - losses_N) / spread

    def jacobian(p: Floats) -> Floats:
        rising_N1 = np.exp(mixes_NK @ p[1:])[:, None]
        return np.hstack([np.full_like(rising_N1, np.exp(p[0])), rising_N1 * mixes_NK]) / spread

    best, lowest = np.zeros(1 + mixes_NK.shape[1]), np.inf
    for start in range(STARTS):
        # the constant takes part of the lowest loss; the logarithm of what is left is then linear in the mix
        share = 0.5 if start == 0 else rng.uniform(0.02, 0.98)
        left_N = np.log(losses_N - share * low)
        slope_K, *_ = np.linalg.lstsq(mixes_NK, left_N, rcond=None)
        first = np.append(np.log(share * low), np.clip(slope_K, -20, 20))
        found = least_squares(residuals, first, jacobian, loss="soft_l1", bounds=(-30, 30), x_scale="jac")
        if found.cost < lowest:
            best, lowest = found.x, found.cost
    return float(best[0]), best[1:]
