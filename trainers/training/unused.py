"""Find the parameters that get no gradient, before ranks wait for one."""

from __future__ import annotations

from torch import nn

from trainers.data.batches import Forward
from trainers.models.loss import TargetLosses


def find_unused(losses: TargetLosses, model: nn.Module, real: Forward, padding: Forward) -> tuple[list[str], list[str]]:
    """Return the parameters to which padding alone gives no gradient, and those of them that real examples reach.

    Some never get a gradient (weights that only select, say), others only where examples are long enough for them.
    """
    never, lacking = (_without_gradient(losses, model, forward) for forward in (real, padding))
    return lacking, [name for name in lacking if name not in never]


def _without_gradient(losses: TargetLosses, model: nn.Module, forward: Forward) -> list[str]:
    losses.train()
    found = losses(forward)
    (found.total + found.balance).backward()
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    model.zero_grad(set_to_none=True)
    return lacking
