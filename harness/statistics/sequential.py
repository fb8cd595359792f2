"""Share the error of a test among several looks at growing data (group-sequential tests by alpha spending).

Whoever adds seeds until a star appears finds one too often. Here the looks are fixed in advance, and each has a level
of its own; the levels add up to 5 %. A comparison is decided at the first look at which its corrected p-value is below
the look's level, and leaves the family.

The levels follow the power family of Kim & DeMets (1987): after a share ``t`` of the largest number of seeds,
``ALPHA · t²`` is spent. Each look gets what is spent since the one before, so by Bonferroni's inequality the family's
error holds however the looks depend on each other: a true hypothesis is wrongly rejected at some look with a
probability of at most the sum of the levels. Levels for normal statistics of a known correlation would be higher; few
seeds and corrected p-values are not that case.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from harness.statistics.estimates import ALPHA

GROWTH = 1.5  # each look has so many times the seeds of the one before: few looks, and none adds much too much


def looks(first: int, most: int) -> list[int]:
    """Return the numbers of seeds at which to look.

    >>> looks(3, 12)
    [3, 5, 8, 12]
    """
    found = [min(first, most)]
    while found[-1] < most:
        found.append(min(most, int(found[-1] * GROWTH + 0.5)))
    return found


def levels(counts: Sequence[int]) -> list[float]:
    """Return the level of each look, which add up to 5 %.

    >>> [round(level, 4) for level in levels([3, 5, 8, 12])]
    [0.0031, 0.0056, 0.0135, 0.0278]
    """
    spent = [ALPHA * (count / counts[-1]) ** 2 for count in (0, *counts)]
    return [after - before for before, after in itertools.pairwise(spent)]
