"""Training alone, or on replicas of the whole model that average their gradients (DDP)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.recipe import Training
from trainers.parallel.ranks import Ranks
from trainers.training.optimizer import make_optimizer, moments, restore_moments


class Parallel:
    """How one process trains together with its peers, if it has any. What is stored is the same in every way.

    Attributes:
        name: as in the recipe's ``launcher.strategy``.
        device: where this process computes.
        ranks: what the processes tell each other.
    """

    name: ClassVar[str] = "ddp"

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.ranks = Ranks(accelerator.num_processes, accelerator.process_index, accelerator.device)

    def check_signals(self, fields: Set[str]) -> None:
        """Whether what a strategy wants to see can be measured.

        Raises:
            MoemixError: it cannot.
        """

    def prepare(self, losses: nn.Module, model: nn.Module, training: Training) -> tuple[Any, Any]:
        """``losses``, which computes with ``model``, ready to be called; and the optimizer of what learns."""
        return self._accelerator.prepare(losses, make_optimizer(model, training))

    def accumulate(self, losses: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Around a forward and backward pass; only after the last one of a step do the peers need its gradients."""
        return nullcontext() if last or self.ranks.count == 1 else self._accelerator.no_sync(losses)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients; between peers they are averaged."""
        self._accelerator.backward(loss)

    def learn(self, losses: nn.Module, optimizer: Any, max_norm: float | None) -> float:
        """Clip and step; the gradient's norm before clipping. Nothing is changed where that is not finite."""
        norm = float(self._accelerator.clip_grad_norm_(losses.parameters(), math.inf if max_norm is None else max_norm))
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()
        return norm

    # --- what is stored ------------------------------------------------------------------------------

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Parameters and persistent buffers, whole, by name, shared ones once. Called on every rank."""
        return stored_tensors(model)

    def moments(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """The optimizer's state, whole, as ``<parameter>/<field>``. Called on every rank."""
        return moments(model, optimizer)

    def restore(
        self, model: nn.Module, optimizer: Any, weights: Mapping[str, Tensor], learnt: Mapping[str, Tensor]
    ) -> None:
        """The inverse of :meth:`tensors` and :meth:`moments`, whatever way they were made in."""
        for name, tensor in stored_tensors(model).items():
            tensor.copy_(weights[name])
        restore_moments(model, optimizer, learnt)

    def release(self, model: nn.Module) -> None:
        """Leave ``model`` an ordinary one again, whole on the first rank at least, to be saved."""


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name as they are in this process, shared ones once."""
    saved = set(model.state_dict(keep_vars=True))
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *buffers.items())}
