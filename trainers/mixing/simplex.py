"""Arithmetic on mixture weights, and the checks of strategies' options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from harness.errors import MoemixError, unknown
from trainers.mixing.base import Floats, MixingStrategy

Initial = dict[str, float] | tuple[float, ...] | None
"""Weights from a user: by source name, in the order of the names, or None for even weights."""

SMALLEST = np.finfo(np.float64).tiny

Range = Literal["share", "share above 0", "share below 1", "not negative", "positive", "at least 1"]
_RANGES: dict[Range, tuple[Callable[[float], bool], str]] = {
    "share": (lambda value: 0 <= value <= 1, "a share between 0 and 1"),
    "share above 0": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "share below 1": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "not negative": (lambda value: 0 <= value < np.inf, "finite and not negative"),
    "positive": (lambda value: 0 < value < np.inf, "finite and positive"),
    "at least 1": (lambda value: value >= 1, "at least 1"),
}


def check_options(rule: MixingStrategy, **ranges: Range) -> None:
    """Check that numeric options of a strategy lie in their ranges; an option that is None is not checked.

    Raises:
        MoemixError: a value lies outside its range.
    """
    for option, name in ranges.items():
        value = getattr(rule, option)
        holds, accepted = _RANGES[name]
        if value is not None and not holds(value):
            raise MoemixError(f"{option} is {value}; it must be {accepted}", where=f"{rule.name}.{option}")


def even(count: int) -> Floats:
    """Return the same weight for each source, f64[K]."""
    return np.full(count, 1.0 / count)


def normalised(weights: Floats) -> Floats:
    """Return weights divided by their sum."""
    total: np.float64 = weights.sum()
    return weights / total


def initial_weights(names: Sequence[str], initial: Initial, *, where: str) -> Floats:
    """Return a user's weights, normalised, f64[K]; even weights if there are none.

    Raises:
        MoemixError: a source is missing or unknown, or a weight is not a positive number.
    """
    if initial is None:
        return even(len(names))
    if isinstance(initial, Mapping):
        if strange := sorted(set(initial) - set(names)):
            raise unknown("source", strange[0], names, where=where)
        if absent := sorted(set(names) - set(initial)):
            raise MoemixError(f"there is no weight for source {absent[0]}", where=where)
        initial = tuple(initial[name] for name in names)
    if len(initial) != len(names):
        raise MoemixError(
            f"there are {len(initial)} weights for {len(names)} sources", where=where, hint=f"order: {', '.join(names)}"
        )
    weights = np.array(initial, dtype=np.float64)
    if not (np.isfinite(weights).all() and weights.min() > 0):
        raise MoemixError(f"every weight must be a positive number: {list(initial)}", where=where)
    return normalised(weights)


def reweigh(weights: Floats, gain: Floats, c: float) -> Floats:
    """Return one multiplicative update, w' ∝ (1 − c) softmax(log w + gain) + c / K, computed in log space.

    With ``c`` = 0 a weight may fall without limit. It stops at the smallest positive number, so its logarithm stays
    finite and the source can come back.
    """
    return softmax(np.log(np.maximum(weights, SMALLEST)) + gain, c)


def softmax(logits: Floats, c: float = 0.0) -> Floats:
    """Return the softmax, mixed with c even weights, f64[K]. No weight is exactly zero."""
    alpha = normalised(np.exp(logits - logits.max()))
    mixed = np.maximum((1.0 - c) * alpha + c / len(logits), SMALLEST)
    return normalised(mixed)


def fill_unknown(values: Floats) -> Floats:
    """Replace values that are not finite by the mean of the others, or by zero where none is known.

    A source that was not seen is then neither favoured nor punished.
    """
    known = np.isfinite(values)
    return np.where(known, values, values[known].mean() if known.any() else 0.0)


def last_known(values: Floats, before: Floats | None) -> Floats:
    """Replace values that are not finite by the earlier ones; nan stays where neither is known."""
    return values.copy() if before is None else np.where(np.isfinite(values), values, before)


def minimise(value: Callable[[Floats], tuple[float, Floats]], start: Floats, *, tolerance: float) -> tuple[Floats, str]:
    """Minimise a smooth function over all weights, f64[K], by sequential quadratic programming.

    ``value`` returns the value and its gradient. The best weights are returned with the solver's message.
    """
    from scipy.optimize import minimize

    found = minimize(
        value,
        start,
        jac=True,
        bounds=[(0.0, 1.0)] * len(start),
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1.0, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": tolerance, "maxiter": 1000},
    )
    return normalised(np.maximum(found.x, 0.0)), str(found.message)
