"""DeepSpeed ZeRO-1: weights and gradients whole in every process, AdamW's moments and a copy of the weights in shards.

accelerate makes DeepSpeed's engine from a plugin. The loop around it is ours, so it says where a step ends, and
DeepSpeed does not count forward passes. Stored tensors are gathered through DeepSpeed's own access to a parameter's
state: whole ones, under the names and in the shapes that a run on one process stores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from harness.errors import MoemixError
from harness.recipe import Training
from trainers.parallel.base import Parallel, make_optimizer, stored_tensors

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero1(Parallel):
    """Each process steps its share of the weights, and all get the result."""

    name = "zero1"
    unseen: ClassVar[Mapping[str, str]] = {
        "gradients": "DeepSpeed would add them to the gradients of training",
        "trial steps": "DeepSpeed's optimizer cannot be put back",
    }

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(accelerator)
        self._engine: Any = None
        self._last = True

    def prepare(self, losses: nn.Module, model: PreTrainedModel, training: Training) -> tuple[nn.Module, Optimizer]:
        """Return DeepSpeed's engine around ``losses``, and its optimizer."""
        config = self._accelerator.deepspeed_plugin.deepspeed_config
        config["gradient_clipping"] = training.max_grad_norm or 0.0
        self._engine, optimizer = self._accelerator.prepare(losses, make_optimizer(model.parameters(), training))
        stage = self._engine.zero_optimization_stage()
        if stage != 1 or self._engine.dp_world_size != self.ranks.count:
            raise MoemixError(
                f"DeepSpeed runs ZeRO stage {stage} on {self._engine.dp_world_size} processes instead of stage 1 on"
                f" {self.ranks.count}",
                where="launcher.strategy=zero1",
            )
        return self._engine, optimizer

    def accumulate(self, losses: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """Note whether the coming backward pass is the last one of a step."""
        self._last = last
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients, which DeepSpeed averages over ranks."""
        self._engine.set_gradient_accumulation_boundary(is_boundary=self._last)
        self._engine.backward(loss)

    def step(self, losses: nn.Module, optimizer: Optimizer, max_norm: float | None) -> Tensor:
        """Let DeepSpeed clip gradients and step, which it does only where their norm is finite."""
        self._engine.step()
        return torch.tensor(math.inf if _zero(optimizer).overflow else float(self._engine.get_global_grad_norm()))

    def moments(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return whole moments on the first rank, nothing on the others."""
        zero, found = _zero(optimizer), {}
        counts = {
            id(parameter): zero.optimizer.state[flat]["step"]
            for group, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True)
            for parameter in group
        }
        _link(zero)
        for name, parameter in model.named_parameters():
            if id(parameter) not in counts:
                continue  # frozen
            for field in _MOMENTS:
                whole = safe_get_full_optimizer_state(parameter, field)
                if self.ranks.first:
                    found[f"{name}/{field}"] = whole.cpu()
            found[f"{name}/step"] = counts[id(parameter)].clone()
        return found if self.ranks.first else {}

    @torch.no_grad()
    def restore(
        self, model: nn.Module, optimizer: Optimizer, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
    ) -> None:
        """Give DeepSpeed whole tensors, of which it keeps this rank's share."""
        zero = _zero(optimizer)
        for name, tensor in stored_tensors(model).items():
            tensor.copy_(weights[name])
        zero.refresh_fp32_params()
        parameters = dict(model.named_parameters())
        steps = {id(parameters[key[: -len("/step")]]): value for key, value in moments.items() if key.endswith("/step")}
        for group, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            count = next(steps[id(parameter)] for parameter in group)
            zero.optimizer.state[flat] = {
                "step": count.to(flat.device, copy=True),
                **{field: torch.zeros_like(flat) for field in _MOMENTS},
            }
        _link(zero)
        for key, tensor in moments.items():
            name, _, field = key.rpartition("/")
            if field in _MOMENTS:
                safe_set_full_optimizer_state(parameters[name], tensor.to(self.device), field)

    def release(self, model: nn.Module) -> None:
        """Give parameters memory of their own again; they were views of DeepSpeed's flat buffers."""
        self._engine.destroy()
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def _zero(optimizer: Optimizer) -> Any:
    """Return DeepSpeed's optimizer inside accelerate's."""
    return vars(optimizer)["optimizer"]


def _link(zero: Any) -> None:
    """Let each parameter find its share of the moments.

    DeepSpeed does so in its first step, but after the first group of parameters, when other groups have no moments yet.
    """
    zero._hp_optimizer_states_linked = False
    zero._lazy_init_hp_params_optimizer_state()
