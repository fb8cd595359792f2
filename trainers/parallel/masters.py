"""Training in bfloat16: a model computes with bfloat16 weights, and an optimizer changes float32 ones.

Under autocast alone, float32 weights would be cast again in every forward pass and every gradient in every backward
pass, and the hidden states between the layers would be float32. Gradients of many forward passes are summed in float32.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainers.parallel.ranks import Ranks

_BUCKET = 1 << 26  # numbers that ranks exchange at a time


class Masters:
    """The float32 weights of a model that computes with bfloat16 copies of them.

    Parameters that an architecture keeps in float32 itself are their own masters. Those that do not learn have none:
    their float32 values wait on the host.

    Attributes:
        learning: the float32 parameters that an optimizer changes, by name.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.learning: dict[str, nn.Parameter] = {}
        self._copies: dict[str, nn.Parameter] = {}
        self._fixed: dict[str, Tensor] = {}
        kept = sorted(model._keep_in_fp32_modules_strict or ())
        in_float32 = re.compile("|".join(rf"(?:^|\.){re.escape(name)}(?:\.|$)" for name in kept) or r"(?!)")
        for name, parameter in model.named_parameters():
            if parameter.dtype != torch.float32 or in_float32.search(name):
                if parameter.requires_grad:
                    self.learning[name] = parameter
                continue
            whole = parameter.data
            parameter.data = whole.to(torch.bfloat16)
            if not parameter.requires_grad:
                self._fixed[name] = whole.cpu()
                continue
            self._copies[name] = parameter
            self.learning[name] = master = nn.Parameter(whole)
            parameter.register_post_accumulate_grad_hook(partial(_move_gradient, master))

    def average_gradients(self, ranks: Ranks) -> None:
        """Average the gradients over ranks; one that only some of them have counts as zero on the others."""
        if ranks.count == 1:
            return
        masters = list(self.learning.values())
        having = ranks.sum(np.array([master.grad is not None for master in masters], dtype=np.int64))
        for master, number in zip(masters, having, strict=True):
            if number and master.grad is None:
                master.grad = torch.zeros_like(master)
        for bucket in _buckets([master.grad for master in masters if master.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            torch.distributed.all_reduce(flat)
            flat /= ranks.count
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def publish(self) -> None:
        """Give the model the masters' values."""
        copies = list(self._copies.values())
        torch._foreach_copy_([copy.data for copy in copies], [self.learning[name].data for name in self._copies])

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replace copies among tensors by the float32 values that they are copies of."""
        own = {name: self.learning[name].detach() for name in self._copies}
        return {name: own.get(name, self._fixed.get(name, tensor)) for name, tensor in tensors.items()}

    def release(self, model: nn.Module) -> None:
        """Make the model one in float32 again."""
        for name, parameter in model.named_parameters():
            if name in self._copies:
                parameter.data = self.learning[name].data
            elif name in self._fixed:
                parameter.data = self._fixed[name].to(parameter.device)


@torch.no_grad()
def _move_gradient(master: nn.Parameter, copy: Tensor) -> None:
    """Add the gradient of a copy to that of its master, and drop it."""
    if copy.grad is None:
        return
    if master.grad is None:
        master.grad = copy.grad.float()
    else:
        master.grad += copy.grad
    copy.grad = None


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield neighbours that together have about as many numbers as are exchanged at a time."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(each.numel() for each in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
