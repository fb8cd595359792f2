"""Compute intervals by resampling clusters of observations, for statistics that have no simple standard error.

The clusters are usually the questions of a bench: what varies is which questions a bench happens to have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.statistics.clusters import number_clusters
from harness.statistics.estimates import CONFIDENCE, Floats

RESAMPLES = 2000
FLAG_CONFIDENCE = 0.99  # an effect is flagged if the interval of this confidence excludes 0


@dataclass(frozen=True)
class BootstrapInterval:
    """An estimate with its 95 % interval.

    Attributes:
        n: number of observations (pairs of games, answers, …).
        flagged: whether the 99 % interval excludes 0, which happens once in a hundred cases without any effect.
    """

    value: float
    low: float
    high: float
    n: int
    flagged: bool = False


def as_json(tree: object) -> object:
    """Return a tree of mappings with the fields that reports store in place of its intervals."""
    if isinstance(tree, BootstrapInterval):
        return {"value": tree.value, "low": tree.low, "high": tree.high, "n": tree.n, "away": tree.flagged}
    return {key: as_json(value) for key, value in tree.items()} if isinstance(tree, Mapping) else tree


def resampling_weights(clusters: int, resamples: int = RESAMPLES) -> Floats:
    """Return f64[resamples, clusters]: how often each resample draws each cluster. The seed is fixed."""
    rng = np.random.default_rng(0)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)


class ClusterBootstrap:
    """Resample observations by cluster.

    Args:
        labels: the cluster of each observation, usually its question.
    """

    def __init__(self, labels: Iterable[Hashable]) -> None:
        self.of = number_clusters(labels)
        self.count = int(self.of.max()) + 1 if len(self.of) else 0
        self.n = len(self.of)

    def sums(self, values: ArrayLike) -> Floats:
        """Return f64[clusters]: the sum of the values in each cluster."""
        weights = np.asarray(values, dtype=np.float64)
        return np.bincount(self.of, weights=weights, minlength=self.count).astype(np.float64)

    def interval(self, statistic: Callable[..., Floats], *values: ArrayLike) -> BootstrapInterval | None:
        """Return a statistic of sums over observations with its interval.

        Args:
            statistic: takes one array of sums (over resamples) for each of ``values`` and returns the estimates.
            values: one value per observation each.

        Returns:
            None if there are fewer than two clusters or the statistic has no value.
        """
        if self.count < 2:
            return None
        parts = [self.sums(value) for value in values]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(*(part.sum() for part in parts)))
            weights = resampling_weights(self.count)
            drawn = np.asarray(statistic(*(weights @ part for part in parts)), dtype=np.float64)
        return percentile_interval(value, drawn, self.n)

    def mean(self, values: ArrayLike) -> BootstrapInterval | None:
        """Return the mean of one value per observation."""
        return self.interval(lambda total, count: total / count, values, np.ones(self.n))

    def correlation(self, x: ArrayLike, y: ArrayLike) -> BootstrapInterval | None:
        """Return Pearson's correlation."""
        x, y = (np.asarray(v, dtype=np.float64) for v in (x, y))

        def statistic(n: Floats, sx: Floats, sy: Floats, sxx: Floats, syy: Floats, sxy: Floats) -> Floats:
            spread = np.maximum((sxx - sx * sx / n) * (syy - sy * sy / n), 0)
            found: Floats = (sxy - sx * sy / n) / np.sqrt(spread)
            return found

        return self.interval(statistic, np.ones(self.n), x, y, x * x, y * y, x * y)


def percentile_interval(value: float, drawn: Floats, n: int) -> BootstrapInterval | None:
    """Return the percentile interval of an estimate from its resamples; None if either has no finite value."""
    drawn = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or not len(drawn):
        return None
    ends = [(1 + side * width) / 2 for width in (CONFIDENCE, FLAG_CONFIDENCE) for side in (-1, 1)]
    low, high, least, most = np.quantile(drawn, ends).tolist()
    return BootstrapInterval(value, low, high, n, flagged=least > 0 or most < 0)


def residuals(y: ArrayLike, controls: Iterable[ArrayLike]) -> Floats:
    """Return ``y`` minus its linear regression on the controls; a control of texts is one indicator for each text."""
    y = np.asarray(y, dtype=np.float64)
    columns = [np.ones(len(y))]
    for control in controls:
        values = np.asarray(control)
        if values.dtype.kind in "UO":
            columns += [(values == name).astype(np.float64) for name in sorted(set(values.tolist()))[1:]]
        else:
            columns.append(values.astype(np.float64))
    design = np.stack(columns, axis=1)
    fitted, *_ = np.linalg.lstsq(design, y, rcond=None)
    found: Floats = y - design @ fitted
    return found


def variance_components(groups: Sequence[Sequence[float]]) -> tuple[float, float, float] | None:
    """Return the variance components of repeated ratings, by a one-way random model for unequal numbers of ratings.

    They are the variance between things, the variance between ratings of one thing, and the part of the mean's standard
    error that more ratings would remove; None if nothing was rated twice, or only one thing was rated. ``groups`` are
    the ratings of each rated thing, at least one each.
    """
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    if len(groups) < 2 or sizes.max() < 2:
        return None
    means = np.array([np.mean(group) for group in groups])
    squares = sum(float(((np.asarray(group) - mean) ** 2).sum()) for group, mean in zip(groups, means, strict=True))
    within = squares / float((sizes - 1).sum())
    between = max(0.0, float(means.var(ddof=1)) - within * float((1 / sizes).mean()))
    return between, within, math.sqrt(within * float((1 / sizes).sum())) / len(groups)
