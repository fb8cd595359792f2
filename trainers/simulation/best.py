"""The best fixed mix of a simulated world, by convex optimisation, with a bound on how far from the best it can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from trainers.mixing.base import Floats
from trainers.simulation.ground import Ground

TOLERANCE = 1e-7  # of the objective, which is of order 1
NEW_COLUMNS = 8


@dataclass(frozen=True)
class Best:
    """The best fixed mix.

    Attributes:
        weights: f64[K].
        loss: the objective at the end of training.
        gap: no fixed mix has an objective below ``loss - gap``.
    """

    weights: Floats
    loss: float
    gap: float


def best_fixed(ground: Ground, exposure_KM: Floats) -> Best:
    """The weights w that minimise the objective of the skills ``w @ exposure_KM``.

    The objective is convex in the skills and those are linear in w, so a local minimum is the minimum, and for its
    gradient g at any w, w·g − min g bounds how much could still be won (the Frank–Wolfe gap). At most M + 1 sources are
    needed in a best mix: it is sought among few, and those that the gradient calls for are added until the gap is shut.

    Args:
        exposure_KM: f64[K, M], what all of training would teach from each source alone.
    """

    def gradient(weights_K: Floats) -> Floats:
        slope_M: Floats = ground.slope(weights_K @ exposure_KM) / ground.world.skills
        return exposure_KM @ slope_M

    weights_K = np.full(len(exposure_KM), 1.0 / len(exposure_KM))
    chosen = np.zeros(0, np.int64)
    for _ in range(len(exposure_KM) + 1):
        slopes_K = gradient(weights_K)
        gap = float(weights_K @ slopes_K - slopes_K.min())
        wanted = np.setdiff1d(np.argsort(slopes_K, kind="stable")[:NEW_COLUMNS], chosen)
        if gap < TOLERANCE or (not wanted.size and len(chosen)):
            break
        chosen = np.union1d(chosen[weights_K[chosen] > 0], wanted)
        weights_K = np.zeros(len(exposure_KM))
        weights_K[chosen] = _among(ground, exposure_KM[chosen])
    slopes_K = gradient(weights_K)
    gap = max(0.0, float(weights_K @ slopes_K - slopes_K.min()))
    return Best(weights_K, ground.objective(weights_K @ exposure_KM), gap)


def _among(ground: Ground, exposure_SM: Floats) -> Floats:
    """The best weights of a few sources."""
    count = len(exposure_SM)
    found = minimize(
        lambda w_S: ground.objective(np.maximum(w_S, 0) @ exposure_SM),
        np.full(count, 1.0 / count),
        jac=lambda w_S: exposure_SM @ ground.slope(np.maximum(w_S, 0) @ exposure_SM) / ground.world.skills,
        bounds=[(0.0, 1.0)] * count,
        constraints={"type": "eq", "fun": lambda w_S: w_S.sum() - 1.0, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    weights_S = np.maximum(found.x, 0.0)
    return weights_S / weights_S.sum()
