"""Turn a dense Llama-like model into an MoE: by upcycling (copies of its feed-forward blocks) or by splitting them.

**Upcycling.** All experts of a Mixtral begin as the dense model's feed-forward block. Mixtral's routing weights of the
selected experts sum to one, so the new model computes what the dense one did, whatever its routers select (Komatsuzaki
et al. 2023, arXiv:2212.05055, keep this property in the same way).

**Splitting** divides the neurons of each feed-forward block among experts, as LLaMA-MoE does (Zhu et al. 2024,
arXiv:2406.16554). A SwiGLU block is a sum over its neurons, so a division of them is exact as long as all experts take
part. Where k of E are selected, their sum is scaled up by E / k, so that it keeps its size. Routing weights sum to one
over the selected experts, so this takes a factor E: Mixtral gets it in its down projections, LLaMA-MoE in
``score_scale_factor`` (the published models have E / k there). With k = E there is nothing to route: the routers are
zero, every weight is 1 / E, and the model computes what the dense one did. Neurons are assigned to experts in order
(``contiguous``), at ``random``, or in groups of equal size that are active on the same tokens (``clustered``).
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from harness.errors import MoemixError
from harness.recipe import SplitModel, UpcycledModel
from trainers.data import TokenSource
from trainers.data.batches import pad_id
from trainers.making.router_init import router_rows, spherical_centres
from trainers.making.samples import Report, TokenSample, report, separation, token_samples
from trainers.models.llama_moe.configuration import LlamaMoEConfig
from trainers.models.llama_moe.modeling import LlamaMoEForCausalLM

_DENSE = ("llama", "mistral")  # their attention, norms and rotary embedding are Mixtral's
_SKETCH = 512  # tokens on which a neuron's activity is described

Config = TypeVar("Config", bound=PreTrainedConfig)
Experts = Callable[[int, Tensor, Tensor, Tensor], dict[str, Tensor]]
"""A layer's number and its gate f[I, H], up f[I, H] and down f[H, I] projections → the parameters of its experts."""


def upcycle(
    dense: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    model: UpcycledModel,
    sources: Sequence[TokenSource],
) -> tuple[PreTrainedModel, Report]:
    """Upcycle a dense model, and return the MoE and how it compares with the dense model, where data was given.

    Routers are made from the sources, unless ``model.router_init`` is ``random``.

    Raises:
        MoemixError: Mixtral cannot express the dense model.
    """
    _check_top_k(model)
    moe = to_mixtral(dense, model.experts, model.top_k, seed=model.seed)
    if model.router_init == "random" or not sources or tokenizer is None:
        return moe, {}
    making, measuring = token_samples(sources, model.router_examples, pad_id=pad_id(tokenizer), seed=model.seed)
    before = separation(moe, measuring)
    _initialise_routers(moe, dense, making, model)
    return moe, {**report(dense, moe, measuring), "random_routers": before}


def split(
    dense: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, model: SplitModel, sources: Sequence[TokenSource]
) -> tuple[PreTrainedModel, Report]:
    """Split a dense model; arguments and result are those of :func:`upcycle`.

    Raises:
        MoemixError: the architecture cannot express the dense model, its neurons do not divide evenly, or data is
            needed and there is none.
    """
    where = f"model {model.name}"
    width = converted_config(dense, MixtralConfig).intermediate_size
    if width % model.experts:
        raise MoemixError(f"{width} neurons cannot be divided evenly among {model.experts} experts", where=where)
    _check_top_k(model)
    if not sources and model.reads_sources:
        wanted = "partition=clustered" if model.partition == "clustered" else "router_init=data"
        raise MoemixError(f"{wanted} needs data", where=where, hint="give sources, or choose another value")
    making = measuring = None
    if sources:
        padding = pad_id(tokenizer)
        making, measuring = token_samples(sources, model.router_examples, pad_id=padding, seed=model.seed)
    moe = _assemble(dense, _partition(dense, model, making), model)
    if model.top_k == model.experts:
        for router in _routers(moe):
            torch.nn.init.zeros_(router)
    elif making is not None and model.router_init == "data":
        _initialise_routers(moe, dense, making, model)
    return moe, report(dense, moe, measuring) if measuring is not None else {}


def to_mixtral(dense: PreTrainedModel, experts: int, top_k: int, *, seed: int) -> PreTrainedModel:
    """Return a ``MixtralForCausalLM`` with copied experts and random routers.

    Raises:
        MoemixError: the dense model has parts that Mixtral lacks.
    """
    config = converted_config(dense, MixtralConfig, num_local_experts=experts, num_experts_per_tok=top_k)

    def copies(_: int, gate_IH: Tensor, up_IH: Tensor, down_HI: Tensor) -> dict[str, Tensor]:
        return {
            "gate_up_proj": torch.cat((gate_IH, up_IH)).expand(experts, -1, -1),
            "down_proj": down_HI.expand(experts, -1, -1),
        }

    return _filled(lambda: MixtralForCausalLM(config), dense, copies, seed)


def converted_config(dense: PreTrainedModel, target: type[Config], **changes: object) -> Config:
    """Return the configuration of an MoE with the dense model's attention, norms, vocabulary and so on.

    Raises:
        MoemixError: the dense model has parts that the MoE lacks.
    """
    config = dense.config
    if config.model_type not in _DENSE:
        raise MoemixError(
            f"a {config.model_type} model cannot be upcycled or split",
            hint=f"dense models of these types can: {', '.join(_DENSE)}",
        )
    lacking = ("attention_bias", "mlp_bias", *(("sliding_window",) if target is LlamaMoEConfig else ()))
    for part in lacking:
        if getattr(config, part, None) not in (None, False):
            raise MoemixError(f"the dense model has `{part}`, and {target.model_type} does not support it")
    # What both configurations know by name is the same thing in both: sizes, rope, norms, ties and special tokens.
    known = {field.name for field in fields(target)} & set(config.to_dict())
    shared = {name: getattr(config, name) for name in known if name not in ("architectures", "model_type", "dtype")}
    return target(**{**shared, **changes})


