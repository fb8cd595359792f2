"""Stick-breaking attention: each query breaks its unit of attention off from the nearest token backwards.

The token j gets the share σ(l_ij) of what the tokens between it and the query i have left, Π σ(−l_ik) for j < k ≤ i.
So nearer tokens come first and no positions are needed (Tan et al. 2024, arXiv:2410.17980). Weights sum to at most one.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def stick_breaking(query_BKHTD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor, allowed_BTS: Tensor) -> Tensor:
    """Attention of K queries a token over shared keys and values, weights in float32.

    Args:
        allowed_BTS: bool, which of the S tokens each query may see; those it may not break nothing off.

    Returns:
        f[B, K, H, T, D].
    """
    allowed_B11TS = allowed_BTS[:, None, None]
    logits_BKHTS = (query_BKHTD @ key_BHSD[:, None].mT).float() * query_BKHTD.shape[-1] ** -0.5
    taken_BKHTS = F.logsigmoid(logits_BKHTS)
    left_BKHTS = (taken_BKHTS - logits_BKHTS).masked_fill(~allowed_B11TS, 0.0)  # log σ(−l) = log σ(l) − l
    after_BKHTS = left_BKHTS.flip(-1).cumsum(-1).flip(-1) - left_BKHTS
    weight_BKHTS = (taken_BKHTS + after_BKHTS).exp().masked_fill(~allowed_B11TS, 0.0)
    return weight_BKHTS.to(value_BHSD.dtype) @ value_BHSD[:, None]
