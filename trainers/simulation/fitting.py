"""Fit a simulated world to trained models: what sources teach each other, and how fast their losses fall.

The model is that of every simulated world (``docs/simulation.md``), with as many skills as sources and nothing drawn.
Under a fixed mix ``w``, ``n = N (w A)`` examples teach the skills. Skill ``m`` then has the loss ``ℓ_m`` of its
learning curve, and source ``k`` the loss ``Σ_m A_km ℓ_m``. The losses of models trained on many mixes determine ``A``
and the curves by least squares.

Shapes: N mixes, K sources, L layers, E experts, U measurements of the gate load.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from trainers.mixing.base import Floats
from trainers.simulation.worlds import learning_curve

STARTS = 8  # of the search, which has local minima
LEAST = 1e-6  # the smallest share of a skill's tokens that an expert gets


@dataclass(frozen=True)
class Curves:
    """What was fitted.

    Attributes:
        teaching: f64[K, K], what an example of each source teaches; rows sum to 1.
        floor, gain, scale, power: f64[K], the parameters of the skills' learning curves.
    """

    teaching: Floats
    floor: Floats
    gain: Floats
    scale: Floats
    power: Floats

    def losses(self, mixes: Floats, examples: float) -> Floats:
        """Return each source's loss after a training on each mix, f64[N, K]."""
        learned = examples * mixes @ self.teaching
        skills = learning_curve(learned, self.floor, self.gain, self.scale, self.power)
        return np.asarray(skills @ self.teaching.T)


def fit_curves(mixes: Floats, losses: Floats, before: Floats, errors: Floats, examples: float) -> Curves:
    """Fit the curves to the losses of models trained on fixed mixes, and of the model before training.

    Args:
        mixes: f64[N, K].
        losses: of each source after training, nats per target token, f64[N, K].
        before: the same before training, f64[K].
        errors: standard errors of the losses, f64[K].
        examples: that a training draws.
    """
    count = mixes.shape[1]
    every = np.concatenate([mixes, np.zeros((1, count))])  # nothing is learnt from a mix of no examples
    seen = np.concatenate([losses, before[None]])

    def unpacked(values: Floats) -> Curves:
        parts = values.reshape(count + 4, count)
        shares = np.exp(parts[:count] - parts[:count].max(axis=1, keepdims=True))
        return Curves(shares / shares.sum(axis=1, keepdims=True), *np.exp(parts[count:]))

    def misses(values: Floats) -> Floats:
        return np.ravel((unpacked(values).losses(every, examples) - seen) / errors)

    least = np.maximum(losses.min(axis=0), 1e-4)
    first = np.vstack([
        4.0 * np.eye(count), np.log(0.8 * least), np.log(np.maximum(before - least, 1e-3)),
        np.full(count, np.log(500.0)), np.zeros(count),
    ]).ravel()  # fmt: skip
    low, high = np.full_like(first, -12.0), np.full_like(first, 12.0)
    low[-count:], high[-count:] = np.log(0.1), np.log(3.0)  # beyond these exponents curves differ in nothing
    rng = np.random.default_rng(0)
    starts = [first, *(first + rng.normal(0.0, 0.5, first.size) for _ in range(STARTS - 1))]
    found = [least_squares(misses, np.clip(start, low, high), bounds=(low, high)) for start in starts]
    return unpacked(min(found, key=lambda one: float(one.cost)).x)


def fit_routing(teaching: Floats, loads: Floats, times: Floats) -> tuple[Floats, float]:
    """Fit how skills are routed, and how much of their differences training leaves.

    Args:
        teaching: f64[K, K].
        loads: the gate loads of the sources, f64[U, K, L, E]; their unit does not matter.
        times: when they were measured, from 0 (start) to 1 (end), f64[U].

    Returns:
        f64[L, K, E], where the tokens of each skill are routed at the beginning, and ``routing_kept``, which is 1 where
        the differences grow, as worlds have no such growth.
    """
    shares = loads / loads.sum(axis=3, keepdims=True)
    apart = shares - shares.mean(axis=1, keepdims=True)
    spread = np.sqrt((apart**2).mean(axis=(1, 2, 3)))
    kept = float(np.clip(np.exp(np.polyfit(times, np.log(spread), 1)[0]), 1e-3, 1.0))
    start = shares.mean(axis=(0, 1)) + (apart / (kept ** times[:, None, None, None])).mean(axis=0)  # [K, L, E]
    by_skill = np.einsum("mk,kle->lme", np.linalg.pinv(teaching), start)
    by_skill = np.maximum(by_skill, LEAST)
    return by_skill / by_skill.sum(axis=2, keepdims=True), kept
