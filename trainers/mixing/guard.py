"""One guard around every call of a strategy's functions: in training, in the simulation and in the contract."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import numpy as np

from harness.errors import MoemixError, StageError
from trainers.mixing.base import MixtureState

P = ParamSpec("P")
_TOLERANCE = 1e-6  # of the sum of the weights


class StrategyError(StageError):
    """A strategy raised an error, or returned something other than a state with a distribution."""


def guarded(count: int, function: Callable[P, MixtureState], *args: P.args, **kwargs: P.kwargs) -> MixtureState:
    """Call ``init``, ``start`` or ``update`` of a strategy, and return its state if that is valid for K = ``count``.

    Raises:
        StrategyError: it raised an error, or returned no state, or weights that are not a distribution; the message
            has the file and line, and the value.
        MoemixError: it raised that itself (a missing signal, say).
    """
    try:
        state: object = function(*args, **kwargs)
    except MoemixError:
        raise
    except Exception as error:
        raise StrategyError(f"{_called(function)} raised {error!r}", where=_raised_at(error, function)) from error
    if fault := state_fault(state, count):
        hint = "return MixtureState(weights=…), where the weights are >= 0 and sum to 1"
        raise StrategyError(f"{_called(function)} returned {fault}", where=_defined_at(function), hint=hint)
    assert isinstance(state, MixtureState)
    return state


def state_fault(state: object, count: int) -> str | None:
    """Say what is wrong with a returned state; None if it has a distribution over ``count`` sources."""
    if not isinstance(state, MixtureState):
        return "None" if state is None else f"a value of type {type(state).__name__}"
    try:
        weights = np.asarray(state.weights, dtype=np.float64)
    except (TypeError, ValueError):
        return f"weights that are not numbers: {str(state.weights)[:200]}"
    shown = f"{weights.ravel().tolist()[:8]}" + (" …" if weights.size > 8 else "")
    if weights.shape != (count,):
        return f"weights of shape {weights.shape}, and there are {count} sources: {shown}"
    if not np.isfinite(weights).all():
        return f"weights that are not finite: {shown}"
    if (weights < 0).any():
        return f"negative weights: {shown}"
    if abs(weights.sum() - 1) >= _TOLERANCE:
        return f"weights that sum to {weights.sum():.6g}: {shown}"
    return None


def _called(function: Callable[..., object]) -> str:
    owner = getattr(function, "__self__", None)
    name = getattr(owner, "name", type(owner).__name__)
    return f"`{function.__name__}` of the strategy {name!r}"


def _defined_at(function: Callable[..., object]) -> str:
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _raised_at(error: Exception, function: Callable[..., object]) -> str:
    """Return the deepest line of the strategy's own file that the error came through."""
    file = Path(inspect.unwrap(function).__code__.co_filename)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else _defined_at(function)
