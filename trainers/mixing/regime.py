"""The regime of a rule that moves weights by distances: how hard it pulls, and where that leads.

The paper's published final weights imply that one update changed log-weights by about 0.04 (LLaMA-MoE, η = 10,
c = 0.05, 20 updates), while even weights pull back by c. A pull many times larger drives the weights to one corner,
whatever the sources are, so a run says how hard it pulls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trainers.mixing.base import Floats
from trainers.mixing.simplex import reweigh

PAPER_PULL = 0.04  # η times the spread of Δ in an update, from the published final weights of table 8
CORNER = 1.5  # effective number of sources, exp(entropy), below which one source is nearly the whole mixture
_UPDATES = 2000  # enough to settle for any c above 0.001


@dataclass(frozen=True)
class Regime:
    """What one observation would do to the weights if it stayed as it is.

    Attributes:
        before: f64[K], the weights before the update.
        gain: f64[K], what an update adds to the log-weights: η Δ.
        c: share of the weights that each update spreads evenly.
    """

    before: Floats
    gain: Floats
    c: float

    @property
    def pull(self) -> float:
        """The largest difference that an update makes between two log-weights: η times the spread of Δ."""
        return float(np.ptp(self.gain))

    @cached_property
    def settles(self) -> Floats:
        """f64[K], where the weights settle under this gain."""
        weights = self.before
        for _ in range(_UPDATES):
            weights, previous = reweigh(weights, self.gain, self.c), weights
            if np.abs(weights - previous).max() < 1e-9:
                break
        return weights

    @property
    def corner(self) -> bool:
        """Whether one source ends up as nearly the whole mixture."""
        return effective_sources(self.settles) < CORNER

    def eta_as_in_the_paper(self, eta: float) -> float:
        """Return the η that would pull as the paper's did, given the η in use."""
        return eta * PAPER_PULL / self.pull


def effective_sources(weights: Floats) -> float:
    """Return the effective number of sources, exp(entropy)."""
    positive = weights[weights > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))
