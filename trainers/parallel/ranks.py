"""The communication between the processes that train together."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.errors import StageError

Number = TypeVar("Number", np.float64, np.int64)


class Ranks:
    """The processes that train together; with a single one, every method returns its argument.

    Attributes:
        count: the number of processes.
        index: the number of this one; the first decides and writes.
    """

    def __init__(self, count: int, index: int, device: torch.device) -> None:
        self.count, self.index, self._device = count, index, device

    @property
    def first(self) -> bool:
        """Whether this process is the first one."""
        return self.index == 0

    def sum(self, array: NDArray[Number]) -> NDArray[Number]:
        """Return the element-wise sum over all ranks; it is exact for integers."""
        if self.count == 1:
            return array
        tensor = self._on_device(array)
        torch.distributed.all_reduce(tensor)
        return tensor.cpu().numpy()

    def from_first(self, array: NDArray[Number]) -> NDArray[Number]:
        """Return the first rank's values, bit for bit, on every rank."""
        if self.count == 1:
            return array
        tensor = self._on_device(array)
        torch.distributed.broadcast(tensor, 0)
        return tensor.cpu().numpy()

    def agree(self, what: str, digest: str) -> None:
        """Check that every rank has the same hexadecimal digest.

        Raises:
            StageError: they differ, so training on would mix the gradients of different mixtures.
        """
        mine = np.array([int(digest[:15], 16)], dtype=np.int64)
        differing = self.sum((self.from_first(mine) != mine).astype(np.int64))
        if differing[0]:
            raise StageError(f"{differing[0]} of {self.count} processes disagree with the first about {what}")

    def wait(self) -> None:
        """Return once every rank has called this."""
        if self.count > 1:
            torch.distributed.barrier()

    def _on_device(self, array: NDArray[Number]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device, copy=True)
