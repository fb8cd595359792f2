"""DMO: a scaling law of each source in its own data and in what is transferred from the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.errors import StageError
from trainers.mixing.base import Floats
from trainers.mixing.simplex import minimise
from trainers.proposals.laws import STARTS, Law, Proxy, ProxyLosses, best_fit

_FACTORS = (3.0, 1 / 4, 2.0, 1 / 2)  # of the size of one source, those of the paper's fits


@dataclass(frozen=True)
class TransferLaw(Law):
    """L_i = C_i (N_i + k_i M_i^{α_i})^{−β_i} + E_i for every source i, by least squares from several starts.

    N_i are the tokens of source i in a training, M_i those of all others, of which k_i M_i^{α_i} ≤ M_i are worth as
    much as its own. Each proxy changes the amount of data of one source, the others' stay, so trainings differ in
    length. The released code fits β_i on trainings of single sources first; here all five parameters are fitted
    together, to all proxies, with tokens in units of their mean.

    Attributes:
        parameters: f64[K, 5]: log C, κ (k M^α = κ (M / mean M)^α · mean M), α, β and E of each source.
        unit: the mean number of tokens of a source in a proxy.
        others: f64[K], the mean tokens of all other sources.
        per_weight: f64[K], tokens of each source in a run of the recipe that draws it alone.
        target: f64[K], how much the loss of each source counts.
    """

    name = "dmo"
    source = "Li et al. 2025, DMO (arXiv:2508.11953), equation 4 and Algorithm 1; BrevityD/Data-Mixing-Optimization"

    parameters: Floats
    unit: float
    others: Floats
    per_weight: Floats
    target: Floats

    @classmethod
    def design(cls, prior: Floats, count: int, seed: int) -> list[Proxy]:
        """Return the prior, and then proxies with another amount of one source."""
        proxies = [Proxy(prior)]
        for factor in _FACTORS:
            for k in range(len(prior)):
                data = prior.copy()
                data[k] *= factor
                proxies.append(Proxy((data / data.sum()).round(6), float(data.sum())))
        if count > len(proxies):
            rng = np.random.default_rng(seed)
            for _ in range(count - len(proxies)):
                data = prior * np.exp(rng.uniform(np.log(1 / 4), np.log(3), len(prior)))
                proxies.append(Proxy((data / data.sum()).round(6), float(data.sum())))
        return proxies[:count]

    @classmethod
    def fewest(cls, sources: int) -> int:
        """Return the number of proxies that are needed at least: the prior, and each source with more and with less."""
        return max(6, 1 + 2 * sources)

    @classmethod
    def fit(cls, runs: ProxyLosses, target: Floats, seed: int) -> TransferLaw:
        """Fit the law of each source."""
        rng = np.random.default_rng(seed)
        own, unit = runs.tokens, float(runs.tokens.mean())
        rest = own.sum(axis=1, keepdims=True) - own
        others = rest.mean(axis=0)
        found = [
            _fit_one(own[:, k] / unit, rest[:, k] / others[k], others[k] / unit, runs.losses[:, k], rng)
            for k in range(own.shape[1])
        ]
        return cls(np.array(found), unit, others, runs.per_weight, target[: own.shape[1]])

    def predict(self, runs: ProxyLosses) -> Floats:
        """Return the target's loss of each run, f64[N]."""
        return self._losses(runs.tokens) @ self.target

    def value(self, weights: Floats) -> float:
        """Return the target's loss of a run of the recipe with these weights."""
        return float(self._losses((weights * self.per_weight)[None])[0] @ self.target)

    def best(self, prior: Floats, seed: int) -> Floats:
        """Return the minimum over all mixes.

        Raises:
            StageError: the solver did not reach it.
        """

        def value(weights: Floats) -> tuple[float, Floats]:
            at, steps = self.value(weights), 1e-6 * np.eye(len(weights))
            return at, np.array([(self.value(np.maximum(weights + step, 0)) - at) / 1e-6 for step in steps])

        weights, message = minimise(value, prior, tolerance=1e-12)
        if not np.isfinite(weights).all() or self.value(weights) > self.value(prior) + 1e-9:
            raise StageError(f"the search for the best mix under the law failed: {message}")
        return weights

    def _losses(self, tokens: Floats) -> Floats:
        """Return the losses of trainings on so many tokens of each source, f64[N, K]."""
        rest = (tokens.sum(axis=1, keepdims=True) - tokens) / self.others
        return np.stack(
            [
                _law(each, tokens[:, k] / self.unit, rest[:, k], self.others[k] / self.unit)
                for k, each in enumerate(self.parameters)
            ],
            axis=1,
        )


def _law(parameters: Floats, own: Floats, rest: Floats, scale: float) -> Floats:
    """Return L for tokens in units of their mean: own, the others, and the mean of the others in units of own."""
    log_c, kappa, alpha, beta, floor = parameters
    worth = own + kappa * scale * np.maximum(rest, 1e-9) ** alpha
    losses: Floats = np.exp(log_c) * np.maximum(worth, 1e-9) ** -beta + floor
    return losses


def _fit_one(own: Floats, rest: Floats, scale: float, losses: Floats, rng: np.random.Generator) -> Floats:
    """Fit the parameters of one source to its losses, f64[N]."""
    low = float(losses.min())

    def starts() -> Iterator[Floats]:
        for start in range(STARTS):
            share = 0.5 if start == 0 else rng.uniform(0.05, 0.95)
            beta = 0.3 if start == 0 else rng.uniform(0.05, 1.5)
            constant, worth = np.log(low * (1 - share) + 1e-9), rng.uniform((0.05, 0.1), 0.9)
            yield np.array([constant, *worth, beta, share * low])

    bounds = ([-30.0, 0.0, 0.0, 1e-3, 0.0], [30.0, 1.0, 1.0, 2.0, low])
    return best_fit(lambda parameters: _law(parameters, own, rest, scale), losses, starts(), bounds)
