"""ADO: a scaling law of each source is fitted during training, and weights follow what it still promises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from trainers.mixing.base import Array, Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import SMALLEST, check_options, even, last_known, normalised

_POINTS = 64  # of a loss curve that are kept
_EXPONENTS = np.linspace(0.05, 0.8, 16)  # the released code has the same bounds
_GRID = range(len(_EXPONENTS))
_HIGHEST = 0.98  # upper limit of the irreducible loss, as a share of the least loss seen


@dataclass(frozen=True)
class AdaptiveOptimization(MixingStrategy):
    """Sources whose fitted scaling law promises the largest fall of the loss are drawn more.

    With n examples seen in all, each source's training loss is fitted by L(n) = ε + β n^(−α). Then

        ρ ∝ prior · √h · α (L̂ − ε) / n,   w = (1 − γ) w̄ + γ ρ,

    where h is a moving average of the shares that were really drawn, w̄ the mean of ρ over all training steps so far
    (the prior before there is a law), and no ρ is below ``floor``. Until ``warmup`` losses are known the weights are
    the prior. As in the released code, n counts examples of all sources. Variant: the law is fitted by least squares of
    the loss, where that code runs L-BFGS on a Huber loss of its logarithm; and it is fitted again whenever n has grown
    by ``refit`` of itself, where that code fits every 1,000 steps.

    Attributes:
        prior: shares by the sources' sizes (``size``, as in the paper), or ``even`` shares.
        gamma: weight γ of the newest ρ.
        history: share of the moving average h that is kept at an update.
        floor: least preference.
        warmup: number of losses before the first fit.
        refit: growth of n, as a share, after which the laws are fitted again.
    """

    name = "ado"
    signals = frozenset({"train_loss"})
    source = "Jiang et al. 2024, Adaptive Data Optimization (arXiv:2410.11820), as corrected in the released code"

    prior: str = "size"
    gamma: float = 0.1
    history: float = 0.9
    floor: float = 0.01
    warmup: int = 4
    refit: float = 0.1

    def __post_init__(self) -> None:
        if self.prior not in ("size", "even"):
            raise MoemixError(f"prior is {self.prior!r}; it must be `size` or `even`", where="ado.prior")
        check_options(self, gamma="share", history="share", floor="share", refit="not negative")
        if self.warmup < 3:
            raise MoemixError(
                f"warmup is {self.warmup}; it must be at least 3, because a law has three parameters",
                where="ado.warmup",
            )

    def init(self, sources: Sources) -> MixtureState:
        """Return the prior as weights; no loss is known."""
        count = len(sources.names)
        prior = even(count)
        if self.prior == "size":
            sizes = np.maximum(sources.sizes, 1).astype(np.float64)
            prior = normalised(sizes)
        memory = {
            "prior": prior,
            "drawn": prior.copy(),  # h
            "mean": prior.copy(),  # w̄
            "step": np.array(0),
            "seen": np.zeros(count, dtype=np.int64),
            "n": np.empty(0),
            "losses": np.empty((0, count)),
            "law": np.zeros((3, count)),  # ε, β, α; β = 0 where there is no law yet
            "fitted": np.array(0.0),  # n at the last fit
        }
        return MixtureState(prior, memory)

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Extend the loss curves, fit their laws if it is time, and follow what they promise."""
        memory = dict(state.memory)
        fresh = seen.examples_seen - memory["seen"]
        if fresh.sum() > 0:
            memory["drawn"] = self.history * memory["drawn"] + (1.0 - self.history) * (fresh / fresh.sum())
        memory["seen"] = seen.examples_seen.copy()
        memory |= _extend_curves(memory, float(max(seen.examples_seen.sum(), 1)), seen.need("train_loss"))
        n = memory["n"][-1]
        if len(memory["n"]) >= self.warmup and n >= (1.0 + self.refit) * memory["fitted"]:
            memory |= {"law": fit_laws(memory["n"], memory["losses"]), "fitted": np.array(n)}
        steps, memory["step"] = seen.step - int(memory["step"]), np.array(seen.step)
        if not memory["law"][1].any():
            return MixtureState(state.weights, memory)
        preference = self._preference(memory, n)
        weights = (1.0 - self.gamma) * memory["mean"] + self.gamma * preference
        memory["mean"] = memory["mean"] + (preference - memory["mean"]) * steps / (seen.step + 1)
        return MixtureState(normalised(weights), memory)

    def _preference(self, memory: dict[str, Array], n: float) -> Floats:
        """Return ρ, f64[K]."""
        _, beta, alpha = memory["law"]
        slope = alpha * beta * n**-alpha / n
        preference = memory["prior"] * np.sqrt(memory["drawn"].clip(1e-9)) * slope
        total = preference.sum()
        share = preference / total if np.isfinite(total) and total > 0 else memory["prior"]
        share = np.maximum(share, min(self.floor, 1.0 / len(share)))
        return np.maximum(normalised(share), SMALLEST)


