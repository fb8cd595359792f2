"""Training alone or on replicas that average their gradients (DDP)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from harness.errors import MoemixError
from harness.recipe import Training
from trainers.parallel.masters import Masters
from trainers.parallel.ranks import Ranks


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
        self._masters: Masters | None = None

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

    def expect_unused(self, sometimes: Sequence[str]) -> None:
        """Let gradients be exchanged although some parameters get none; called before :meth:`prepare`.

        ``sometimes`` names those that get one in some forward passes and none in others.
        """
        self._accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)

    def prepare(self, losses: nn.Module, model: PreTrainedModel, training: Training) -> tuple[nn.Module, Optimizer]:
        """Return ``losses``, which computes with ``model``, ready to be called; and an optimizer."""
        if training.dtype == "bfloat16":
            self._masters = Masters(model)
            return losses, make_optimizer(self._masters.learning.values(), training)
        wrapped, optimizer = self._accelerator.prepare(losses, make_optimizer(model.parameters(), training))
        return wrapped, optimizer

    def accumulate(self, losses: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """Return the context of a forward and backward pass; ranks exchange gradients after the last one of a step."""
        alone = self.ranks.count == 1 or self._masters is not None
        return nullcontext() if last or alone else self._accelerator.no_sync(losses)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients, which are averaged over ranks."""
        self._accelerator.backward(loss)

    def step(self, losses: nn.Module, optimizer: Optimizer, max_norm: float | None) -> Tensor:
        """Clip gradients and step, unless their norm is not finite. Return the norm before clipping.

        The norm stays on the device, and whether it is finite is found there, so the host does not wait for it.
        """
        learning: Iterable[Tensor] = losses.parameters()
        if self._masters is not None:
            self._masters.average_gradients(self.ranks)
            learning = self._masters.learning.values()
        norm = torch.nn.utils.clip_grad_norm_(learning, math.inf if max_norm is None else max_norm)
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        vars(inner)["found_inf"] = (~norm.isfinite()).float()  # the fused kernel then changes nothing
        optimizer.step()
        optimizer.zero_grad()
        if self._masters is not None:
            self._masters.publish()
        return norm

    def changing(self, losses: nn.Module) -> list[Tensor]:
        """Return all that a step changes, beside the optimizer's state."""
        copies = [parameter for parameter in losses.parameters() if parameter.requires_grad]
        masters = [] if self._masters is None else list(self._masters.learning.values())
        return [*copies, *masters, *losses.buffers()]

    # --- what is stored ------------------------------------------------------------------------------

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return whole parameters and persistent buffers by name, shared ones once. All ranks call this."""
        tensors = stored_tensors(model)
        return tensors if self._masters is None else self._masters.whole(tensors)

    def moments(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return the optimizer's whole state as ``<parameter>/<field>``. All ranks call this."""
        return {
            f"{name}/{field}": tensor
            for name, parameter in self._learning(model).items()
            for field, tensor in optimizer.state.get(parameter, {}).items()
        }

    def _learning(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return by name what the optimizer may change."""
        return dict(model.named_parameters()) if self._masters is None else self._masters.learning

    def restore(
        self, model: nn.Module, optimizer: Optimizer, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
    ) -> None:
        """Restore the result of :meth:`tensors` and :meth:`moments`, whichever way of training stored it."""
        tensors = stored_tensors(model)
        for name, tensor in (tensors if self._masters is None else self._masters.whole(tensors)).items():
            tensor.copy_(self._share(weights[name], tensor))
        if self._masters is not None:
            self._masters.publish()
        parameters = self._learning(model)
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
        if self._masters is not None:
            self._masters.release(model)


def make_optimizer(parameters: Iterable[nn.Parameter], training: Training) -> AdamW:
    """Return AdamW over all parameters that are not frozen; matrices decay, norms and biases do not."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    matrices, others = [p for p in learning if p.ndim >= 2], [p for p in learning if p.ndim < 2]
    decays = ((matrices, training.weight_decay), (others, 0.0))
    groups = [{"params": members, "weight_decay": decay} for members, decay in decays if members]
    return AdamW(groups, lr=training.learning_rate, betas=training.betas, fused=True)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name as they are in this process, shared ones once."""
    saved = set(model.state_dict(keep_vars=True))
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *buffers.items())}
