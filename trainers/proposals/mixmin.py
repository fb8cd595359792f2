"""MixMin: weights under which the mixture of the sources' own models predicts best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Floats
from trainers.mixing.simplex import even
from trainers.proposals.laws import Law, Proxy, ProxyLosses, proxy_mixes

_STEPS, _RATE, _TOLERANCE = 100, 1.0, 1e-4  # of the released code


@dataclass(frozen=True)
class MixMin(Law):
    """One proxy per source alone; the loss of a mix is that of the mixture of their predictions.

    With p_k(x) the probability that the model of source k gives the answer of an example x of n_x target tokens,

        L(w) = −Σ_j target_j mean_{x in j} log(Σ_k w_k p_k(x)) / n_x,

    which is convex; exponentiated gradient descent finds its minimum. Further proxies, of which the first runs the
    prior, take no part in the fit: they show how well it predicts.

    Attributes:
        log_probability: for each set, f64[K, n], log p_k(x).
        tokens: for each set, f64[n], n_x.
        target: f64[J], how much the loss of each set counts.
    """

    name = "mixmin"
    source = "Thudi et al. 2025, MixMin (arXiv:2502.10510), as released (Anvith-Thudi/MixMin, 2c9515a), on all examples"

    log_probability: tuple[Floats, ...]
    tokens: tuple[Floats, ...]
    target: Floats

    @classmethod
    def design(cls, prior: Floats, count: int, seed: int) -> list[Proxy]:
        """Return the prior, each source alone, and further mixes around the prior."""
        alone = [Proxy(each) for each in np.eye(len(prior))]
        others = [Proxy(mix) for mix in proxy_mixes(prior, max(1, count - len(prior)), seed)]
        return [others[0], *alone, *others[1:]]

    @classmethod
    def fewest(cls, sources: int) -> int:
        """Return the number of proxies that are needed at least: each source alone, and three to check the law."""
        return sources + 3

    @classmethod
    def fit(cls, runs: ProxyLosses, target: Floats, seed: int) -> MixMin:
        """Take what the models of single sources predict."""
        alone = [int(np.flatnonzero(runs.mixes[:, k] == 1.0)[0]) for k in range(runs.mixes.shape[1])]
        return cls(tuple(-nats[alone] for nats in runs.nats), runs.targets, target)

    @classmethod
    def left_out(cls, runs: ProxyLosses) -> Sequence[np.ndarray]:
        """Return all runs of several sources as one fold: no fit sees them."""
        return [runs.mixes.max(axis=1) < 1.0]

    def predict(self, runs: ProxyLosses) -> Floats:
        """Return the target's loss of the mixture under each mix, f64[N]."""
        return np.array([self.value(mix) for mix in runs.mixes])

    def value(self, weights: Floats) -> float:
        """Return the target's loss of the mixture of predictions."""
        return self._descent(weights)[0]

    def best(self, prior: Floats, seed: int) -> Floats:
        """Return the minimum, from even weights."""
        weights = even(len(prior))
        for _ in range(_STEPS):
            slope = self._descent(weights)[1]
            weights = weights * np.exp(-_RATE * slope)
            weights = weights / weights.sum()
            if np.abs(slope).max() < _TOLERANCE:
                break
        return weights

    def _descent(self, weights: Floats) -> tuple[float, Floats]:
        """Return the loss and its gradient."""
        loss, slope = 0.0, np.zeros(len(weights))
        for share, log_p, tokens in zip(self.target, self.log_probability, self.tokens, strict=True):
            if share == 0:
                continue
            top = log_p.max(axis=0)
            relative = np.exp(log_p - top)
            mixture = weights @ relative
            loss -= share * float(((np.log(mixture) + top) / tokens).mean())
            slope -= share * (relative / mixture / tokens).mean(axis=1)
        return loss, slope
