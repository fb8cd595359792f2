"""Sparse upcycling: a dense Llama-like checkpoint as a Mixtral whose experts all begin as its feed-forward block.

Mixtral's routing weights of the selected experts sum to one, so with equal experts the new model computes what the
dense one did, whatever its routers say (Komatsuzaki et al. 2023, arXiv:2212.05055, keep this property the same way).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from harness.errors import MoemixError
from harness.recipe import UpcycledModel
from trainers.data import TokenSource
from trainers.models.report import report, router_separation
from trainers.models.router_data import making_and_judging
from trainers.models.router_init import router_rows

_DENSE = ("llama", "mistral")  # the attention, norms and rotary embedding of these are Mixtral's


def upcycle(
    dense: Any, tokenizer: Any, model: UpcycledModel, sources: Sequence[TokenSource]
) -> tuple[Any, dict[str, Any]]:
    """The MoE, and a report: how far its logits are from the dense model's, and how its routers separate the sources.

    Args:
        dense: a dense causal LM in float32.
        sources: what the routers are initialised from; may be empty where ``model.router_init`` is ``random``.

    Raises:
        MoemixError: the dense model is not of a kind that Mixtral can express.
    """
    if model.top_k > model.experts:
        raise MoemixError(f"top_k={model.top_k} of {model.experts} experts", where=f"model {model.name}.top_k")
    moe = to_mixtral(dense, model.experts, model.top_k, seed=model.seed)
    if model.router_init == "random" or not sources:
        return moe, {}
    return moe, _initialise_routers(moe, dense, tokenizer, model, sources)


@torch.no_grad()
def _initialise_routers(
    moe: Any, dense: Any, tokenizer: Any, model: UpcycledModel, sources: Sequence[TokenSource]
) -> dict[str, Any]:
    """Give each router rows made from the states that enter its layer: those of the dense model, which are the same."""
    blocks, routers = [layer.mlp for layer in dense.model.layers], [layer.mlp.gate for layer in moe.model.layers]
    pad_id = tokenizer.pad_token_id or 0
    making, judging = making_and_judging(sources, model.router_examples, pad_id=pad_id, seed=model.seed)
    before = router_separation(moe, judging)
    for i, states_NH in enumerate(making.states(dense, blocks)):
        routers[i].weight.copy_(router_rows(states_NH, model.experts, model.top_k, seed=model.seed + i))
    return {**report(dense, moe, judging), "random_routers": before}


def to_mixtral(dense: Any, experts: int, top_k: int, *, seed: int) -> Any:
    """A ``MixtralForCausalLM`` with copied experts and random routers.

    Raises:
        MoemixError: the dense model has parts that Mixtral lacks.
    """
    from transformers import MixtralForCausalLM

    config = mixtral_config(dense, num_local_experts=experts, num_experts_per_tok=top_k)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        moe = MixtralForCausalLM(config).eval()
    moe.load_state_dict({**_router_weights(moe), **_expert_weights(dense, experts)})
    moe.generation_config = dense.generation_config
    return moe


def mixtral_config(dense: Any, **changes: Any) -> Any:
    """:func:`converted_config` to a ``MixtralConfig``."""
    from transformers import MixtralConfig

    return converted_config(dense, MixtralConfig, **changes)


def converted_config(dense: Any, target: type[Any], **changes: Any) -> Any:
    """The configuration of a MoE with the dense model's attention, norms, vocabulary and so on.

    Raises:
        MoemixError: the dense model has parts that the MoE lacks.
    """
    config = dense.config
    if config.model_type not in _DENSE:
        raise MoemixError(
            f"a {config.model_type} model cannot be upcycled or split",
            hint=f"dense models of these types can: {', '.join(_DENSE)}",
        )
    for bias in ("attention_bias", "mlp_bias"):
        if getattr(config, bias, False):
            raise MoemixError(f"the dense model has `{bias}`, and {target.model_type} has none")
    # What both configurations know by name is the same thing in both: sizes, rope, norms, ties and special tokens.
    known = {field.name for field in fields(target)} & set(config.to_dict())
    shared = {name: getattr(config, name) for name in known if name not in ("architectures", "model_type", "dtype")}
    return target(**{**shared, **changes})


def _router_weights(moe: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in moe.state_dict().items() if name.endswith(".mlp.gate.weight")}


def _expert_weights(dense: Any, experts: int) -> dict[str, torch.Tensor]:
    """The dense model's parameters under Mixtral's names, feed-forward blocks repeated."""
    weights: dict[str, torch.Tensor] = dict(dense.state_dict())
    for i in range(dense.config.num_hidden_layers):
        block = f"model.layers.{i}.mlp"
        gate_IH, up_IH, down_HI = (weights.pop(f"{block}.{part}_proj.weight") for part in ("gate", "up", "down"))
        weights[f"{block}.experts.gate_up_proj"] = torch.cat((gate_IH, up_IH)).expand(experts, -1, -1)
        weights[f"{block}.experts.down_proj"] = down_HI.expand(experts, -1, -1)
    return weights
