"""What the processes of one training run tell each other: exact sums, the first one's decision, and agreement on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import StageFailed

if TYPE_CHECKING:
    import torch

Number = TypeVar("Number", np.float64, np.int64)


class Ranks:
    """The processes that train together; alone, every method gives back what it was given.

    Attributes:
        count: how many there are.
        index: which one this is; the first decides and writes.
    """

    def __init__(self, count: int, index: int, device: torch.device) -> None:
        self.count, self.index, self._device = count, index, device

    @property
    def first(self) -> bool:
        return self.index == 0

    def sum(self, array: NDArray[Number]) -> NDArray[Number]:
        """The element-wise sum over all ranks; exact for integers."""
        if self.count == 1:
            return array
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._device, copy=True)
        torch.distributed.all_reduce(tensor)
        return tensor.cpu().numpy()

    def from_first(self, array: NDArray[Number]) -> NDArray[Number]:
        """The first rank's values, bit for bit, on every rank."""
        if self.count == 1:
            return array
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._device, copy=True)
        torch.distributed.broadcast(tensor, 0)
        return tensor.cpu().numpy()

    def agree(self, what: str, digest: str) -> None:
        """Assert that every rank has the same hexadecimal digest.

        Raises:
            StageFailed: they differ, so training on would mix the gradients of different mixtures.
        """
        mine = np.array([int(digest[:15], 16)], dtype=np.int64)
        differing = self.sum((self.from_first(mine) != mine).astype(np.int64))
        if differing[0]:
            raise StageFailed(f"{differing[0]} of {self.count} processes disagree with the first about {what}")

    def wait(self) -> None:
        """Return once every rank has come here."""
        if self.count > 1:
            import torch

            torch.distributed.barrier()
