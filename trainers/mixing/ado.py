"""ADO: each source's scaling law is fitted while training, and weights follow what it still promises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import even, last_known, require_finite, require_share

_POINTS = 64  # of a loss curve that are kept
_EXPONENTS = np.linspace(0.05, 0.8, 16)  # the released code bounds the exponent so
_GRID = range(len(_EXPONENTS))
_HIGHEST = 0.98  # of the least loss seen: the most that is irreducible


@dataclass(frozen=True)
class AdaptiveOptimization(MixingStrategy):
    """Sources whose fitted scaling law promises the largest fall of the loss are drawn more.

    With n examples seen in all, each source's training loss is fitted by L(n) = ε + β n^(−α). Then

        ρ ∝ prior · √(h (1 − h)) · α (L̂ − ε) / n,   w = (1 − γ) w̄ + γ ρ,

    where h is a moving average of the shares really drawn, w̄ the mean of all ρ so far, and no ρ is below ``floor``.
    Before ``warmup`` losses are known the weights are the prior. Variant: as in the released code (n counts examples
    of all sources, h (1 − h) for credit), but the law is fitted by least squares of the loss where that code runs
    L-BFGS on a Huber loss of its logarithm, and anew whenever n has grown by ``refit`` of itself, where that code
    fits every 1,000 steps.

    Attributes:
        prior: shares by the sources' sizes (``size``, as in the paper), or ``even`` ones.
        gamma: weight of the newest ρ, γ.
        history: how much of the moving average h is kept at an update.
        floor: least preference.
        warmup: observed losses before the first fit.
        refit: growth of n, as a share, after which the laws are fitted anew.
    """

    name = "ado"
    signals = frozenset({"train_loss"})
    source = "Jiang et al. 2024, Adaptive Data Optimization (arXiv:2410.11820), after the released code"

    prior: str = "size"
    gamma: float = 0.1
    history: float = 0.9
    floor: float = 0.01
    warmup: int = 4
    refit: float = 0.1

    def __post_init__(self) -> None:
        if self.prior not in ("size", "even"):
            raise MoemixError(f"prior is {self.prior!r}; it is `size` or `even`", where="ado.prior")
        for option in ("gamma", "history", "floor"):
            require_share(getattr(self, option), f"ado.{option}")
        require_finite(self.refit, "ado.refit")
        if self.warmup < 3:
            raise MoemixError(f"warmup is {self.warmup}; a law of three numbers needs three losses", where="ado.warmup")

    def init(self, sources: Sources) -> MixtureState:
        count = len(sources.names)
        prior_K = even(count)
        if self.prior == "size":
            sizes_K = np.maximum(sources.sizes, 1).astype(np.float64)
            prior_K = sizes_K / sizes_K.sum()
        memory = {
            "prior": prior_K,
            "drawn": prior_K.copy(),  # h
            "mean": prior_K.copy(),  # w̄
            "updates": np.array(0),
            "seen": np.zeros(count, dtype=np.int64),
            "n": np.empty(0),
            "losses": np.empty((0, count)),
            "law": np.zeros((3, count)),  # ε, β, α; β = 0 where there is none yet
            "fitted": np.array(0.0),  # n at the last fit
        }
        return MixtureState(prior_K, memory)

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        memory = dict(state.memory)
        fresh_K = seen.examples_seen - memory["seen"]
        if fresh_K.sum() > 0:
            share_K = fresh_K / fresh_K.sum()
            memory["drawn"] = self.history * memory["drawn"] + (1.0 - self.history) * share_K
        memory["seen"] = seen.examples_seen.copy()
        memory |= self._extended(memory, float(max(seen.examples_seen.sum(), 1)), seen.need("train_loss"))
        n = memory["n"][-1]
        if len(memory["n"]) >= self.warmup and n >= (1.0 + self.refit) * memory["fitted"]:
            memory |= {"law": fit_laws(memory["n"], memory["losses"]), "fitted": np.array(n)}
        if not memory["law"][1].any():
            return MixtureState(state.weights, memory)
        updates = int(memory["updates"]) + 1
        preference_K = self._preference(memory, n)
        weights_K = (1.0 - self.gamma) * memory["mean"] + self.gamma * preference_K
        mean_K = memory["mean"] + (preference_K - memory["mean"]) / (updates + 1)
        memory |= {"mean": mean_K, "updates": np.array(updates)}
        return MixtureState(weights_K / weights_K.sum(), memory)

    def _preference(self, memory: dict[str, np.ndarray], n: float) -> Floats:
        _, beta_K, alpha_K = memory["law"]
        slope_K = alpha_K * beta_K * n**-alpha_K / n
        drawn_K = memory["drawn"].clip(1e-9, 1.0 - 1e-9)
        wanted_K = memory["prior"] * np.sqrt(drawn_K * (1.0 - drawn_K)) * slope_K
        total = wanted_K.sum()
        share_K = wanted_K / total if np.isfinite(total) and total > 0 else memory["prior"]
        share_K = np.maximum(share_K, min(self.floor, 1.0 / len(share_K)))
        return np.maximum(share_K / share_K.sum(), np.finfo(np.float64).tiny)

    def _extended(self, memory: dict[str, np.ndarray], n: float, loss_K: Floats) -> dict[str, np.ndarray]:
        """The loss curves with one more point; when there are too many, every other one of the older half goes."""
        n_P, losses_PK = memory["n"], memory["losses"]
        loss_K = last_known(loss_K, losses_PK[-1] if len(losses_PK) else None)
        n_P, losses_PK = np.append(n_P, n), np.concatenate([losses_PK, loss_K[None]])
        if len(n_P) > _POINTS:
            kept = np.r_[0 : _POINTS // 2 : 2, _POINTS // 2 : len(n_P)]
            n_P, losses_PK = n_P[kept], losses_PK[kept]
        return {"n": n_P, "losses": losses_PK}


def fit_laws(n_P: Floats, losses_PK: Floats) -> Floats:
    """ε, β and α of L = ε + β n^(−α) for each of K loss curves, f64[3, K], by least squares; β = 0 without a fall.

    For a given α the best ε, from 0 to a little below the least loss, and β ≥ 0 are a linear regression, so only α is
    searched: on a grid that is refined twice around its best. Points that are not known are left out; a source with
    fewer than three has β = 0.
    """
    known_KP = np.isfinite(losses_PK.T)
    scale_K = np.where(known_KP, np.abs(losses_PK.T), 0.0).max(axis=1).clip(np.finfo(np.float64).tiny)
    loss_KP = np.where(known_KP, losses_PK.T / scale_K[:, None], 0.0)
    count_K = known_KP.sum(axis=1).clip(1)
    least_K = _HIGHEST * np.where(known_KP, loss_KP, np.inf).min(axis=1).clip(0.0, 1.0)
    log_P, row_K = np.log(n_P), np.arange(len(loss_KP))
    alpha_KA = np.broadcast_to(_EXPONENTS, (len(loss_KP), len(_EXPONENTS)))
    for _ in range(3):
        fits = [_regress(np.exp(-alpha_KA[:, [a]] * log_P), loss_KP, known_KP, count_K, least_K) for a in _GRID]
        error_KA, epsilon_KA, beta_KA = (np.stack(part, axis=1) for part in zip(*fits, strict=True))
        best_K = error_KA.argmin(axis=1)
        alpha_K, epsilon_K, beta_K = (values_KA[row_K, best_K] for values_KA in (alpha_KA, epsilon_KA, beta_KA))
        step_K = alpha_KA[:, 1] - alpha_KA[:, 0]
        around_KA = alpha_K[:, None] + step_K[:, None] * np.linspace(-1.0, 1.0, len(_EXPONENTS))
        alpha_KA = np.clip(around_KA, _EXPONENTS[0], _EXPONENTS[-1])
    beta_K = np.where(known_KP.sum(axis=1) >= 3, beta_K * scale_K, 0.0)
    return np.stack([epsilon_K * scale_K, beta_K, alpha_K])


def _regress(
    power_KP: Floats, loss_KP: Floats, known_KP: np.ndarray, count_K: Floats, least_K: Floats
) -> tuple[Floats, Floats, Floats]:
    """Squared error, ε and β of L ≈ ε + β p for each of K curves, with 0 ≤ ε ≤ least and β ≥ 0."""
    power_KP = power_KP * known_KP
    mean_power_K, mean_loss_K = power_KP.sum(axis=1) / count_K, loss_KP.sum(axis=1) / count_K
    cross_K = (power_KP * loss_KP).sum(axis=1) / count_K
    square_K = ((power_KP**2).sum(axis=1) / count_K).clip(np.finfo(np.float64).tiny)
    spread_K = (square_K - mean_power_K**2).clip(np.finfo(np.float64).tiny)
    slope_K = (cross_K - mean_power_K * mean_loss_K) / spread_K
    epsilon_K = np.clip(mean_loss_K - slope_K * mean_power_K, 0.0, least_K)
    beta_K = np.maximum((cross_K - epsilon_K * mean_power_K) / square_K, 0.0)
    rest_KP = (loss_KP - epsilon_K[:, None]) * known_KP - beta_K[:, None] * power_KP
    return (rest_KP**2).sum(axis=1), epsilon_K, beta_K
