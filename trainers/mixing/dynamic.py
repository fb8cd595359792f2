"""The paper's dynamic mixing: sources that use the experts differently from the others get more weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.errors import MoemixError, unknown
from trainers.mixing.base import Floats, Ints, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.distances import Aggregate, Distance, dissimilarity
from trainers.mixing.static import PAPER

_LOAD = "gate_load"
_SMALLEST = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Dynamic(MixingStrategy):
    """Weight moves to sources whose gate load is unlike the others' (Algorithm 1).

    With the gate load of source i normalised over experts, and Δ_i its mean distance to all sources (itself included),

        α = softmax(log w + η Δ),   w' = (1 − c) α + c / K.

    A source without a single token in the observation keeps its last known load. Where none is known either it takes
    the mean Δ of the others, so that it is neither favoured nor punished for not having been seen.

    Attributes:
        eta: step size η on the distances.
        c: share of the weights that is spread evenly; every source keeps at least c / K.
        distance: ``l2``, or ``cos`` (one minus the cosine).
        aggregate: how a source's distances to all become one number.
        layers: MoE layers to look at, ``last``, ``all``, or a list of indices (negative from the end); distances are
            averaged over them, so η means the same for any number of layers.
    """

    name = "dynamic"
    signals = frozenset({_LOAD})
    source = f"{PAPER}, Algorithm 1"

    eta: float = 10.0
    c: float = 0.05
    distance: Distance = "l2"
    aggregate: Aggregate = "mean"
    layers: Literal["last", "all"] | tuple[int, ...] = "last"

    def __post_init__(self) -> None:
        if not np.isfinite(self.eta) or self.eta < 0:
            raise MoemixError(f"eta is {self.eta}; it must be finite and not negative", where="dynamic.eta")
        if not 0 <= self.c <= 1:
            raise MoemixError(f"c is {self.c}; it is a share between 0 and 1", where="dynamic.c")
        for option, choices in (("distance", ("l2", "cos")), ("aggregate", ("mean", "min", "max"))):
            if getattr(self, option) not in choices:
                raise unknown(option, getattr(self, option), choices, where=f"dynamic.{option}")
        if isinstance(self.layers, str):
            if self.layers not in ("last", "all"):
                raise unknown("layers", self.layers, ("last", "all"), where="dynamic.layers")
        elif not self.layers:
            raise MoemixError("the list of layers is empty", where="dynamic.layers")
        else:
            object.__setattr__(self, "layers", tuple(self.layers))

    def init(self, sources: Sources) -> MixtureState:
        count = len(sources.names)
        return MixtureState(np.full(count, 1.0 / count))

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        load_KLE = self._selected(seen.need(_LOAD))
        present_K = load_KLE.sum(axis=2).all(axis=1)
        if _LOAD in state.memory:
            load_KLE = np.where(present_K[:, None, None], load_KLE, state.memory[_LOAD])
        delta_K = self._dissimilarity(load_KLE)
        return MixtureState(reweigh(state.weights, self.eta * delta_K, self.c), {_LOAD: load_KLE})

    def advice(self, sources: Sources) -> str | None:
        if len(sources.names) >= 3:
            return None
        return (
            f"`{self.name}` compares sources with each other, and of two each is as far from the other: "
            f"with {len(sources.names)} the weights cannot leave an even split; give at least three sources"
        )

    def _selected(self, load_KLE: Ints) -> Ints:
        count = load_KLE.shape[1]
        if isinstance(self.layers, tuple):
            indices = self.layers
        else:
            indices = (-1,) if self.layers == "last" else tuple(range(count))
        for index in indices:
            if not -count <= index < count:
                raise MoemixError(
                    f"there is no MoE layer {index}", where=f"{self.name}.layers", hint=f"the model has {count}"
                )
        return load_KLE[:, list(indices)]

    def _dissimilarity(self, load_KLE: Ints) -> Floats:
        """Δ f64[K]; all zero where no source's load is known."""
        total_KL = load_KLE.sum(axis=2)
        known_K = total_KL.all(axis=1)
        delta_K = np.zeros(len(load_KLE))
        if known_K.any():
            shares_KLE = load_KLE[known_K] / total_KL[known_K][:, :, None]
            known = dissimilarity(shares_KLE.transpose(1, 0, 2), self.distance, self.aggregate)
            delta_K[known_K], delta_K[~known_K] = known, known.mean()
        return delta_K


def reweigh(weights_K: Floats, gain_K: Floats, c: float) -> Floats:
    """One multiplicative update, w' ∝ (1 − c) softmax(log w + gain) + c / K, in log space.

    With ``c`` = 0 a weight may fall without end; it stops at the smallest positive number, so its logarithm stays
    finite and the source can come back.
    """
    logits_K = np.log(np.maximum(weights_K, _SMALLEST)) + gain_K
    alpha_K = np.exp(logits_K - logits_K.max())
    alpha_K /= alpha_K.sum()
    mixed_K = np.maximum((1.0 - c) * alpha_K + c / len(weights_K), _SMALLEST)
    return mixed_K / mixed_K.sum()
