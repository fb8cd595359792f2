"""The paper's balance loss (eq. 3) for any observed routers, and the gate noise that makes its load differentiable.

For each MoE layer CV(importance)² + CV(load)², with the unbiased variance over experts. An expert's importance is the
sum of its routing scores over tokens. Its load is the number of tokens that select it; a router that adds noise in
training gives the probability of that instead, which has a gradient (Shazeer et al. 2017, arXiv:1701.06538, app. A).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import MoemixError
from trainers.models.routers import GateNoise, Routing

BALANCE_WEIGHT = 1e-2
_EPSILON = 1e-10  # of the squared mean


def balance_loss(routings: Sequence[Routing], real_RT: Tensor, weight: float = BALANCE_WEIGHT) -> Tensor:
    """Eq. 3, summed over layers, times its weight.

    >>> with RouterObserver(model).record() as routings:
    ...     model(input_ids)
    >>> balance_loss(routings, source_ids >= 0).backward()

    Args:
        routings: what the layers' routers decided in one forward pass.
        real_RT: bool[R, T], false in padding, which is left out.
    """
    real_N = real_RT.reshape(-1)
    return weight * torch.stack([_layer_loss(routing, real_N) for routing in routings]).sum()


def _layer_loss(routing: Routing, real_N: Tensor) -> Tensor:
    return cv_squared(importance(routing, real_N)) + cv_squared(load(routing, real_N))


def importance(routing: Routing, real_N: Tensor) -> Tensor:
    """f32[E], the routing scores of each expert summed over real tokens."""
    scores_Nk = routing.scores_Nk.float() * real_N[:, None]
    sums_E = scores_Nk.new_zeros(routing.num_experts)
    return sums_E.index_add(0, routing.selected_Nk.reshape(-1), scores_Nk.reshape(-1))


def load(routing: Routing, real_N: Tensor) -> Tensor:
    """f32[E], how many real tokens select each expert; under noise, how many would be expected to."""
    top_k = routing.selected_Nk.shape[1]
    if routing.noise is not None and top_k < routing.num_experts:
        return (selection_probability(routing.noise, top_k) * real_N[:, None]).sum(dim=0)
    counts_E = torch.zeros(routing.num_experts, device=real_N.device)
    real_Nk = real_N[:, None].expand_as(routing.selected_Nk)
    return counts_E.index_add(0, routing.selected_Nk.reshape(-1), real_Nk.reshape(-1).float())


def selection_probability(noise: GateNoise, top_k: int) -> Tensor:
    """f32[N, E], the probability that an expert is among the top k if its own noise is drawn again, all others kept.

    An expert is selected when it exceeds the k-th largest noisy logit of the others: the (k+1)-th largest of all if it
    is among the k now, the k-th if not. (The released implementation of the paper tests this with the noise term in
    place of the noisy logit, so that it takes the wrong threshold wherever logits are not small.)
    """
    clean_NE, noisy_NE, std_NE = (part.float() for part in noise)
    highest = noisy_NE.topk(top_k + 1, dim=1).values
    if_selected_N1, if_not_N1 = highest[:, top_k:], highest[:, top_k - 1 : top_k]
    threshold_NE = torch.where(noisy_NE > if_selected_N1, if_selected_N1, if_not_N1)
    return torch.special.ndtr((clean_NE - threshold_NE) / std_NE)


def cv_squared(values_E: Tensor) -> Tensor:
    """The squared coefficient of variation; 0 for a single expert."""
    if len(values_E) == 1:
        return values_E.new_zeros(())
    return values_E.var() / (values_E.mean() ** 2 + _EPSILON)


def set_gate_noise(model: nn.Module, on: bool) -> None:
    """Let the routers add their noise in training, or not; in evaluation they never do.

    Noise that a router learns (LLaMA-MoE) and noise that an architecture multiplies its hidden states by (Mixtral,
    PhiMoE: ``jitter_noise``) are both switched off; on leaves the amount to the model's own configuration.

    Raises:
        MoemixError: noise is asked of a model that has none.
    """
    found = False
    for module in model.modules():
        part: Any = module
        if hasattr(module, "add_noise"):
            part.add_noise = on and hasattr(module, "weight_noise")
            found |= part.add_noise
        for name in ("jitter_noise", "input_jitter_noise"):
            if isinstance(value := getattr(module, name, None), float):
                setattr(part, name, value if on else 0.0)
                found |= on and value > 0
    if on and not found:
        raise MoemixError(
            f"{type(model).__name__} has no gate noise",
            where="training.gate_noise",
            hint="LLaMA-MoE has, if its configuration says `gate_add_noise`",
        )
