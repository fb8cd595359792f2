"""Laws: each maps a mix to the losses it leads to, is fitted on proxy runs, and returns the mix that it calls best.

Shapes: N runs, K sources, J sets of held-out examples: those of the sources, then the recipe's target sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import StageError
from trainers.mixing.base import Floats
from trainers.mixing.simplex import minimise, normalised

if TYPE_CHECKING:
    from lightgbm import Booster

# Dirichlet concentrations per source around the prior, from mixes like the prior to mixes of few sources. RegMix (Liu
# et al. 2024, arXiv:2407.01492) likewise multiplies its prior by factors from 0.1 to 5.
NARROWEST, WIDEST = 5.0, 0.5
STARTS = 12  # of the least-squares fit of the mixing law
CANDIDATES, BEST = 100_000, 100  # of RegMix's search


def proxy_mixes(prior: Floats, count: int, seed: int) -> Floats:
    """Return the mixes of the proxy runs, f64[count, K]: the prior itself, then samples around it.

    A larger count begins with the same mixes, so that earlier runs can be used again.
    """
    rows = [prior]
    for i in range(1, count):
        rows.append(sample_mixes(prior, 1, np.random.default_rng((seed, i)))[0])
    # Mixes are part of a run's identity; rounded to six digits they are the same on every machine.
    mixes: Floats = np.array(rows).round(6)
    return mixes


def sample_mixes(prior: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return samples of Dirichlet(s · K · prior) with log s uniform, f64[count, K]."""
    scale = np.exp(rng.uniform(np.log(WIDEST), np.log(NARROWEST), count))
    gamma = rng.gamma(scale[:, None] * len(prior) * prior) + 1e-12
    total: Floats = gamma.sum(axis=1, keepdims=True)
    return gamma / total


@dataclass(frozen=True)
class Proxy:
    """A proxy run to train.

    Attributes:
        weights: f64[K].
        size: its steps, as a multiple of those of the proxies' recipe.
    """

    weights: Floats
    size: float = 1.0


@dataclass(frozen=True)
class ProxyLosses:
    """What proxy runs measured.

    Attributes:
        mixes: f64[N, K], the weights of each run.
        losses: f64[N, J], the mean loss per target token of each set.
        tokens: f64[N, K], the tokens of each source that each run was trained on.
        nats: for each set, f64[N, n], the summed loss of each of its examples.
        targets: for each set, f64[n], the target tokens of each example.
        per_weight: f64[K], tokens of each source in a run of the original recipe that draws it alone.
    """

    mixes: Floats
    losses: Floats
    tokens: Floats = field(default_factory=lambda: np.empty((0, 0)))
    nats: tuple[Floats, ...] = ()
    targets: tuple[Floats, ...] = ()
    per_weight: Floats = field(default_factory=lambda: np.empty(0))

    def of(self, chosen: NDArray[np.bool_]) -> ProxyLosses:
        """Return some of the runs."""
        return ProxyLosses(
            self.mixes[chosen],
            self.losses[chosen],
            self.tokens[chosen] if len(self.tokens) else self.tokens,
            tuple(nats[chosen] for nats in self.nats),
            self.targets,
            self.per_weight,
        )


class Law:
    """The interface of a law.

    Class attributes:
        name: the name on the command line.
        source: the paper and the variant.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    @classmethod
    def design(cls, prior: Floats, count: int, seed: int) -> list[Proxy]:
        """Return the proxies to train, the prior first; a larger count begins with the same ones."""
        return [Proxy(mix) for mix in proxy_mixes(prior, count, seed)]

    @classmethod
    def fewest(cls, sources: int) -> int:
        """Return the number of proxies that are needed at least: the mixing law of one loss has K + 1 parameters."""
        return sources + 2

    @classmethod
    def left_out(cls, runs: ProxyLosses) -> Sequence[NDArray[np.bool_]]:
        """Return for each fold which runs it leaves out of the fit to predict them, bool[N]."""
        return folds(len(runs.mixes))

    @classmethod
    def fit(cls, runs: ProxyLosses, target: Floats, seed: int) -> Law:
        """Fit the law to what the proxies measured.

        ``target``, f64[J], says how much the loss of each set counts, and sums to 1.
        """
        raise NotImplementedError

    def predict(self, runs: ProxyLosses) -> Floats:
        """Return the target's loss of each run, f64[N]."""
        raise NotImplementedError

    def value(self, weights: Floats) -> float:
        """Return the target's loss under these weights."""
        return float(self.predict(ProxyLosses(weights[None], np.empty((1, 0))))[0])

    def best(self, prior: Floats, seed: int) -> Floats:
        """Return the mix with the lowest predicted loss, f64[K]."""
        raise NotImplementedError


