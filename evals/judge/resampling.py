"""Intervals by resampling questions: what varies is which questions a bench happens to have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
SHOWN, ACCUSED = 0.95, 0.99  # coverage of the interval that is shown, and of the one that must exclude no effect


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes:
        n: what it was computed from (pairs of games, answers, …).
        away: whether the 99 % interval excludes 0. One in a hundred judges without a fault is accused of it.
    """

    value: float
    low: float
    high: float
    n: int
    away: bool = False

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def question_weights(questions: int, seed: int = 0) -> Floats:
    """f64[RESAMPLES, questions]: how often each question is drawn in each resample."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(questions, np.full(questions, 1 / questions), size=RESAMPLES).astype(np.float64)


class Clusters:
    """Observations by question.

    Args:
        questions: the question of each observation.
    """

    def __init__(self, questions: Iterable[Any]) -> None:
        names = list(questions)
        index = {name: i for i, name in enumerate(dict.fromkeys(names))}
        self.of = np.array([index[name] for name in names], dtype=np.int64)
        self.count = len(index)
        self.n = len(names)

    def sums(self, values: Any) -> Floats:
        """f64[questions]: the sum of the values of each question."""
        held = np.asarray(values, dtype=np.float64)
        return np.bincount(self.of, weights=held, minlength=self.count).astype(np.float64)

    def interval(self, statistic: Callable[..., Any], *values: Any) -> Interval | None:
        """A statistic of sums over observations, with its interval.

        Args:
            statistic: takes one sum for each of ``values`` (arrays over resamples) and gives the estimate.

        Returns:
            None where there are fewer than two questions, or the statistic has no value.
        """
        if self.count < 2:
            return None
        parts = [self.sums(value) for value in values]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(*(part.sum() for part in parts)))
            weights = question_weights(self.count)
            drawn = np.asarray(statistic(*(weights @ part for part in parts)), dtype=np.float64)
        return interval_of(value, drawn, self.n)

    def mean(self, values: Any) -> Interval | None:
        return self.interval(lambda total, count: total / count, values, np.ones(self.n))

    def correlation(self, x: Any, y: Any) -> Interval | None:
        """Pearson's correlation."""
        x, y = (np.asarray(v, dtype=np.float64) for v in (x, y))

        def statistic(n: Any, sx: Any, sy: Any, sxx: Any, syy: Any, sxy: Any) -> Any:
            spread = np.maximum((sxx - sx * sx / n) * (syy - sy * sy / n), 0)
            return (sxy - sx * sy / n) / np.sqrt(spread)

        return self.interval(statistic, np.ones(self.n), x, y, x * x, y * y, x * y)


def interval_of(value: float, drawn: Floats, n: int) -> Interval | None:
    """Percentile intervals of an estimate and its resamples."""
    drawn = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or not len(drawn):
        return None
    low, high, least, most = np.quantile(
        drawn, [(1 - SHOWN) / 2, (1 + SHOWN) / 2, (1 - ACCUSED) / 2, (1 + ACCUSED) / 2]
    ).tolist()
    return Interval(value, low, high, n, away=least > 0 or most < 0)


def residuals(y: Any, controls: Iterable[Any]) -> Floats:
    """``y`` without what a linear model of the controls explains; a control of texts counts as one column for each."""
    y = np.asarray(y, dtype=np.float64)
    columns = [np.ones(len(y))]
    for control in controls:
        held = np.asarray(control)
        if held.dtype.kind in "UO":
            columns += [(held == name).astype(np.float64) for name in sorted(set(held.tolist()))[1:]]
        else:
            columns.append(held.astype(np.float64))
    design = np.stack(columns, axis=1)
    fitted, *_ = np.linalg.lstsq(design, y, rcond=None)
    return y - design @ fitted
