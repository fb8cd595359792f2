"""The interface of a signal: what a strategy may ask to see, measured while training goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import LongTensor

from harness.errors import MoemixError
from trainers.training.loss import TargetLosses
from trainers.training.tally import Tally


@dataclass(frozen=True)
class Resources:
    """What signals may want beside the model in training; nothing of it is touched unless one does.

    Attributes:
        tokenizer: reads texts back from tokens.
        reference: loads the reference model: that of the run that the strategy needs, else the base.
        cache: a folder for what does not depend on the run.
    """

    tokenizer: Any = None
    reference: Callable[[], Any] | None = None
    cache: Path | None = None

    def reference_losses(self, like: TargetLosses) -> TargetLosses:
        """The reference model in evaluation mode, in the precision and on the device of the one in training."""
        if self.reference is None:
            raise MoemixError("the strategy compares with a reference model, and there is none")
        model = self.reference()
        model.to(like.model.device).requires_grad_(False)
        losses = TargetLosses(model, bfloat16=like.autocast)
        return losses.eval()


class Signal:
    """One field of :class:`trainers.mixing.Observation`. A signal is made only if the strategy asks for it.

    Class attributes:
        field: the observation's field that it fills.
    """

    field: ClassVar[str]

    def watch(self, source_RT: LongTensor) -> AbstractContextManager[None]:
        """Around the forward pass of a training batch; ``source_RT`` is the source of every token, -1 in padding."""
        return nullcontext()

    def add(self, step: Tally) -> None:
        """After a training step, with its sums over sources and all ranks."""

    def observe(self, step: int) -> NDArray:
        """The signal at an update after ``step`` steps, the same on every rank; starts the next window."""
        raise NotImplementedError

    def trace(self, observed: NDArray) -> Any:
        """What the trace tells of an observation, as JSON."""
        return plain(observed)

    def arrays(self) -> dict[str, NDArray]:
        """What must survive a restart. Called on every rank; the first rank's is stored."""
        return {}

    def restore(self, arrays: dict[str, NDArray]) -> None:
        """The inverse of :meth:`arrays`, on every rank."""


def plain(array: NDArray) -> Any:
    """Nested lists with null for what is not finite, which JSON cannot say."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array.tolist()
    return [plain(row) if row.ndim else (float(row) if math.isfinite(row) else None) for row in array]
