"""Training alone or on replicas that average their gradients (DDP), and the communication between processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, TypeVar

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from harness.errors import MoemixError, StageError
from harness.recipe import Training

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


class Parallel:
    """How one process trains together with its peers, if it has any. All ways store the same tensors.

    Attributes:
        name: the recipe's ``launcher.strategy``.
        device: where this process computes.
        ranks: the communication between the processes.
    """

    name: ClassVar[str] = "ddp"
    unseen: ClassVar[Mapping[str, str]] = {}
    """What signals cannot see under this way of training, and why."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.ranks = Ranks(accelerator.num_processes, accelerator.process_index, accelerator.device)
        self.partly_frozen: Mapping[str, Callable[[Tensor], Tensor]] = {}
        """By parameter, what takes the frozen part out of its whole gradient; it is a hook of the parameter already."""

    def check_signals(self, sights: Set[str]) -> None:
        """Check that the signals of a strategy, which must see these things, can be measured.

        Raises:
            MoemixError: the strategy needs something that this way of training does not provide.
        """
        for sight in sorted(sights & self.unseen.keys()):
            what = "gradients of the sources" if sight == "gradients" else sight
            raise MoemixError(
                f"the strategy needs {what}, but {self.unseen[sight]}",
                where=f"launcher.strategy={self.name}",
                hint="set launcher.strategy=ddp",
            )

    def expect_unused(self) -> None:
        """Let gradients be exchanged although some parameters get none; called before :meth:`prepare`."""
        self._accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)

    def prepare(self, losses: nn.Module, model: nn.Module, training: Training) -> tuple[nn.Module, Optimizer]:
        """Return ``losses``, which computes with ``model``, ready to be called; and an optimizer."""
        wrapped, optimizer = self._accelerator.prepare(losses, make_optimizer(model, training))
        return wrapped, optimizer

    def accumulate(self, losses: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """Return the context of a forward and backward pass; ranks exchange gradients after the last one of a step."""
        return nullcontext() if last or self.ranks.count == 1 else self._accelerator.no_sync(losses)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients, which are averaged over ranks."""
        self._accelerator.backward(loss)

    def step(self, losses: nn.Module, optimizer: Optimizer, max_norm: float | None) -> float:
        """Clip gradients and step, unless their norm is not finite. Return the norm before clipping."""
        norm = self._clip(losses, math.inf if max_norm is None else max_norm)
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()
        return norm

    def _clip(self, losses: nn.Module, limit: float) -> float:
        return float(self._accelerator.clip_grad_norm_(losses.parameters(), limit))

    # --- what is stored ------------------------------------------------------------------------------

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return whole parameters and persistent buffers by name, shared ones once. All ranks call this."""
        return stored_tensors(model)

    def moments(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return the optimizer's whole state as ``<parameter>/<field>``. All ranks call this."""
        return {
            f"{name}/{field}": tensor
            for name, parameter in model.named_parameters()
            for field, tensor in optimizer.state.get(parameter, {}).items()
        }

    def restore(
        self, model: nn.Module, optimizer: Optimizer, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
    ) -> None:
        """Restore the result of :meth:`tensors` and :meth:`moments`, whichever way of training stored it."""
        for name, tensor in stored_tensors(model).items():
            tensor.copy_(self._share(weights[name], tensor))
        parameters = dict(model.named_parameters())
        for key, tensor in moments.items():
            name, _, field = key.rpartition("/")
            parameter = parameters[name]
            is_moment = tensor.shape == parameter.shape  # otherwise it is a count of steps
            share = self._share(tensor, parameter) if is_moment else tensor
            optimizer.state[parameter][field] = share.to(self.device, copy=True)

    def _share(self, whole: Tensor, like: Tensor) -> Tensor:
        """Return this process's share of a whole tensor, by that of a tensor of the same shape."""
        return whole

    def release(self, model: nn.Module) -> None:
        """Make ``model`` an ordinary one again, whole on the first rank at least, to be saved."""


def make_optimizer(model: nn.Module, training: Training) -> AdamW:
    """Return AdamW over all parameters that are not frozen; matrices decay, norms and biases do not."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, others = [p for p in learning if p.ndim >= 2], [p for p in learning if p.ndim < 2]
    decays = ((matrices, training.weight_decay), (others, 0.0))
    groups = [{"params": members, "weight_decay": decay} for members, decay in decays if members]
    return AdamW(groups, lr=training.learning_rate, betas=training.betas, fused=True)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name as they are in this process, shared ones once."""
    saved = set(model.state_dict(keep_vars=True))
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *buffers.items())}
