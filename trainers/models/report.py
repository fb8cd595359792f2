"""What became of a dense model: how far its outputs moved, and where the new routers send each source."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainers.models.router_data import TokenSample, run_packed, separation


@torch.no_grad()
def report(dense: Any, moe: Any, judging: TokenSample) -> dict[str, Any]:
    """Measured on the tokens of examples that neither routers nor partitions were made from.

    Returns:
        ``routers``: see :func:`separation`; ``largest_logit`` and ``largest_logit_difference`` in absolute value;
        ``kl_divergence``: mean over tokens, in nats, of the dense model's next-token distribution from the new one;
        ``same_first_choice``: share of tokens for which both put the same next token first.
    """
    largest, difference, divergence, same, count = 0.0, 0.0, 0.0, 0, 0
    for batch, kept_1T in zip(judging.batches, judging.kept, strict=True):
        expected_NV, found_NV = (run_packed(model, batch).logits[kept_1T].float() for model in (dense, moe))
        if not len(expected_NV):
            continue
        largest = max(largest, float(expected_NV.abs().max()))
        difference = max(difference, float((expected_NV - found_NV).abs().max()))
        expected_logp_NV, found_logp_NV = expected_NV.log_softmax(-1), found_NV.log_softmax(-1)
        divergence += float((expected_logp_NV.exp() * (expected_logp_NV - found_logp_NV)).sum())
        same += int((expected_NV.argmax(-1) == found_NV.argmax(-1)).sum())
        count += len(expected_NV)
    return {
        "routers": router_separation(moe, judging),
        "largest_logit": largest,
        "largest_logit_difference": difference,
        "kl_divergence": divergence / count,
        "same_first_choice": same / count,
    }


@torch.no_grad()
def router_separation(moe: Any, judging: TokenSample) -> dict[str, list[float]]:
    """How the MoE's routers treat the sources, each on the states that enter its own layer."""
    blocks = [layer.mlp for layer in moe.model.layers]
    routers: list[Callable[[Tensor], Tensor]] = [partial(_selected, block.gate) for block in blocks]
    return separation(routers, judging.states(moe, blocks), judging.source_N, blocks[0].experts.num_experts)


def _selected(router: nn.Module, states_NH: Tensor) -> Tensor:
    selected_Nk: Tensor = router(states_NH)[2]
    return selected_Nk