def cluster(active_NI: Tensor, experts: int, *, seed: int) -> NDArray[np.int64]:
    """Group neurons that are active on the same tokens, in groups of equal size.

    ``active_NI``, f32[N, I], is what each neuron gives to the down projection on N tokens. The groups are i64[E, I /
    E], sorted within each expert.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen_T = torch.randperm(len(active_NI), generator=generator)[:_SKETCH]
    size_IT = active_NI[chosen_T].abs().T
    unit_IT = functional.normalize(size_IT - size_IT.mean(dim=1, keepdim=True), dim=1)
    centres_ET = spherical_centres(unit_IT, experts, seed=seed)
    room = active_NI.shape[1] // experts
    cosine_IS = (unit_IT @ centres_ET.T).repeat_interleave(room, dim=1).numpy()
    _, slot_I = linear_sum_assignment(cosine_IS, maximize=True)
    return np.sort(np.argsort(slot_I).reshape(experts, room), axis=1)


def _check_top_k(model: UpcycledModel | SplitModel) -> None:
    if model.top_k > model.experts:
        raise MoemixError(
            f"top_k={model.top_k} of {model.experts} experts: a token cannot select more experts than there are",
            where=f"model {model.name}.top_k",
        )


def _routers(moe: PreTrainedModel) -> list[Tensor]:
    """Return the weights f[E, H] of each layer's router."""
    return [getattr(layer.mlp.gate, "gate_network", layer.mlp.gate).weight for layer in moe.model.layers]


@torch.no_grad()
def _initialise_routers(
    moe: PreTrainedModel, dense: PreTrainedModel, sample: TokenSample, model: UpcycledModel | SplitModel
) -> None:
    """Make each router's rows from the states that enter its layer in the dense model."""
    blocks, routers = [layer.mlp for layer in dense.model.layers], _routers(moe)
    for i, states_NH in enumerate(sample.states(dense, blocks)):
        routers[i].copy_(router_rows(states_NH, model.experts, model.top_k, seed=model.seed + i))


def _assemble(dense: PreTrainedModel, members: Sequence[NDArray[np.int64]], model: SplitModel) -> PreTrainedModel:
    """Build the MoE whose experts have the neurons in ``members``: i64[E, I / E] for each layer."""
    experts, top_k = model.experts, model.top_k

    def empty() -> PreTrainedModel:
        if model.architecture == "mixtral":
            size = dense.config.intermediate_size // experts
            sizes = {"intermediate_size": size, "num_local_experts": experts, "num_experts_per_tok": top_k}
            return MixtralForCausalLM(converted_config(dense, MixtralConfig, **sizes))
        # A linear router, whose rows can be made from data, and noise that training can switch off.
        scale = {"num_experts": experts, "num_selects": top_k, "score_scale_factor": float(experts)}
        return LlamaMoEForCausalLM(converted_config(dense, LlamaMoEConfig, gate_network="linear", **scale))

    def shares(layer: int, gate_IH: Tensor, up_IH: Tensor, down_HI: Tensor) -> dict[str, Tensor]:
        chosen_EI = torch.from_numpy(members[layer])
        gate_EIH, up_EIH, down_EHI = gate_IH[chosen_EI], up_IH[chosen_EI], down_HI.T[chosen_EI].transpose(1, 2)
        if model.architecture == "mixtral":
            return {"gate_up_proj": torch.cat((gate_EIH, up_EIH), dim=1), "down_proj": down_EHI * experts}
        return {"gate_proj": gate_EIH, "up_proj": up_EIH, "down_proj": down_EHI}

    return _filled(empty, dense, shares, model.seed)


def _filled(
    empty: Callable[[], PreTrainedModel], dense: PreTrainedModel, experts: Experts, seed: int
) -> PreTrainedModel:
    """Build a model with seeded random routers, and give it the dense model's other parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        moe: PreTrainedModel = empty().eval()
    weights: dict[str, Tensor] = {n: w for n, w in moe.state_dict().items() if ".mlp.gate." in n} | dense.state_dict()
    for i in range(dense.config.num_hidden_layers):
        block = f"model.layers.{i}.mlp"
        dense_block = (weights.pop(f"{block}.{part}_proj.weight") for part in ("gate", "up", "down"))
        weights |= {f"{block}.experts.{name}": weight for name, weight in experts(i, *dense_block).items()}
    moe.load_state_dict(weights)
    moe.generation_config = dense.generation_config
    return moe


def _partition(dense: PreTrainedModel, model: SplitModel, sample: TokenSample | None) -> list[NDArray[np.int64]]:
    """Return i64[E, I / E] for each layer: the neurons of each expert."""
    downs = [layer.mlp.down_proj for layer in dense.model.layers]
    width = downs[0].in_features
    if model.partition == "clustered":
        assert sample is not None
        found = []
        at_once = max(1, int(2e9 / (4 * len(sample.source_N) * width)))  # layers whose activities fit into 2 GB
        for first in range(0, len(downs), at_once):
            for i, active_NI in enumerate(sample.states(dense, downs[first : first + at_once]), first):
                found.append(cluster(active_NI, model.experts, seed=model.seed + i))
        return found
    orders = [np.arange(width) for _ in downs]
    if model.partition == "random":
        orders = [np.random.default_rng((model.seed, i)).permutation(width) for i in range(len(downs))]
    return [np.sort(order.reshape(model.experts, -1), axis=1) for order in orders]
