"""Splitting: the neurons of a dense model's feed-forward blocks divided among experts, the LLaMA-MoE way.

A SwiGLU block is a sum over its neurons, so a division of them among experts is exact as long as all experts take
part. Where k of E are selected, what they give is scaled up by E / k, so that the sum keeps its size (after LLaMA-MoE,
Zhu et al. 2024, arXiv:2406.16554). Routing weights sum to one over the selected experts, so it takes a factor E:
Mixtral gets it in its down projections, LLaMA-MoE has a place for it (``score_scale_factor``; the published ones put
E / k there). With k = E there is nothing to route: the routers are zero, every weight is 1 / E, and the model computes
what the dense one did.

Which neurons share an expert is a choice: in order (``contiguous``), at random, or those that are active on the same
tokens of given data (``clustered``), in groups of equal size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from harness.errors import MoemixError
from harness.recipe import SplitModel
from trainers.data import TokenSource
from trainers.models.report import report
from trainers.models.router_data import TokenSample, making_and_judging
from trainers.models.router_init import router_rows, spherical_centres
from trainers.models.upcycle import converted_config, mixtral_config

_SKETCH = 512  # tokens that a neuron's activity is described by


def split(dense: Any, tokenizer: Any, model: SplitModel, sources: Sequence[TokenSource]) -> tuple[Any, dict[str, Any]]:
    """The MoE, and a report: how far its logits are from the dense model's, and how its routers separate the sources.

    Args:
        dense: a dense causal LM in float32.
        sources: what neurons are clustered by and routers are made from; may be empty where neither is asked for.

    Raises:
        MoemixError: the dense model is not of a kind that the target can express, its neurons do not divide evenly, or
            there is no data where it is needed.
    """
    where = f"model {model.name}"
    width = mixtral_config(dense).intermediate_size
    if width % model.experts:
        raise MoemixError(f"{width} neurons cannot be divided evenly among {model.experts} experts", where=where)
    if model.top_k > model.experts:
        raise MoemixError(f"top_k={model.top_k} of {model.experts} experts", where=f"{where}.top_k")
    if not sources and (model.partition == "clustered" or model.router_init == "data"):
        wanted = "partition=clustered" if model.partition == "clustered" else "router_init=data"
        raise MoemixError(f"{wanted} needs data", where=where, hint="give sources, or another choice")
    making = judging = None
    if sources:
        pad_id = tokenizer.pad_token_id or 0
        making, judging = making_and_judging(sources, model.router_examples, pad_id=pad_id, seed=model.seed)
    moe = assemble(dense, _partition(dense, model, making), model)
    blocks = [layer.mlp for layer in dense.model.layers]
    with torch.no_grad():
        routers = [getattr(layer.mlp.gate, "gate_network", layer.mlp.gate) for layer in moe.model.layers]
        for router in routers if model.top_k == model.experts else ():
            router.weight.zero_()
        if making is not None and model.router_init == "data" and model.top_k < model.experts:
            for i, states_NH in enumerate(making.states(dense, blocks)):
                rows_EH = router_rows(states_NH, model.experts, model.top_k, seed=model.seed + i)
                routers[i].weight.copy_(rows_EH)
    return moe, report(dense, moe, judging) if judging is not None else {}


def assemble(dense: Any, members: Sequence[NDArray[np.int64]], model: SplitModel) -> Any:
    """A MoE of the wanted architecture whose experts hold the neurons that ``members`` gives them.

    Args:
        members: i64[E, I / E] for each layer, numbers of neurons.
    """
    with torch.random.fork_rng():
        torch.manual_seed(model.seed)
        moe = _ARCHITECTURES[model.architecture](dense, model).eval()
    weights: dict[str, Tensor] = {n: w for n, w in moe.state_dict().items() if ".mlp.gate." in n} | dense.state_dict()
    for i, member_EI in enumerate(members):
        block = f"model.layers.{i}.mlp"
        gate_IH, up_IH, down_HI = (weights.pop(f"{block}.{part}_proj.weight") for part in ("gate", "up", "down"))
        chosen_EI = torch.from_numpy(member_EI)
        gate_EIH, up_EIH, down_EHI = gate_IH[chosen_EI], up_IH[chosen_EI], down_HI.T[chosen_EI].transpose(1, 2)
        if model.architecture == "mixtral":
            weights[f"{block}.experts.gate_up_proj"] = torch.cat((gate_EIH, up_EIH), dim=1)
            weights[f"{block}.experts.down_proj"] = down_EHI * model.experts
        else:
            names = ("gate_proj", "up_proj", "down_proj")
            weights |= {f"{block}.experts.{n}": w for n, w in zip(names, (gate_EIH, up_EIH, down_EHI), strict=True)}
    moe.load_state_dict(weights)
    moe.generation_config = dense.generation_config
    return moe


def _mixtral(dense: Any, model: SplitModel) -> Any:
    from transformers import MixtralForCausalLM

    size = dense.config.intermediate_size // model.experts
    shares = {"intermediate_size": size, "num_local_experts": model.experts, "num_experts_per_tok": model.top_k}
    return MixtralForCausalLM(mixtral_config(dense, **shares))


def _llama_moe(dense: Any, model: SplitModel) -> Any:
    """With a linear router, whose rows can be made from data, and noise that training can switch off."""
    from trainers.models.llama_moe.configuration import LlamaMoEConfig
    from trainers.models.llama_moe.modeling import LlamaMoEForCausalLM

    if getattr(dense.config, "sliding_window", None) is not None:
        raise MoemixError("the dense model has `sliding_window`, and LLaMA-MoE has none", where=f"model {model.name}")
    shares = {"num_experts": model.experts, "num_selects": model.top_k, "score_scale_factor": float(model.experts)}
    return LlamaMoEForCausalLM(converted_config(dense, LlamaMoEConfig, gate_network="linear", **shares))


_ARCHITECTURES: dict[str, Callable[[Any, SplitModel], Any]] = {"mixtral": _mixtral, "llama_moe": _llama_moe}


def _partition(dense: Any, model: SplitModel, sample: TokenSample | None) -> list[NDArray[np.int64]]:
    """i64[E, I / E] for each layer: the neurons of each expert."""
    downs = [layer.mlp.down_proj for layer in dense.model.layers]
    width = downs[0].in_features
    if model.partition == "clustered":
        assert sample is not None
        found = []
        at_once = max(1, int(2e9 / (4 * len(sample.source_N) * width)))  # activities of some layers: at most 2 GB
        for first in range(0, len(downs), at_once):
            for i, active_NI in enumerate(sample.states(dense, downs[first : first + at_once]), first):
                found.append(cluster(active_NI, model.experts, seed=model.seed + i))
        return found
    orders = [np.arange(width) for _ in downs]
    if model.partition == "random":
        orders = [np.random.default_rng((model.seed, i)).permutation(width) for i in range(len(downs))]
    return [np.sort(order.reshape(model.experts, -1), axis=1) for order in orders]


def cluster(active_NI: Tensor, experts: int, *, seed: int) -> NDArray[np.int64]:
    """Neurons in groups of equal size, those together that are active on the same tokens.

    Args:
        active_NI: f32[N, I], what each neuron gives to the down projection, of N tokens.

    Returns:
        i64[E, I / E], sorted within each expert.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen_T = torch.randperm(len(active_NI), generator=generator)[:_SKETCH]
    size_IT = active_NI[chosen_T].abs().T
    unit_IT = F.normalize(size_IT - size_IT.mean(dim=1, keepdim=True), dim=1)
    centres_ET = spherical_centres(unit_IT, experts, seed=seed)
    room = active_NI.shape[1] // experts
    cosine_IS = (unit_IT @ centres_ET.T).repeat_interleave(room, dim=1).numpy()
    _, slot_I = linear_sum_assignment(cosine_IS, maximize=True)
    return np.sort(np.argsort(slot_I).reshape(experts, room), axis=1)
