"""Compute experts together: tokens are sorted by expert, and one grouped matrix product serves all experts of a layer.

``torch.nn.functional.grouped_mm`` is the kernel on every device. On a CPU it was the fastest option, forward and
backward: as fast as a loop of matrix products in float32 where groups are large, 1.3 times as fast where they are
small, and 1.3 to 1.9 times in bfloat16. :func:`experts_forward` computes the experts of transformers' models so, in any
dtype and under autocast, where transformers' own grouped product stays in float32. Moving tokens to their experts and
back are permutations, so both directions are gathers: quick, and the same bits every time.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "moemix_grouped"
_ALIGNMENT = 16  # bytes; the kernel needs every row to be aligned so


class Groups:
    """(token, choice) pairs sorted by expert, M = N · k of them.

    Args:
        selected_Nk: i64[N, k], the experts of each token.
        num_experts: E.
    """

    def __init__(self, selected_Nk: Tensor, num_experts: int) -> None:
        self.top_k = selected_Nk.shape[1]
        sorted_M, self.order_M = selected_Nk.reshape(-1).sort(stable=True)
        self.place_M = torch.empty_like(self.order_M)
        self.place_M[self.order_M] = torch.arange(len(sorted_M), device=sorted_M.device)
        experts_E = torch.arange(num_experts, device=sorted_M.device)
        self.ends_E = torch.searchsorted(sorted_M, experts_E, right=True, out_int32=True)

    def spread(self, tokens_NH: Tensor) -> Tensor:
        """Return [M, H]: each token once for each of its experts, sorted by expert."""
        spread: Tensor = _Spread.apply(tokens_NH, self.order_M, self.place_M, self.top_k)
        return spread

    def sort(self, pairs_MH: Tensor) -> Tensor:
        """Sort [M, H] from the order of tokens by expert."""
        ordered: Tensor = _Permute.apply(pairs_MH, self.order_M, self.place_M)
        return ordered

    def unsort(self, sorted_MH: Tensor) -> Tensor:
        """Bring [M, H] from the order of experts into that of tokens, a token's choices side by side."""
        ordered: Tensor = _Permute.apply(sorted_MH, self.place_M, self.order_M)
        return ordered

    def linear(self, sorted_MI: Tensor, weight_EIO: Tensor) -> Tensor:
        """Return [M, O]: each row times the matrix of its expert, in the dtype of autocast where that is on."""
        if torch.is_autocast_enabled(sorted_MI.device.type):
            dtype = torch.get_autocast_dtype(sorted_MI.device.type)
            sorted_MI, weight_EIO = sorted_MI.to(dtype), weight_EIO.to(dtype)
        if any(size * sorted_MI.element_size() % _ALIGNMENT for size in weight_EIO.shape[1:]):
            parts = sorted_MI.tensor_split(self.ends_E[:-1].tolist())
            return torch.cat([part @ weight_EIO[i] for i, part in enumerate(parts)])
        return functional.grouped_mm(sorted_MI, weight_EIO, offs=self.ends_E)

    def combine(self, sorted_MH: Tensor, scores_Nk: Tensor) -> Tensor:
        """Return [N, H]: for each token the weighted sum of its experts' outputs."""
        outputs_NkH = self.unsort(sorted_MH).view(*scores_Nk.shape, -1)
        return (outputs_NkH * scores_Nk[..., None].to(outputs_NkH.dtype)).sum(dim=1)


def experts_forward(experts: nn.Module, hidden_NH: Tensor, selected_Nk: Tensor, scores_Nk: Tensor) -> Tensor:
    """Compute the routed experts of a layer, f[N, H]: an experts' implementation of transformers.

    ``experts`` has the parameters ``gate_up_proj`` (or ``up_proj``) and ``down_proj``. Numbers in ``selected_Nk``
    beyond the last expert compute nothing; ``scores_Nk`` are the weights of the selected experts.
    """
    of = cast("Any", experts)
    count: int = of.num_experts
    outside_Nk = selected_Nk >= count
    groups = Groups(selected_Nk.clamp(max=count - 1), count)
    order_M = groups.order_M
    expert_M = selected_Nk.reshape(-1)[order_M].clamp(max=count - 1)

    def apply(rows_MI: Tensor, name: str) -> Tensor:
        weight = getattr(of, name)
        out_MO = groups.linear(rows_MI, weight if of.is_transposed else weight.transpose(1, 2))
        return out_MO + getattr(of, f"{name}_bias")[expert_M].to(out_MO.dtype) if of.has_bias else out_MO

    inner_MI = apply(groups.spread(hidden_NH), "gate_up_proj" if of.has_gate else "up_proj")
    inner_MI = of._apply_gate(inner_MI) if of.has_gate else of.act_fn(inner_MI)
    outputs_MH = apply(inner_MI, "down_proj")
    return groups.combine(outputs_MH, scores_Nk.masked_fill(outside_Nk, 0)).to(hidden_NH.dtype)


ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)


class _Permute(torch.autograd.Function):
    """Reorders rows; the gradient takes the inverse order."""

    @staticmethod
    def forward(ctx: Any, rows_MH: Tensor, order_M: Tensor, inverse_M: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_M)
        return rows_MH.index_select(0, order_M)

    @staticmethod
    def backward(ctx: Any, grad_MH: Tensor) -> tuple[Tensor | None, ...]:
        (inverse_M,) = ctx.saved_tensors
        return grad_MH.index_select(0, inverse_M), None, None


class _Spread(torch.autograd.Function):
    """Repeats rows k times and reorders them; the gradient sums over the k."""

    @staticmethod
    def forward(ctx: Any, rows_NH: Tensor, order_M: Tensor, inverse_M: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(inverse_M)
        ctx.shape = (len(rows_NH), top_k)
        return rows_NH.index_select(0, order_M.div(top_k, rounding_mode="floor"))

    @staticmethod
    def backward(ctx: Any, grad_MH: Tensor) -> tuple[Tensor | None, ...]:
        (inverse_M,) = ctx.saved_tensors
        return grad_MH.index_select(0, inverse_M).view(*ctx.shape, -1).sum(dim=1), None, None, None