@dataclass(frozen=True)
class MixingLaw(Law):
    """L_j(w) = e^{c_j} + e^{t_j·w} for every set j, by least squares from several starts.

    The factor k_j of the paper's L_j = c_j + k_j e^{t_j·w} is included in t_j, because the weights sum to 1. Errors are
    relative to the spread of each set's losses, and large errors count linearly (the paper uses a Huber loss).

    Attributes:
        constant: f64[J], c.
        slope: f64[J, K], t.
        target: f64[J], how much the loss of each set counts.
    """

    name = "mixing_law"
    source = "Ye et al. 2024, Data Mixing Laws (arXiv:2403.16952), equation 7; the proxies' losses, not extrapolated"

    constant: Floats
    slope: Floats
    target: Floats

    @classmethod
    def fit(cls, runs: ProxyLosses, target: Floats, seed: int) -> MixingLaw:
        """Fit c and t of every set."""
        rng = np.random.default_rng(seed)
        found = np.array([_fit_one(runs.mixes, of_set, rng) for of_set in runs.losses.T])
        return cls(found[:, 0], found[:, 1:], target)

    def predict(self, runs: ProxyLosses) -> Floats:
        """Return the target's loss under each mix, f64[N]."""
        losses: Floats = np.exp(self.constant) + np.exp(runs.mixes @ self.slope.T)
        return losses @ self.target

    def best(self, prior: Floats, seed: int) -> Floats:
        """Return the minimum over all mixes; the sum of exponentials is convex, so there is only one.

        Raises:
            StageError: the solver did not reach it.
        """

        def value(weights: Floats) -> tuple[float, Floats]:
            rising = self.target * np.exp(self.slope @ weights)
            return float(rising.sum()), rising @ self.slope

        weights, message = minimise(value, prior, tolerance=1e-12)
        _, gradient = value(weights)
        gap = float(weights @ gradient - gradient.min())
        if not gap < 1e-3 * max(1.0, float(np.abs(gradient).max())):
            raise StageError(f"the search for the best mix under the law failed: {message}")
        return weights


def _fit_one(mixes: Floats, losses: Floats, rng: np.random.Generator) -> Floats:
    """Fit c and t of one set to its losses, f64[N]."""

    def law(p: Floats) -> Floats:
        found: Floats = np.exp(p[0]) + np.exp(mixes @ p[1:])
        return found

    def slopes(p: Floats) -> Floats:
        rising = np.exp(mixes @ p[1:])[:, None]
        return np.hstack([np.full_like(rising, np.exp(p[0])), rising * mixes])

    def starts() -> Iterator[Floats]:
        for constant in losses.min() * np.array([0.5, *rng.uniform(0.02, 0.98, STARTS - 1)]):
            # The constant takes a part of the lowest loss; the logarithm of the rest is then linear in the mix.
            slope, *_ = np.linalg.lstsq(mixes, np.log(losses - constant), rcond=None)
            yield np.append(np.log(constant), np.clip(slope, -20, 20))

    return best_fit(law, losses, starts(), (-30, 30), slopes)


def best_fit(
    law: Callable[[Floats], Floats],
    losses: Floats,
    starts: Iterable[Floats],
    bounds: tuple[object, object],
    slopes: Callable[[Floats], Floats] | None = None,
) -> Floats:
    """Return the parameters under which a law fits losses, f64[N], best; large errors count linearly.

    ``slopes`` returns the derivatives of the law, f64[N, P]; without it they are measured.
    """
    from scipy.optimize import least_squares

    spread = max(float(losses.std()), 1e-9)
    jacobian = (lambda p: slopes(p) / spread) if slopes else "2-point"
    fits = (
        least_squares(lambda p: (law(p) - losses) / spread, start, jacobian, bounds, x_scale="jac", loss="soft_l1")
        for start in starts
    )
    best: Floats = min(fits, key=lambda fit: float(fit.cost)).x
    return best


@dataclass(frozen=True)
class RegMix(Law):
    """LightGBM regression from the mix to the target's loss; the best mix is the mean of the best 100 of 100,000.

    Learning rate 0.01 and 1,000 trees, as released. There is no early stopping, because few proxies leave no run for
    it, and leaves may contain few runs for the same reason.

    Attributes:
        trees: the fitted booster.
    """

    name = "regmix"
    source = "Liu et al. 2024, RegMix (arXiv:2407.01492): LightGBM, Dirichlet search, mean of the best 100"

    trees: Booster

    @classmethod
    def fit(cls, runs: ProxyLosses, target: Floats, seed: int) -> RegMix:
        """Fit the trees to the target's loss."""
        import lightgbm

        count = len(runs.mixes)
        parameters = {
            "objective": "regression",
            "learning_rate": 0.01,
            "num_leaves": max(2, min(31, count // 2)),
            "min_data_in_leaf": max(1, count // 20),
            "min_data_in_bin": 1,
            "seed": seed % 2**31,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": 1,
            "verbose": -1,
        }
        data = lightgbm.Dataset(runs.mixes, runs.losses @ target, params={"verbose": -1, "min_data_in_bin": 1})
        return cls(lightgbm.train(parameters, data, num_boost_round=1000))

    def predict(self, runs: ProxyLosses) -> Floats:
        """Return the target's loss under each mix, f64[N]."""
        return np.asarray(self.trees.predict(runs.mixes, num_threads=1), dtype=np.float64)

    def best(self, prior: Floats, seed: int) -> Floats:
        """Return the mean of the best of very many sampled mixes."""
        candidates = sample_mixes(prior, CANDIDATES, np.random.default_rng(seed))
        predicted = self.predict(ProxyLosses(candidates, np.empty((CANDIDATES, 0))))
        lowest = np.argsort(predicted, kind="stable")[:BEST]
        mean: Floats = candidates[lowest].mean(axis=0)
        return normalised(mean)


def folds(count: int, most: int = 10) -> list[NDArray[np.bool_]]:
    """Return for each of at most ``most`` folds which of ``count`` runs it leaves out, bool[count]."""
    number = min(count, most)
    return [np.arange(count) % number == fold for fold in range(number)]
