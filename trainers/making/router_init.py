"""Make routers from data: their rows point at clusters of the hidden states that enter an MoE layer.

Random rows send almost every token wherever the states' large common component points, whatever the token is about.
Here the states are centred, projected off that component and clustered on the sphere; a router's rows are the cluster
centres. Routers of most architectures have no bias. But after an RMS norm every state has nearly the same projection on
the common mean, so a small part of the mean's direction in a row acts as a bias: it is used to even out the load.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_ITERATIONS = 30
_ENTROPY = 0.6  # mean entropy of the router's softmax over log E: neither flat (1) nor saturated (0)


def router_rows(states_NH: Tensor, experts: int, top_k: int, *, seed: int) -> Tensor:
    """Return router weights f32[E, H] that spread hidden states evenly over experts, by what the states represent.

    The states f32[N, H] enter the layer, of tokens of all sources. The load is evened out for ``top_k`` experts a
    token, and ``seed`` seeds the first cluster centres.
    """
    mean_H = states_NH.mean(dim=0)
    common_H = mean_H / mean_H.norm().clamp_min(1e-12)
    centred_NH = states_NH - mean_H
    centred_NH = centred_NH - torch.outer(centred_NH @ common_H, common_H)
    centres_EH = spherical_centres(centred_NH, experts, seed=seed)
    centres_EH = centres_EH - centres_EH.mean(dim=0)  # what all experts share never decides between them
    logits_NE = centred_NH @ centres_EH.T
    scale = _scale(logits_NE)
    # A row's share of the common direction adds its bias, up to the small spread of the states' projections.
    level_N1 = (states_NH @ common_H / mean_H.norm().clamp_min(1e-12))[:, None]
    bias_E = _even_load(scale * logits_NE, level_N1, top_k)
    return scale * centres_EH + torch.outer(bias_E / mean_H.norm().clamp_min(1e-12), common_H)


def spherical_centres(vectors_NH: Tensor, count: int, *, seed: int) -> Tensor:
    """Return the unit centres f32[E, H] of a k-means clustering by cosine, with clusters of about equal size."""
    generator = torch.Generator().manual_seed(seed)
    unit_NH = functional.normalize(vectors_NH, dim=-1)
    centres_EH = _spread_out(unit_NH, count, generator)
    bias_E = torch.zeros(count)
    for _ in range(_ITERATIONS):
        cosine_NE = unit_NH @ centres_EH.T
        bias_E = _even_load(cosine_NE, torch.ones(len(unit_NH), 1), 1)
        member_NE = functional.one_hot((cosine_NE + bias_E).argmax(dim=1), count).float()
        centres_EH = functional.normalize(member_NE.T @ unit_NH, dim=-1)
    return centres_EH


def _spread_out(unit_NH: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose first centres as k-means++ does: the chance of each next one grows with its distance from those before."""
    chosen = [int(torch.randint(len(unit_NH), (1,), generator=generator))]
    while len(chosen) < count:
        nearest_N = (unit_NH @ unit_NH[chosen].T).max(dim=1).values
        chosen.append(int(torch.multinomial((1.0 - nearest_N).clamp_min(1e-9), 1, generator=generator)))
    return unit_NH[chosen]


def _even_load(logits_NE: Tensor, level_N1: Tensor, top_k: int) -> Tensor:
    """Return biases f32[E] with which ``logits + level · bias`` sends about as many tokens to each expert.

    In shrinking steps, biases rise for experts with less than their share of tokens, and fall for the others.
    """
    experts = logits_NE.shape[1]
    bias_E = torch.zeros(experts)
    step = float(logits_NE.std()) or 1.0
    best_E, best = bias_E, math.inf
    for _ in range(60):
        selected_Nk = (logits_NE + level_N1 * bias_E).topk(top_k, dim=1).indices
        share_E = torch.bincount(selected_Nk.flatten(), minlength=experts) * (experts / selected_Nk.numel())
        if (unevenness := float(share_E.std())) < best:
            best_E, best = bias_E, unevenness
        bias_E = bias_E + step * (1.0 - share_E)
        step *= 0.95
    return best_E


def _scale(logits_NE: Tensor) -> float:
    """Return the factor on the logits at which their softmax has the wanted entropy, by bisection."""
    wanted = _ENTROPY * math.log(logits_NE.shape[1])
    low, high = -20.0, 20.0  # log2 of the factor
    for _ in range(40):
        middle = (low + high) / 2
        logp_NE = torch.log_softmax(logits_NE * 2.0**middle, dim=1)
        entropy = float(-(logp_NE.exp() * logp_NE).sum(dim=1).mean())
        low, high = (middle, high) if entropy > wanted else (low, middle)
    return float(2.0 ** ((low + high) / 2))
