"""Aioli: how much training on one source helps another is measured while training, and weights follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import even, filled, last_known, require_finite, softmax


@dataclass(frozen=True)
class Aioli(MixingStrategy):
    """Now and then a few steps on nearly one source each tell what helps whom; in between, weights follow that.

    A round is one update interval for each source in turn with a mixture P_j that is nearly that source alone, then
    ``hold`` times as many with the weights that came of it. The fall of source i's held-out loss over interval j is
    ΔL_ij ≈ Σ_l A_il P_jl, which gives A; then with the average A of all rounds,

        Ā ← ema A + (1 − ema) Ā,   w ∝ exp(η Σ_i Ā_ij).

    The paper's script trains on such probes in 140 of every 200 steps; with ``hold`` = 3 they are a quarter of the
    run. The rhythm is the strategy's own, so that ``rounds`` fit into the run whatever the recipe's update interval.

    Attributes:
        eta: step size η.
        ema: weight of the newest estimate in the average.
        one_hot: weight of the one source in a probe.
        hold: intervals with the weights in force for each interval of probing.
        rounds: of the whole run.
    """

    name = "aioli"
    signals = frozenset({"probe_loss"})
    at_start = frozenset({"probe_loss"})
    source = "Chen et al. 2024, Aioli (arXiv:2411.05735), Algorithm 1 with its average over rounds"
    positional = True

    eta: float = 1.0
    ema: float = 0.9
    one_hot: float = 0.75
    hold: int = 3
    rounds: int = 2

    def __post_init__(self) -> None:
        require_finite(self.eta, "aioli.eta")
        for option in ("ema", "one_hot"):
            if not 0 < getattr(self, option) <= 1:
                raise MoemixError(f"{option} is {getattr(self, option)}; above 0, at most 1", where=f"aioli.{option}")
        for option in ("hold", "rounds"):
            if getattr(self, option) < 1:
                raise MoemixError(f"{option} is {getattr(self, option)}; at least 1", where=f"aioli.{option}")

    def interval(self, sources: Sources) -> int | None:
        intervals = self.rounds * len(sources.names) * (1 + self.hold)
        return max(1, sources.steps // intervals) if sources.steps else None

    def init(self, sources: Sources) -> MixtureState:
        count = len(sources.names)
        if count > 1 and np.isclose(self.one_hot, 1 / count):
            raise MoemixError(f"with {count} sources a probe is the even mixture and tells nothing", where="aioli")
        memory = {
            "interval": np.array(0),  # of the round: the first K probe, the others hold
            "loss": np.full(count, np.nan),
            "falls": np.zeros((count, count)),  # ΔL_ij of this round
            "graph": np.full((count, count), np.nan),  # Ā
            "held": even(count),
        }
        return MixtureState(even(count), memory)

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        return MixtureState(self._probe(0, len(seen.names)), {**state.memory, "loss": seen.need("probe_loss").copy()})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        count, before = len(seen.names), state.memory
        loss_K = last_known(seen.need("probe_loss"), before["loss"])
        interval, memory = int(before["interval"]), {**before, "loss": loss_K}
        if interval < count:
            fall_K = loss_K - before["loss"]
            memory["falls"] = before["falls"].copy()
            memory["falls"][:, interval] = np.where(np.isfinite(fall_K), -fall_K, 0.0)
        if interval == count - 1:
            graph_KK = self._graph(memory["falls"])
            if np.isfinite(before["graph"]).all():
                graph_KK = self.ema * graph_KK + (1.0 - self.ema) * before["graph"]
            memory |= {"graph": graph_KK, "held": softmax(self.eta * filled(graph_KK.sum(axis=0)))}
        interval = (interval + 1) % (count * (1 + self.hold))
        memory["interval"] = np.array(interval)
        weights_K = self._probe(interval, count) if interval < count else memory["held"].copy()
        return MixtureState(weights_K, memory)

    def _probe(self, source: int, count: int) -> Floats:
        if count == 1:
            return even(1)
        weights_K = np.full(count, max((1.0 - self.one_hot) / (count - 1), np.finfo(np.float64).tiny))
        weights_K[source] = self.one_hot
        return weights_K / weights_K.sum()

    def _graph(self, falls_KK: Floats) -> Floats:
        """A f64[K, K] from ΔL: row i solves P a_i = ΔL_i, of which P_j is the mixture of interval j."""
        count = len(falls_KK)
        mixtures_KK = np.stack([self._probe(source, count) for source in range(count)])
        return np.linalg.solve(mixtures_KK, falls_KK.T).T.astype(np.float64)
