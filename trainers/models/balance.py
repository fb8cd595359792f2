"""The paper's balance loss (eq. 3) for any observed routers.

For each MoE layer it is CV(importance)² + CV(load)², with the unbiased variance over experts. An expert's importance is
the sum of its routing scores over tokens. Its load is the number of tokens that select it; for a router that adds noise
in training, the load is the probability of selection instead, which has a gradient (Shazeer et al. 2017,
arXiv:1701.06538, appendix A).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.models.routers import GateNoise, Routing

BALANCE_WEIGHT = 1e-2
_EPSILON = 1e-10  # added to the squared mean


def balance_loss(routings: Sequence[Routing], real_RT: Tensor, weight: float = BALANCE_WEIGHT) -> Tensor:
    """Compute eq. 3 of what the routers decided in one forward pass, summed over layers, times its weight.

    ``real_RT``, bool[R, T], is false in padding, which does not count.
    """
    real_N = real_RT.reshape(-1)
    layers = [cv_squared(importance(routing, real_N)) + cv_squared(load(routing, real_N)) for routing in routings]
    return weight * torch.stack(layers).sum()


def importance(routing: Routing, real_N: Tensor) -> Tensor:
    """Return f32[E], the routing scores of each expert summed over real tokens."""
    scores_Nk = routing.scores_Nk.float() * real_N[:, None]
    sums_E = scores_Nk.new_zeros(routing.num_experts)
    return sums_E.index_add(0, routing.selected_Nk.reshape(-1), scores_Nk.reshape(-1))


def load(routing: Routing, real_N: Tensor) -> Tensor:
    """Return f32[E], how many real tokens select each expert; with noise, the expected number."""
    top_k = routing.selected_Nk.shape[1]
    if routing.noise is not None and top_k < routing.num_experts:
        return (selection_probability(routing.noise, top_k) * real_N[:, None]).sum(dim=0)
    counts_E = torch.zeros(routing.num_experts, device=real_N.device)
    real_Nk = real_N[:, None].expand_as(routing.selected_Nk)
    return counts_E.index_add(0, routing.selected_Nk.reshape(-1), real_Nk.reshape(-1).float())


def selection_probability(noise: GateNoise, top_k: int) -> Tensor:
    """Return f32[N, E], the probability that an expert is selected if only its own noise is drawn again.

    An expert is selected when it exceeds the k-th largest noisy logit of the others: the (k+1)-th largest of all if it
    is among the k now, the k-th if not. (The paper's released code compares the noise term instead of the noisy logit
    here, so it takes the wrong threshold wherever logits are not small.)
    """
    clean_NE, noisy_NE, std_NE = (part.float() for part in noise)
    highest = noisy_NE.topk(top_k + 1, dim=1).values
    if_selected_N1, if_not_N1 = highest[:, top_k:], highest[:, top_k - 1 : top_k]
    threshold_NE = torch.where(noisy_NE > if_selected_N1, if_selected_N1, if_not_N1)
    probability_NE: Tensor = torch.special.ndtr((clean_NE - threshold_NE) / std_NE)
    return probability_NE


def cv_squared(values_E: Tensor) -> Tensor:
    """Return the squared coefficient of variation; 0 for a single expert."""
    if len(values_E) == 1:
        return values_E.new_zeros(())
    return values_E.var() / (values_E.mean() ** 2 + _EPSILON)
