"""FSDP2: weights, gradients and optimizer state in shards; each layer's weights are gathered only while it computes.

This is ``torch.distributed.fsdp.fully_shard`` on a mesh of all processes, on GPUs and CPUs alike, so the tests on two
CPU processes run what runs on many GPUs. Stored tensors are gathered: whole ones, under the names and in the shapes
that a run on one process stores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from harness.errors import MoemixError
from harness.recipe import Training
from trainers.parallel.base import Parallel, make_optimizer, stored_tensors


class Sharded(Parallel):
    """Each process holds a share of every parameter, of its gradient and of its moments."""

    name = "fsdp2"
    unseen: ClassVar[Mapping[str, str]] = {
        "gradients": "under FSDP2 no process holds a whole gradient",
        "trial steps": "steps on shards cannot be taken back yet",
    }

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(accelerator)
        self._mesh = init_device_mesh(self.device.type, (self.ranks.count,))
        self._kinds: list[tuple[nn.Module, type[nn.Module]]] = []
        self._masks: list[tuple[nn.Parameter, Tensor]] = []
        self._sometimes: frozenset[str] = frozenset()

    def expect_unused(self, sometimes: Sequence[str]) -> None:
        """Give these parameters gradients of zero where they have none, so that all ranks exchange as much."""
        self._sometimes = frozenset(sometimes)

    def prepare(self, losses: nn.Module, model: PreTrainedModel, training: Training) -> tuple[nn.Module, Optimizer]:
        """Shard the model by layer, and make an optimizer of the shards."""
        halves = {
            name: half(torch.ones_like(model.get_parameter(name), requires_grad=False))
            for name, half in self.partly_frozen.items()
        }
        layers = _layers(model)
        for module in layers:
            if places := [place for name, place in _places(module, model) if name in self._sometimes]:
                module.register_forward_hook(partial(_reach, places))  # before torch's, which drops whole weights
        for module in (*layers, losses):
            self._kinds.append((module, type(module)))
            fully_shard(module, mesh=self._mesh)
        register_fsdp_forward_method(losses, "observe")
        whole = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
        if whole:
            raise MoemixError(
                f"{len(whole)} parameters of {type(model).__name__} were not sharded: {whole[0]}, …",
                where="launcher.strategy=fsdp2",
            )
        # FSDP2 sets the gradients of shards itself, so hooks of the whole parameters are never called.
        for name, mask in halves.items():
            parameter = model.get_parameter(name)
            self._masks.append((parameter, self._share(mask, parameter)))
        return losses, make_optimizer(model.parameters(), training)

    def accumulate(self, losses: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """Exchange gradients after every forward pass: whole ones, kept until the last, are as large as a model."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients; torch averages them over ranks."""
        torch.autograd.backward(loss)

    def step(self, losses: nn.Module, optimizer: Optimizer, max_norm: float | None) -> Tensor:
        """Clip shards of gradients and step, unless their norm is not finite. Return the norm before clipping."""
        for parameter, mask in self._masks:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
        limit = math.inf if max_norm is None else max_norm
        norm = _whole(torch.nn.utils.clip_grad_norm_(losses.parameters(), limit))
        if norm.isfinite():
            optimizer.step()
        optimizer.zero_grad()
        return norm

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return whole tensors on the first rank, nothing on the others."""
        return self._gathered(stored_tensors(model))

    def moments(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return whole moments on the first rank, nothing on the others."""
        return self._gathered(super().moments(model, optimizer))

    def _share(self, whole: Tensor, like: Tensor) -> Tensor:
        """Cut a tensor as ``like`` is cut. Every rank has read the same bytes, so nothing is sent."""
        if not isinstance(like, DTensor):
            return whole
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

    def release(self, model: nn.Module) -> None:
        """Gather the shards to the first rank; the others keep empty tensors."""
        gathered = self._gathered(dict(model.named_parameters()))
        for name, parameter in list(model.named_parameters()):
            tensor = gathered.get(name, torch.empty(0))
            _replace(model, parameter, nn.Parameter(tensor, requires_grad=parameter.requires_grad))
        for module, kind in self._kinds:
            module.__class__ = kind
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                hooks.clear()

    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors on the first rank's host, and nothing on the others, which take part all the same."""
        found = {}
        for name, tensor in tensors.items():
            whole = _whole(tensor.detach())
            if self.ranks.first:
                found[name] = whole.cpu()
        return found


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the modules to gather one at a time: those that the architecture keeps in one piece."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise MoemixError(
            f"{type(model).__name__} does not name its layers (`_no_split_modules`), so it cannot be sharded by layer",
            where="launcher.strategy=fsdp2",
            hint="set launcher.strategy=ddp",
        )
    return layers


def _places(module: nn.Module, model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    """Yield the parameters of a part of a model: their names in the model, and where they are."""
    names = {part: name for name, part in model.named_modules()}
    for part in module.modules():
        for last in part._parameters:
            if part in names:
                yield f"{names[part]}.{last}".lstrip("."), (part, last)


def _reach(places: Sequence[tuple[nn.Module, str]], module: nn.Module, args: Any, output: Any) -> Any:
    """Let an output depend on parameters, with a gradient of zero."""
    first = output[0] if isinstance(output, tuple) else output
    nothing = 0 * torch.stack([getattr(part, name).flatten()[0].float() for part, name in places]).sum()
    reached = first + nothing.to(first.dtype)
    return (reached, *output[1:]) if isinstance(output, tuple) else reached


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _replace(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Put ``new`` wherever ``old`` is: modules may share a parameter."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is old:
                module._parameters[name] = new
