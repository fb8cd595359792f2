"""How far raters agree: shares of equal verdicts with and without ties, and Krippendorff's alpha."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, percentile_interval, resampling_weights

Units = Mapping[tuple[Any, ...], Mapping[str, list[Any]]]  # (question, turn, …) → rater → verdicts


def agreement(units: Units, one: str, other: str, *, turn: int | None, ties: bool) -> BootstrapInterval | None:
    """The share of equal verdicts of two raters on the same answers, over every pair of their verdicts.

    Args:
        other: a rater's name, or ``human`` for all people together.
        ties: false to leave out pairs of verdicts of which one is a tie.
    """
    questions, equal = [], []
    for (question, number, *_), votes in units.items():
        if turn not in (None, number):
            continue
        theirs = [
            v for name, held in votes.items() if name == other or (other == "human" and _human(name)) for v in held
        ]
        for mine, their in itertools.product(votes.get(one, []), theirs):
            if ties or "tie" not in (mine, their):
                questions.append(question)
                equal.append(float(mine == their))
    return ClusterBootstrap(questions).mean(equal) if questions else None


def people_agree(units: Units, *, turn: int | None, ties: bool) -> BootstrapInterval | None:
    """The share of equal verdicts of any two people: what a judge can be held to."""
    questions, equal = [], []
    for (question, number, *_), votes in units.items():
        if turn not in (None, number):
            continue
        cast = [vote for name, held in votes.items() if _human(name) for vote in held[:1]]
        for one, other in itertools.combinations(cast, 2):
            if ties or "tie" not in (one, other):
                questions.append(question)
                equal.append(float(one == other))
    return ClusterBootstrap(questions).mean(equal) if questions else None


def krippendorff(units: Units, raters: list[str], *, scale: str) -> BootstrapInterval | None:
    """Krippendorff's alpha of several raters, who need not all have rated everything.

    ``1 − D_o / D_e`` with the observed disagreement inside units and that expected by chance from all values together
    (Krippendorff, Content Analysis, 2004, ch. 11). A rater's repeats count as their mean (interval) or first (nominal).

    Args:
        scale: ``nominal`` (verdicts) or ``interval`` (ratings).
    """
    rated: list[tuple[Any, list[Any]]] = []
    for (question, *_), votes in units.items():
        values = [_one(votes[name], scale) for name in raters if votes.get(name)]
        if len(values) > 1:
            rated.append((question, values))
    if len(rated) < 2:
        return None
    questions = list(dict.fromkeys(question for question, _ in rated))
    place = {question: i for i, question in enumerate(questions)}
    levels = sorted({value for _, values in rated for value in values})
    index = {value: i for i, value in enumerate(levels)}
    counts = np.zeros((len(questions), len(levels)))
    observed = np.zeros(len(questions))
    distance = _distances(levels, scale)
    for question, values in rated:
        held = np.bincount([index[value] for value in values], minlength=len(levels)).astype(np.float64)
        counts[place[question]] += held
        observed[place[question]] += held @ distance @ held / (len(values) - 1)

    def alpha(weights: Any) -> Any:
        totals = weights @ counts  # [..., levels]
        n = totals.sum(axis=-1)
        expected = np.einsum("...i,ij,...j->...", totals, distance, totals) / np.maximum(n - 1, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - (weights @ observed) / expected

    value = float(alpha(np.ones(len(questions))))
    return percentile_interval(value, np.asarray(alpha(resampling_weights(len(questions)))), len(rated))


def _one(values: list[Any], scale: str) -> Any:
    return round(sum(values) / len(values), 6) if scale == "interval" else values[0]


def _distances(levels: list[Any], scale: str) -> Any:
    if scale == "nominal":
        return 1.0 - np.eye(len(levels))
    held = np.asarray(levels, dtype=np.float64)
    return (held[:, None] - held[None, :]) ** 2


def _human(name: str) -> bool:
    return name.startswith("human:")
