"""The paper's dynamic mixing: sources that use the experts differently from the others get more weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import unknown
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.distances import Aggregate, Distance
from trainers.mixing.gate_loads import Layers, checked_layers, delta, of_layers
from trainers.mixing.simplex import Initial, given, require_finite, require_share, reweigh
from trainers.mixing.static import PAPER

_LOAD = "gate_load"


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
        initial: weights to start from, by source name or in the order of the names; none for even ones.
    """

    name = "dynamic"
    signals = frozenset({_LOAD})
    source = f"{PAPER}, Algorithm 1"

    eta: float = 10.0
    c: float = 0.05
    distance: Distance = "l2"
    aggregate: Aggregate = "mean"
    layers: Layers = "last"
    initial: Initial = None

    def __post_init__(self) -> None:
        require_finite(self.eta, f"{self.name}.eta")
        require_share(self.c, f"{self.name}.c")
        for option, choices in (("distance", ("l2", "cos")), ("aggregate", ("mean", "min", "max"))):
            if getattr(self, option) not in choices:
                raise unknown(option, getattr(self, option), choices, where=f"{self.name}.{option}")
        object.__setattr__(self, "layers", checked_layers(self.layers, where=f"{self.name}.layers"))

    def init(self, sources: Sources) -> MixtureState:
        return MixtureState(given(sources.names, self.initial, where=f"{self.name}.initial"))

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        load_KLE = of_layers(seen.need(_LOAD), self.layers, where=f"{self.name}.layers")
        present_K = load_KLE.sum(axis=2).all(axis=1)
        if _LOAD in state.memory:
            load_KLE = np.where(present_K[:, None, None], load_KLE, state.memory[_LOAD])
        delta_K = self._gain(delta(load_KLE, self.distance, self.aggregate))
        return MixtureState(reweigh(state.weights, self.eta * delta_K, self.c), {_LOAD: load_KLE})

    def advice(self, sources: Sources) -> str | None:
        if len(sources.names) >= 3:
            return None
        return (
            f"`{self.name}` compares sources with each other, and of two each is as far from the other: "
            f"with {len(sources.names)} the weights cannot leave an even split; give at least three sources"
        )

    def _gain(self, delta_K: Floats) -> Floats:
        """What Δ is turned into before it moves the weights."""
        return delta_K
