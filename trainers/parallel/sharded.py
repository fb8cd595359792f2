"""FSDP2: weights, gradients and optimizer state in shards, each layer gathered only while it computes.

This is ``torch.distributed.fsdp.fully_shard`` on a mesh of all processes, on GPUs and CPUs alike, so that what runs
on many GPUs is what the tests run on two CPU processes. What is stored is gathered: ordinary whole tensors, under the
names and in the shapes that a run on one process stores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import MoemixError
from harness.recipe import Training
from trainers.parallel.base import Parallel, stored_tensors
from trainers.training.optimizer import make_optimizer, moments


class Sharded(Parallel):
    """Each process holds a share of every parameter, of its gradient and of its moments."""

    name = "fsdp2"

    def __init__(self, accelerator: Any) -> None:
        super().__init__(accelerator)
        from torch.distributed.device_mesh import init_device_mesh

        self._mesh = init_device_mesh(self.device.type, (self.ranks.count,))
        self._kinds: list[tuple[nn.Module, type]] = []

    def check_signals(self, fields: Set[str]) -> None:
        if "gradient" in fields:
            raise MoemixError(
                "the strategy asks for gradients of the sources, which no process holds whole",
                where="launcher.strategy=fsdp2",
                hint="launcher.strategy=ddp",
            )

    def prepare(self, losses: nn.Module, model: nn.Module, training: Training) -> tuple[Any, Any]:
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        for module in (*_layers(model), losses):
            self._kinds.append((module, type(module)))
            fully_shard(module, mesh=self._mesh)
        register_fsdp_forward_method(losses, "observe")
        whole = [name for name, parameter in model.named_parameters() if not _is_shard(parameter)]
        if whole:
            raise MoemixError(
                f"{type(model).__name__} was to be sharded, and {len(whole)} parameters were not: {whole[0]}, …",
                where="launcher.strategy=fsdp2",
            )
        return losses, make_optimizer(model, training)

    def accumulate(self, losses: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()  # whole gradients of the forwards before the last would be as large as the model

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def learn(self, losses: nn.Module, optimizer: Any, max_norm: float | None) -> float:
        limit = math.inf if max_norm is None else max_norm
        norm = float(_whole(torch.nn.utils.clip_grad_norm_(losses.parameters(), limit)))
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()
        return norm

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        return self._gathered(stored_tensors(model))

    def moments(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        return self._gathered(moments(model, optimizer))

    @torch.no_grad()
    def restore(
        self, model: nn.Module, optimizer: Any, weights: Mapping[str, Tensor], learnt: Mapping[str, Tensor]
    ) -> None:
        for name, tensor in stored_tensors(model).items():
            tensor.copy_(_like(weights[name], tensor))
        parameters = dict(model.named_parameters())
        for key, tensor in learnt.items():
            name, _, field = key.rpartition("/")
            parameter = parameters[name]
            same = tensor.shape == parameter.shape  # a moment, and not a count of steps
            optimizer.state[parameter][field] = _like(tensor, parameter) if same else tensor.to(self.device, copy=True)

    def release(self, model: nn.Module) -> None:
        """The shards are gathered to the first rank; the others are left with empty tensors."""
        gathered = self._gathered(dict(model.named_parameters()))
        for name, parameter in list(model.named_parameters()):
            tensor = gathered.get(name, torch.empty(0))
            _replace(model, parameter, nn.Parameter(tensor, requires_grad=parameter.requires_grad))
        for module, kind in self._kinds:
            module.__class__ = kind
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                hooks.clear()

    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the first rank's host; nothing on the others, which take part all the same."""
        found = {}
        for name, tensor in tensors.items():
            whole = _whole(tensor.detach())
            if self.ranks.first:
                found[name] = whole.cpu()
        return found


def _layers(model: Any) -> list[nn.Module]:
    """The modules that are gathered one at a time: what the architecture says must stay in one piece."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise MoemixError(
            f"{type(model).__name__} does not name its layers (`_no_split_modules`), so it cannot be sharded by layer",
            where="launcher.strategy=fsdp2",
            hint="launcher.strategy=ddp",
        )
    return layers


def _is_shard(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _whole(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if _is_shard(tensor) else tensor  # type: ignore[attr-defined]
    return whole


def _like(whole: Tensor, tensor: Any) -> Tensor:
    """``whole`` cut as ``tensor`` is. Every rank has read the same bytes, so nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    if not _is_shard(tensor):
        return whole
    return distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)


def _replace(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Put ``new`` wherever ``old`` is: a parameter may be shared."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is old:
                module._parameters[name] = new
