"""Weights from measured or given relations between sources: which source helps the loss of which other one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import SMALLEST, check_options, even, fill_unknown, last_known, normalised, softmax


@dataclass(frozen=True)
class SkillIt(MixingStrategy):
    """Sources that help where the held-out loss is still high are drawn more.

    With A_ij ≥ 0 how much training on source i helps source j, and the losses of the last ``window`` updates,

        w ∝ exp(η Σ_{τ in window} Σ_j A_ij L_j(τ)).

    Before the first update all losses count as 1. The paper learns A beforehand, by trainings on single sources; here
    it is an option. Without it every source is a skill of its own (A is the identity, the paper's case of skills
    without prerequisites).

    Attributes:
        eta: step size η.
        window: number of updates whose losses count.
        graph: A, row by row in the order of the sources' names; empty for the identity.
    """

    name = "skill_it"
    signals = frozenset({"probe_loss"})
    source = "Chen et al. 2023, Skill-it! (arXiv:2307.14430), Algorithm 1; the skills graph is given, not learnt"

    eta: float = 0.2
    window: int = 3
    graph: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        check_options(self, eta="not negative", window="at least 1")

    def init(self, sources: Sources) -> MixtureState:
        """Return the weights for losses of 1, which are even without a graph; no loss is known.

        Raises:
            MoemixError: the graph does not fit the sources.
        """
        count = len(sources.names)
        shape = (len(self.graph), *{len(row) for row in self.graph})
        if self.graph and shape != (count, count):
            raise MoemixError(
                f"the graph is not {count} × {count}, a row and a column for each source", where="skill_it.graph"
            )
        if self.graph and not (np.isfinite(self.graph).all() and np.min(self.graph) >= 0):
            raise MoemixError("every entry must be a number of at least 0", where="skill_it.graph")
        return MixtureState(self._weights(np.ones(count)), {"losses": np.empty((0, count))})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources that help where the loss is high."""
        before = state.memory["losses"]
        loss = last_known(seen.need("probe_loss"), before[-1] if len(before) else None)
        losses = np.concatenate([before, fill_unknown(loss)[None]])[-self.window :]
        return MixtureState(self._weights(losses.sum(axis=0)), {"losses": losses})

    def _weights(self, loss: Floats) -> Floats:
        return softmax(self.eta * (np.array(self.graph) @ loss if self.graph else loss))


@dataclass(frozen=True)
class Aioli(MixingStrategy):
    """A few steps on nearly one source at a time measure which source helps which; weights then follow that.

    A round first has one update interval for each source j, with a mixture P_j that is nearly that source alone, then
    ``hold`` times as many with the weights that result. The fall of source i's held-out loss over interval j is
    ΔL_ij ≈ Σ_l A_il P_jl, which gives A. If an entry of A is negative, the least entry is subtracted from all; then A
    is divided by its sum. With the average Ā of all rounds,

        Ā ← (1 − ema) A + ema Ā,   w ∝ exp(η Σ_i Ā_ij).

    The paper's script spends 140 of every 200 steps on such probes; with ``hold`` = 3 they are a quarter of the run.
    The strategy sets the interval itself, so that ``rounds`` fit into the run whatever the recipe's interval is.

    Attributes:
        eta: step size η.
        ema: the share of the average that is kept at a new estimate.
        one_hot: weight of the one source in a probe.
        hold: intervals with the resulting weights for each interval of probing.
        rounds: number of rounds in the whole run.
    """

    name = "aioli"
    signals = frozenset({"probe_loss"})
    at_start = frozenset({"probe_loss"})
    source = (
        "Chen et al. 2024, Aioli (arXiv:2411.05735), as its released scripts run it (normalised, average over rounds)"
    )
    positional = True

    eta: float = 1.0
    ema: float = 0.1
    one_hot: float = 0.75
    hold: int = 3
    rounds: int = 2

    def __post_init__(self) -> None:
        check_options(self, eta="not negative", ema="share below 1", one_hot="share above 0")
        check_options(self, hold="at least 1", rounds="at least 1")

    def interval(self, sources: Sources) -> int | None:
        """Return the steps of one interval, so that ``rounds`` fit into the run."""
        intervals = self.rounds * len(sources.names) * (1 + self.hold)
        return max(1, sources.steps // intervals) if sources.steps else None

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights; nothing is measured yet.

        Raises:
            MoemixError: ``one_hot`` would make every probe the even mixture.
        """
        count = len(sources.names)
        if count > 1 and np.isclose(self.one_hot, 1 / count):
            raise MoemixError(
                f"one_hot is 1 / {count}, so every probe of {count} sources is the even mixture and measures nothing",
                where="aioli.one_hot",
            )
        memory = {
            "interval": np.array(0),  # of the round: the first K are probes, the others hold
            "loss": np.full(count, np.nan),
            "falls": np.zeros((count, count)),  # ΔL_ij of this round
            "graph": np.full((count, count), np.nan),  # Ā
            "held": even(count),
        }
        return MixtureState(even(count), memory)

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Remember the losses before training, and probe the first source."""
        return MixtureState(self._probe(0, len(seen.names)), {**state.memory, "loss": seen.need("probe_loss").copy()})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Store the falls of an interval, and return the weights of the next one."""
        count, before = len(seen.names), state.memory
        loss = last_known(seen.need("probe_loss"), before["loss"])
        interval, memory = int(before["interval"]), {**before, "loss": loss}
        if interval < count:
            change = loss - before["loss"]
            memory["falls"] = before["falls"].copy()
            memory["falls"][:, interval] = np.where(np.isfinite(change), -change, 0.0)
        if interval == count - 1:
            graph = self._graph(memory["falls"])
            if np.isfinite(before["graph"]).all():
                graph = (1.0 - self.ema) * graph + self.ema * before["graph"]
            memory |= {"graph": graph, "held": softmax(self.eta * fill_unknown(graph.sum(axis=0)))}
        interval = (interval + 1) % (count * (1 + self.hold))
        memory["interval"] = np.array(interval)
        weights = self._probe(interval, count) if interval < count else memory["held"].copy()
        return MixtureState(weights, memory)

    def _probe(self, source: int, count: int) -> Floats:
        if count == 1:
            return even(1)
        weights = np.full(count, max((1.0 - self.one_hot) / (count - 1), SMALLEST))
        weights[source] = self.one_hot
        return normalised(weights)

    def _graph(self, falls: Floats) -> Floats:
        """Return A normalised, f64[K, K]: row i solves P a_i = ΔL_i, where row j of P is the mixture of interval j."""
        mixtures = np.stack([self._probe(source, len(falls)) for source in range(len(falls))])
        graph: Floats = np.linalg.solve(mixtures, falls.T).T.astype(np.float64)
        graph = graph - min(float(graph.min()), 0.0)
        total: np.float64 = graph.sum()
        return graph / total if total > 0 else graph
