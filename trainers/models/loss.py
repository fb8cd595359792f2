"""The loss of every target token of a packed forward pass, with the output layer computed at targets only.

With a vocabulary of 49,152, a logit for every position of a row would cost more than the rest of the step. Hidden
states are gathered at the positions that predict a target, and the output layer runs over a few of them at a time: its
logits become losses and gradients, and are dropped before the next few are computed.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from harness.errors import MoemixError
from trainers.data.batches import Forward
from trainers.models import grouped
from trainers.models.balance import balance_loss
from trainers.models.packed import announce
from trainers.models.routers import RouterObserver, Routing

logger = logging.getLogger("moemix.training")
RouterLogits = tuple[Tensor, ...] | None
CHUNK_LOGITS = 1 << 23  # logits in memory at a time: 32 MB in float32
CHUNK_LOGITS_ON_GPU = 1 << 27  # fewer chunks, since the gradient of the layer is read and written for each


class Losses(NamedTuple):
    """What a forward pass of N targets gives.

    Attributes:
        total: the sum of the losses, each times the scale of its source, with a gradient.
        each_N: f32[N], the loss of each target, detached and unscaled.
        balance: the balance loss over real tokens, coefficient included; zero if it is off.
    """

    total: Tensor
    each_N: Tensor
    balance: Tensor


class TargetLosses(nn.Module):
    """A causal LM as a function from a packed forward pass to its losses: the module that training wraps and calls.

    Args:
        model: a causal LM; its float32 parameters are the master weights.
        bfloat16: whether to compute under bfloat16 autocast.
        balance: the loss to add in training mode: none, the architecture's own (``model``) or the paper's (``paper``).

    Raises:
        MoemixError: the architecture has no balance loss of its own, or its routers cannot be observed.
    """

    def __init__(
        self, model: PreTrainedModel, *, bfloat16: bool = False, balance: Literal["none", "model", "paper"] = "none"
    ) -> None:
        super().__init__()
        self.model = model
        self.autocast = bfloat16
        if bfloat16:
            model.set_experts_implementation(grouped.NAME)
            for module in model.modules():
                if type(module).__name__ == "DbrxExperts":  # their sums fit no dtype but that of the weights
                    module.forward = partial(_in_dtype_of_weights, module, module.forward)
            _warn_if_slow(model.device)
        self._own_balance = _own_balance_loss(model) if balance == "model" else None
        self._routers = RouterObserver(model) if balance == "paper" else None
        self._linear_head = _logits_are_linear(model)

    def forward(self, batch: Forward, scale_K: NDArray[np.float64] | None = None) -> Losses:
        """Compute the losses of a forward pass.

        ``scale_K``, f64[K], is the factor on the losses of each source's targets in ``total``; None for 1.
        """
        scale_N = None
        if scale_K is not None:
            scale_N = torch.from_numpy(scale_K[batch.target_source_N]).to(batch.at_N.device, torch.float32)
        recording: AbstractContextManager[list[Routing]] = nullcontext([])
        if self._routers is not None and self.training:
            recording = self._routers.record()
        with self._autocast():
            with recording as routings:
                total, each_N, router_logits = self._target_losses(batch, scale_N)
            balance = total.new_zeros(())
            if self.training and batch.tokens:
                if self._own_balance is not None:
                    balance = self._own_balance(router_logits, batch.source_RT >= 0)
                elif self._routers is not None:
                    balance = balance_loss(routings, batch.source_RT >= 0)
        return Losses(total, each_N, balance)

    def observe(self, batch: Forward) -> None:
        """Run the decoder alone, for observers of its routers."""
        with self._autocast():
            self._decode(batch)

    def _target_losses(self, batch: Forward, scale_N: Tensor | None) -> tuple[Tensor, Tensor, RouterLogits]:
        """Return the sum of the losses, each of them, and the router logits where the model was asked for them."""
        if self._linear_head:
            outputs = self._decode(batch)
            hidden_NH = cast("Tensor", outputs.last_hidden_state).flatten(0, 1)[batch.at_N]
            head = cast("nn.Linear", self.model.get_output_embeddings())
            total, each_N = _head_losses(hidden_NH, head.weight, head.bias, batch.target_N, scale_N)
            return total, each_N, outputs.get("router_logits")
        # Something follows the output layer, so the whole model runs; the layer itself still sees only targets.
        handle = self.model.get_output_embeddings().register_forward_pre_hook(
            lambda _, inputs: (inputs[0].flatten(0, 1)[batch.at_N][None],)
        )
        try:
            outputs = self.model(**self._arguments(batch))
        finally:
            handle.remove()
        losses_N = functional.cross_entropy(outputs.logits[0].float(), batch.target_N, reduction="none")
        total = losses_N.sum() if scale_N is None else losses_N @ scale_N
        return total, losses_N.detach(), outputs.get("router_logits")

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.autocast)

    def _arguments(self, batch: Forward) -> dict[str, object]:
        """Return the arguments of a forward pass, without an attention mask and a cache.

        The restarted positions say where an example begins, and keep the pattern of each layer (sliding windows).
        """
        wanted = {"output_router_logits": True} if self._own_balance is not None else {}
        announce(batch.position_RT, batch.rows)
        return {
            "input_ids": batch.input_RT,
            "position_ids": batch.position_RT,
            "attention_mask": None,
            "use_cache": False,
            **wanted,
        }

    def _decode(self, batch: Forward) -> MoeModelOutputWithPast:
        return cast("MoeModelOutputWithPast", self.model.base_model(**self._arguments(batch)))


def _in_dtype_of_weights(module: nn.Module, forward: Callable[..., Tensor], *args: Tensor) -> Tensor:
    dtype = next(module.parameters()).dtype
    with torch.autocast(args[0].device.type, enabled=False):
        return forward(*(arg.to(dtype) if arg.is_floating_point() else arg for arg in args))


def _warn_if_slow(device: torch.device) -> None:
    """Warn of a CPU that computes bfloat16 by converting it, which takes several times as long as float32."""
    fast = any(getattr(torch.cpu, f"_is_{kind}_supported", bool)() for kind in ("amx_tile", "avx512_bf16"))
    if device.type == "cpu" and not fast:
        logger.warning(
            "warning: this CPU has no bfloat16 arithmetic, so training.dtype=float32 is several times faster"
        )


def _head_losses(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, scale_N: Tensor | None
) -> tuple[Tensor, Tensor]:
    device = hidden_NH.device.type
    if torch.is_autocast_enabled(device):
        hidden_NH = hidden_NH.to(torch.get_autocast_dtype(device))
    apply = cast("Callable[..., tuple[Tensor, Tensor]]", _HeadLosses.apply)
    with torch.autocast(device, enabled=False):
        return apply(hidden_NH, weight_VH, bias_V, target_N, scale_N, torch.is_grad_enabled())


class _HeadLosses(torch.autograd.Function):
    """Cross-entropy of a linear output layer, summed, with gradients computed in the forward pass, chunk by chunk.

    The loss is linear in its sum, so the gradients only need a factor once the real upstream gradient is known.
    Matrix products are in the dtype of the hidden states, everything else in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        scale_N: Tensor | None,
        training: bool,
    ) -> tuple[Tensor, Tensor]:
        limit = CHUNK_LOGITS if hidden_NH.device.type == "cpu" else CHUNK_LOGITS_ON_GPU
        rows = max(1, limit // len(weight_VH))
        low_VH = weight_VH.to(hidden_NH.dtype)
        each_N = hidden_NH.new_empty(len(hidden_NH), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden_NH) if training and ctx.needs_input_grad[0] else None
        weight_grad = None
        if training and ctx.needs_input_grad[1]:
            weight_grad = torch.zeros_like(weight_VH, dtype=torch.float32)
        bias_grad = torch.zeros_like(bias_V) if training and bias_V is not None and ctx.needs_input_grad[2] else None
        for start in range(0, len(hidden_NH), rows):
            part = slice(start, start + rows)
            logits_CV = functional.linear(hidden_NH[part], low_VH).float()
            if bias_V is not None:
                logits_CV += bias_V
            picked_C1 = target_N[part, None]
            norm_C1 = logits_CV.logsumexp(-1, keepdim=True)
            each_N[part] = (norm_C1 - logits_CV.gather(1, picked_C1)).squeeze(1)
            if hidden_grad is None and weight_grad is None and bias_grad is None:
                continue
            error_CV = logits_CV.sub_(norm_C1).exp_()  # d loss / d logits = softmax − one-hot
            error_CV.scatter_(1, picked_C1, error_CV.gather(1, picked_C1) - 1)
            if scale_N is not None:
                error_CV *= scale_N[part, None]
            if bias_grad is not None:
                bias_grad += error_CV.sum(0)
            error_CV = error_CV.to(hidden_NH.dtype)
            if hidden_grad is not None:
                torch.mm(error_CV, low_VH, out=hidden_grad[part])
            if weight_grad is None:
                continue
            if weight_grad.dtype == error_CV.dtype:  # in place: no second tensor of this size, no second pass over it
                weight_grad.addmm_(error_CV.T, hidden_NH[part])
            else:
                weight_grad += error_CV.T @ hidden_NH[part]
        if weight_grad is not None:
            weight_grad = weight_grad.to(weight_VH.dtype)
        ctx.gradients = hidden_grad, weight_grad, bias_grad
        ctx.mark_non_differentiable(each_N)
        return each_N.sum() if scale_N is None else each_N @ scale_N, each_N

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return *(None if g is None else g.mul_(upstream) for g in gradients), None, None, None


@torch.no_grad()
def _logits_are_linear(model: PreTrainedModel) -> bool:
    """Return whether logits are the output layer over the decoder's last hidden state and nothing else.

    Some architectures scale or cap logits afterwards, or wrap the layer in an adapter; a trial with four tokens shows.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or model.base_model is model:
        return False
    input_RT = torch.arange(4, device=model.device)[None]
    was_training = model.training
    model.eval()
    try:
        hidden = model.base_model(input_ids=input_RT, use_cache=False).last_hidden_state
        return torch.equal(head(hidden), model(input_ids=input_RT, use_cache=False).logits)
    finally:
        model.train(was_training)


def _own_balance_loss(model: PreTrainedModel) -> Callable[[RouterLogits, Tensor], Tensor]:
    """Return the auxiliary loss that an architecture defines beside its model, over real tokens only."""
    function = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    coefficient = getattr(model.config, "router_aux_loss_coef", getattr(model.config, "aux_loss_coef", None))
    experts, top_k = getattr(model, "num_experts", None), getattr(model, "num_experts_per_tok", None)
    if function is None or coefficient is None or experts is None or top_k is None:
        raise MoemixError(
            f"{type(model).__name__} has no auxiliary loss of its own",
            where="training.balance_loss",
            hint="set training.balance_loss=none",
        )

    def weighted(router_logits: RouterLogits, real_RT: Tensor) -> Tensor:
        loss: Tensor = coefficient * function(router_logits, experts, top_k, real_RT)
        return loss

    return weighted
