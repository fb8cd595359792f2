"""The paper's control: the same distances, given to the wrong sources."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Floats
from trainers.mixing.dynamic import Dynamic
from trainers.mixing.static import PAPER

_TIE = 1e-12  # relative: distances that differ by less are the same up to rounding


@dataclass(frozen=True)
class Inverse(Dynamic):
    """`dynamic` with the ranking of the distances reversed: weight moves to the most redundant sources.

    The k-th smallest Δ goes to the source that has the k-th largest. Sources whose Δ is the same share what falls to
    them evenly, so that their order decides nothing.
    """

    name = "inverse"
    source = f"{PAPER}, table 5 (Inverse)"

    def _gain(self, delta_K: Floats) -> Floats:
        order_K = np.argsort(delta_K, kind="stable")
        ascending_K = delta_K[order_K]
        starts_K = np.r_[True, np.diff(ascending_K) > _TIE * np.abs(ascending_K[-1])]
        group_K = np.cumsum(starts_K) - 1
        shared_G = np.bincount(group_K, ascending_K[::-1]) / np.bincount(group_K)
        reversed_K = np.empty_like(delta_K)
        reversed_K[order_K] = shared_G[group_K]
        return reversed_K
