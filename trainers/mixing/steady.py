"""Our own rules: what the paper found, with a step of a stated size, and a balance at which weights settle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Array, Floats, MixingStrategy, MixtureState, Observation
from trainers.mixing.simplex import check_options, fill_unknown, last_known, reweigh

_OURS = "ours, after Zhu et al. 2025 (arXiv:2406.11256)"


@dataclass(frozen=True)
class Steady(MixingStrategy):
    """Weight moves to sources whose gate load is unlike the mixture's own, by a step of a stated size.

    With s_k the gate load of source k in each layer, normalised, D_k is its distance to the mixture's load Σ_j w_j s_j
    (the root of the mean square over all layers). The part of D_k² that counting n_k tokens alone would give,
    (1 − Σ s_k²) / n_k, is subtracted first. Then

        w' ∝ (1 − c) w e^{step · r · d} + c / K,   d = (D − mean D) / max |D − mean D|,

    where r, from 0 to 1, is the share of the variance of D that counting does not explain. So no logarithm of a weight
    changes by more than ``step`` in an update (before ``c``), whatever the scale of D. A source that gains weight draws
    the mixture to itself, and its D falls: weights settle instead of running to a corner. It also tells two sources
    apart.

    Attributes:
        step: the largest change of the logarithm of a weight in an update.
        c: share of the weights that is spread evenly.
    """

    name = "steady"
    signals = frozenset({"gate_load"})
    source = f"{_OURS}: all layers, distance to the mixture, sampling error subtracted"

    step: float = 0.2
    c: float = 0.05

    def __post_init__(self) -> None:
        check_options(self, step="not negative", c="share")

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources whose gate load is unlike the mixture's."""
        gain, memory = self._gain(state, seen)
        return MixtureState(reweigh(state.weights, self.step * gain, self.c), memory)

    def _gain(self, state: MixtureState, seen: Observation) -> tuple[Floats, dict[str, Array]]:
        """Return r · d, f64[K], from -1 to 1, and what to remember."""
        load = seen.need("gate_load")
        if "gate_load" in state.memory:
            load = np.where(load.sum(axis=2).all(axis=1)[:, None, None], load, state.memory["gate_load"])
        total = load.sum(axis=2)
        share = np.where(total[:, :, None] > 0, load / np.maximum(total, 1)[:, :, None], np.nan)
        noise = (1.0 - (share**2).sum(axis=2)) / np.maximum(total, 1)
        return _direction(share, noise, state.weights), {"gate_load": load}


@dataclass(frozen=True)
class SteadyProbability(Steady):
    """`steady` with the routers' full probabilities instead of counts, which also see what routers almost chose."""

    name = "steady_probability"
    signals = frozenset({"router_probability"})
    source = f"{_OURS}: router probabilities, distance to the mixture"

    def _gain(self, state: MixtureState, seen: Observation) -> tuple[Floats, dict[str, Array]]:
        share = last_known(seen.need("router_probability"), state.memory.get("router_probability"))
        return _direction(share, np.zeros(share.shape[:2]), state.weights), {"router_probability": share}


@dataclass(frozen=True)
class SteadyProgress(Steady):
    """`steady` and learning progress: weight moves to sources that are unlike the mixture and whose loss still falls.

    The direction is the mean of that of `steady` and that of the fall of each source's held-out loss per step, each at
    most 1.
    """

    name = "steady_progress"
    signals = frozenset({"gate_load", "learning_progress"})
    source = f"{_OURS}: `steady` and the slope of held-out losses"

    def _gain(self, state: MixtureState, seen: Observation) -> tuple[Floats, dict[str, Array]]:
        gain, memory = super()._gain(state, seen)
        return (gain + _centred(fill_unknown(seen.need("learning_progress")))) / 2, memory


def _direction(share: Floats, noise: Floats, weights: Floats) -> Floats:
    """Return r · d, f64[K], of loads f64[K, L, E] whose squared sampling errors are f64[K, L]; nan is unknown."""
    known = np.isfinite(share).all(axis=(1, 2))
    direction = np.zeros(len(weights))
    if not known.any():
        return direction
    share, noise = share[known], noise[known]
    part = weights[known] / weights[known].sum()
    squared = ((share - np.tensordot(part, share, 1)) ** 2).sum(axis=2)
    error = (1.0 - part[:, None]) ** 2 * noise + ((part**2) @ noise)[None] - part[:, None] ** 2 * noise
    distance = np.sqrt(np.maximum((squared - error).mean(axis=1), 0.0))
    # Counting disturbs a distance along one of the E − 1 directions of each layer, and layers independently.
    disturbed = noise.mean() / (noise.shape[1] * max(1, share.shape[2] - 1))
    reliable = max(0.0, 1.0 - disturbed / max(float(distance.var()), 1e-300))
    direction[known] = reliable * _centred(distance)
    return direction


def _centred(values: Floats) -> Floats:
    """Return values minus their mean, divided by the largest deviation; zeros if all are equal up to rounding."""
    deviation = values - values.mean()
    largest = float(np.abs(deviation).max())
    return deviation / largest if largest > 1e-12 * max(float(np.abs(values).max()), 1e-300) else np.zeros(len(values))
