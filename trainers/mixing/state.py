"""A mixture's state as flat named arrays, so that whoever stores it does so exactly and without pickles."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from trainers.mixing.base import Floats, MixtureState

_MEMORY = "memory."


def to_arrays(state: MixtureState) -> dict[str, NDArray]:
    """``weights`` and one ``memory.<name>`` each: for ``numpy.savez`` or safetensors."""
    return {"weights": state.weights, **{_MEMORY + name: array for name, array in state.memory.items()}}


def from_arrays(arrays: dict[str, NDArray]) -> MixtureState:
    """The inverse of :func:`to_arrays`, bit for bit."""
    if "weights" not in arrays:
        raise MoemixError("not a mixture state: there are no `weights`")
    memory = {name.removeprefix(_MEMORY): np.asarray(a) for name, a in arrays.items() if name.startswith(_MEMORY)}
    return MixtureState(np.asarray(arrays["weights"], dtype=np.float64), memory)


def weights_hash(weights: Floats) -> str:
    """SHA-256 of the weights' bits: what ranks compare to be sure that they draw from the same mixture."""
    return hashlib.sha256(np.ascontiguousarray(weights, dtype="<f8").tobytes()).hexdigest()
