"""Win rates, and what they would be if both answers were of the same length; with intervals over questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.judge.verdicts import Pair
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, percentile_interval, resampling_weights

_REFITS = 400
_STEPS = 25
# Weak pulls to "no effect", so that a model that always wins, or a judge that only counts words, has finite estimates.
_PULL_MODEL, _PULL_LENGTH = 0.05, 0.05


def win_rate(pairs: Sequence[Pair], model: str) -> BootstrapInterval | None:
    """Adjusted win rate of a model over its pairs: wins, and half of the ties."""
    mine = [pair for pair in pairs if model in pair.models]
    if not mine:
        return None
    return ClusterBootstrap(pair.question for pair in mine).mean([_won(pair, model) for pair in mine])


def length_controlled(pairs: Sequence[Pair], model: str) -> BootstrapInterval | None:
    """The win rate at equal length.

    A logistic model of the outcome, ``logit P = θ + β · tanh(Δ / s)`` with Δ the difference of the two lengths and s
    its spread (Dubois et al. 2024, without their term for a question's difficulty), fitted by penalised maximum
    likelihood, ties counting half; the answer is the logistic of θ.
    """
    mine = [pair for pair in pairs if model in pair.models]
    clusters = ClusterBootstrap(pair.question for pair in mine)
    if clusters.count < 2:
        return None
    won = np.array([_won(pair, model) for pair in mine])
    signs = np.array([1.0 if pair.models[0] == model else -1.0 for pair in mine])
    apart = signs * np.array([pair.lengths[0] - pair.lengths[1] for pair in mine], dtype=np.float64)
    spread = float(apart.std())
    length = np.tanh(apart / spread) if spread > 0 else np.zeros(len(apart))
    drawn = resampling_weights(clusters.count, _REFITS)
    value = _fit(won, length, np.ones(len(mine))[None])[0]
    return percentile_interval(float(value), _fit(won, length, drawn[:, clusters.of]), len(mine))


def _fit(won: Any, length: Any, weights: Any) -> Any:
    """Newton's method for every row of ``weights`` f64[B, n] at once; the logistic of θ, f64[B]."""
    theta, beta = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        p = _logistic(theta[:, None] + beta[:, None] * length)
        error, curve = weights * (won - p), weights * p * (1 - p)
        g0, g1 = error.sum(1) - _PULL_MODEL * theta, error @ length - _PULL_LENGTH * beta
        h00 = curve.sum(1) + _PULL_MODEL
        h01 = curve @ length
        h11 = curve @ (length * length) + _PULL_LENGTH
        determinant = h00 * h11 - h01 * h01
        step0 = (h11 * g0 - h01 * g1) / determinant
        step1 = (h00 * g1 - h01 * g0) / determinant
        theta += np.clip(step0, -2, 2)
        beta += np.clip(step1, -2, 2)
    return _logistic(theta)


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(x, -40, 40)))


def _won(pair: Pair, model: str) -> float:
    value = (pair.value + 1) / 2
    return value if pair.models[0] == model else 1 - value
