"""The interface of a signal: what a strategy may ask to see, measured while training goes on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from numpy.typing import NDArray
from torch import LongTensor

from trainers.tally import Tally


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

    def arrays(self) -> dict[str, NDArray]:
        """What must survive a restart. Called on every rank; the first rank's is stored."""
        return {}

    def restore(self, arrays: dict[str, NDArray]) -> None:
        """The inverse of :meth:`arrays`, on every rank."""
