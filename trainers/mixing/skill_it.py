"""Skill-It: sources that help where the held-out loss is still high are drawn more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import check_options, even, fill_unknown, last_known, softmax


@dataclass(frozen=True)
class SkillIt(MixingStrategy):
    """Sources that help where the held-out loss is still high are drawn more.

    With A_ij ≥ 0 how much training on source i helps source j, and the losses of the last ``window`` updates,

        w ∝ exp(η Σ_{τ in window} Σ_j A_ij L_j(τ)).

    The paper learns A beforehand, by trainings on single sources; here it is an option. Without it every source is a
    skill of its own (A is the identity, the paper's case of skills without prerequisites).

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
        """Return even weights; no loss is known.

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
        return MixtureState(even(count), {"losses": np.empty((0, count))})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources that help where the loss is high."""
        before = state.memory["losses"]
        loss = last_known(seen.need("probe_loss"), before[-1] if len(before) else None)
        losses = np.concatenate([before, fill_unknown(loss)[None]])[-self.window :]
        total = losses.sum(axis=0)
        gain = np.array(self.graph) @ total if self.graph else total
        return MixtureState(softmax(self.eta * gain), {"losses": losses})