def _extend_curves(memory: dict[str, Array], n: float, loss: Floats) -> dict[str, Array]:
    """Return the loss curves with one more point; if there are too many, every other one of the older half goes."""
    counts, losses = memory["n"], memory["losses"]
    loss = last_known(loss, losses[-1] if len(losses) else None)
    counts, losses = np.append(counts, n), np.concatenate([losses, loss[None]])
    if len(counts) > _POINTS:
        kept = np.r_[0 : _POINTS // 2 : 2, _POINTS // 2 : len(counts)]
        counts, losses = counts[kept], losses[kept]
    return {"n": counts, "losses": losses}


def fit_laws(n: Floats, losses: Floats) -> Floats:
    """Fit L = ε + β n^(−α) to each of K loss curves by least squares, and return ε, β and α, f64[3, K].

    For a given α the best ε, from 0 to a little below the least loss, and β ≥ 0 are a linear regression. So only α is
    searched, on a grid that is refined twice around its best value. Unknown points are left out; a source with fewer
    than three points has β = 0, and so has one whose loss does not fall.

    ``n``, f64[P], are the examples seen at each point, ``losses`` f64[P, K], nan where unknown.
    """
    known = np.isfinite(losses.T)
    scale = np.where(known, np.abs(losses.T), 0.0).max(axis=1).clip(SMALLEST)
    curves = np.where(known, losses.T / scale[:, None], 0.0)
    count = known.sum(axis=1).clip(1)
    least = _HIGHEST * np.where(known, curves, np.inf).min(axis=1).clip(0.0, 1.0)
    log_n, row = np.log(n), np.arange(len(curves))
    grid = np.broadcast_to(_EXPONENTS, (len(curves), len(_EXPONENTS)))
    for _ in range(3):
        fits = [_regress(np.exp(-grid[:, [a]] * log_n), curves, known, count, least) for a in _GRID]
        error, epsilons, betas = (np.stack(part, axis=1) for part in zip(*fits, strict=True))
        best = error.argmin(axis=1)
        alpha, epsilon, beta = (values[row, best] for values in (grid, epsilons, betas))
        step = grid[:, 1] - grid[:, 0]
        around = alpha[:, None] + step[:, None] * np.linspace(-1.0, 1.0, len(_EXPONENTS))
        grid = np.clip(around, _EXPONENTS[0], _EXPONENTS[-1])
    beta = np.where(known.sum(axis=1) >= 3, beta * scale, 0.0)
    return np.stack([epsilon * scale, beta, alpha])


def _regress(
    power: Floats, loss: Floats, known: NDArray[np.bool_], count: NDArray[np.int64], least: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return squared error, ε and β of L ≈ ε + β p for each of K curves [K, P], with 0 ≤ ε ≤ least and β ≥ 0."""
    power = power * known
    mean_power, mean_loss = power.sum(axis=1) / count, loss.sum(axis=1) / count
    cross = (power * loss).sum(axis=1) / count
    square = ((power**2).sum(axis=1) / count).clip(SMALLEST)
    spread = (square - mean_power**2).clip(SMALLEST)
    slope = (cross - mean_power * mean_loss) / spread
    epsilon = np.clip(mean_loss - slope * mean_power, 0.0, least)
    beta = np.maximum((cross - epsilon * mean_power) / square, 0.0)
    rest = (loss - epsilon[:, None]) * known - beta[:, None] * power
    return (rest**2).sum(axis=1), epsilon, beta
