"""Define the family of tests that a table or a board corrects for, the correction, and the verdict of one pair.

The family is every pair of compared rows in every column of one table, or of one suite version of a board. The
correction is Holm's (1979). There is one family for the stars, the ties and the ranks: with several, a row could be
better than another and yet tied with it. Whoever reads a table picks the best row by looking, so every pair counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from harness.statistics.estimates import ALPHA, Floats

Verdict = Literal["better", "worse", "undecided"]


def adjust(p_values: Sequence[float] | Floats, comparisons: int | None = None) -> list[float]:
    """Return the p-values of a family, corrected for all of its comparisons, in the order given (Holm 1979).

    Args:
        p_values: nan stays nan and does not count.
        comparisons: size of the family if ``p_values`` is only a part of it. The others count as less significant,
            which can only raise the corrected values.

    >>> adjust([0.01, 0.04, math.nan, 0.03])
    [0.03, 0.06, nan, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    family = comparisons if comparisons is not None else len(known)
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (family - np.arange(len(order)))))
    found: list[float] = adjusted.tolist()
    return found


def level_of_family(comparisons: int, count_below: Callable[[float], int]) -> float:
    """Return the level below which :func:`adjust` makes p-values significant, for families too large to sort.

    Holm's method rejects the k smallest p-values as long as each is below ``α / (comparisons - how many are smaller)``.
    We go up from below: if R are rejected, the level is ``α / (comparisons - R)``, which may reject more.

    Args:
        comparisons: size of the family.
        count_below: level → how many p-values are below it.
    """
    rejected = 0
    while True:
        level = ALPHA / max(1, comparisons - rejected)
        found = count_below(level)
        if found <= rejected:
            return level
        rejected = found


def verdict(difference: float, p_adjusted: float, *, higher_is_better: bool = True) -> Verdict:
    """Return whether the first of two rows is better, worse, or not significantly different (nan: undecided)."""
    if math.isnan(p_adjusted) or p_adjusted >= ALPHA or difference == 0:
        return "undecided"
    return "better" if (difference > 0) == higher_is_better else "worse"
