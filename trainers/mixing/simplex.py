"""Weights as points of the simplex: even ones, named ones, and how they move without overflow or collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.errors import MoemixError, unknown
from trainers.mixing.base import Floats

Initial = dict[str, float] | tuple[float, ...] | None
"""Weights given by a user: by the sources' names, in the order of the names, or none for even ones."""

_SMALLEST = np.finfo(np.float64).tiny


def even(count: int) -> Floats:
    """f64[K], the same weight for each source."""
    return np.full(count, 1.0 / count)


def given(names: Sequence[str], initial: Initial, *, where: str) -> Floats:
    """f64[K], a user's weights, normalised; even ones if there are none.

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
    weights_K = np.array(initial, dtype=np.float64)
    if not (np.isfinite(weights_K).all() and weights_K.min() > 0):
        raise MoemixError(f"every weight must be a positive number: {list(initial)}", where=where)
    return weights_K / weights_K.sum()


def reweigh(weights_K: Floats, gain_K: Floats, c: float) -> Floats:
    """One multiplicative update, w' ∝ (1 − c) softmax(log w + gain) + c / K, in log space.

    With ``c`` = 0 a weight may fall without end; it stops at the smallest positive number, so its logarithm stays
    finite and the source can come back.
    """
    return softmax(np.log(np.maximum(weights_K, _SMALLEST)) + gain_K, c)


def softmax(logits_K: Floats, c: float = 0.0) -> Floats:
    """(1 − c) softmax(logits) + c / K; never exactly zero."""
    alpha_K = np.exp(logits_K - logits_K.max())
    alpha_K /= alpha_K.sum()
    mixed_K = np.maximum((1.0 - c) * alpha_K + c / len(logits_K), _SMALLEST)
    return mixed_K / mixed_K.sum()


def filled(values_K: Floats) -> Floats:
    """Values with the mean of the known ones where they are not finite: neither favoured nor punished.

    All zero where nothing is known.
    """
    known_K = np.isfinite(values_K)
    return np.where(known_K, values_K, values_K[known_K].mean() if known_K.any() else 0.0)


def last_known(values_K: Floats, before_K: Floats | None) -> Floats:
    """Values with those of before where they are not finite now; nan where neither is known."""
    return values_K.copy() if before_K is None else np.where(np.isfinite(values_K), values_K, before_K)


def require_share(value: float, where: str) -> None:
    """Raises MoemixError unless 0 <= value <= 1."""
    if not 0 <= value <= 1:
        raise MoemixError(f"{where.rpartition('.')[2]} is {value}; it is a share between 0 and 1", where=where)


def require_finite(value: float, where: str, *, positive: bool = False) -> None:
    """Raises MoemixError unless the value is finite and not negative (or positive)."""
    if not np.isfinite(value) or value < 0 or (positive and value == 0):
        kind = "positive" if positive else "not negative"
        raise MoemixError(f"{where.rpartition('.')[2]} is {value}; it must be finite and {kind}", where=where)
