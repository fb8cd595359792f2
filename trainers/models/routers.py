"""Gate load of any Mixture-of-Experts model: how many tokens of each source its routers send to each expert.

The counts are the selection that the experts compute with, not a top-k taken again from logits: transformers' MoE
layers pass it to a module of experts as ``experts(hidden_states, top_k_index, top_k_weights)``, whatever the router
does before that (groups, biases, noise). The few architectures that differ have a reader of their own below. The same
places show the weights with which the selected experts are summed, which a balance loss needs (``record``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.errors import MoemixError, StageError

# The names of the arguments with the selected experts and with their weights, in transformers and in vLLM.
_SELECTION_ARGUMENTS = ("top_k_index", "router_indices", "selected_experts", "topk_ids")
_SCORE_ARGUMENTS = ("top_k_weights", "routing_weights", "topk_weights")


class Call(NamedTuple):
    """One call of a module's forward."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


Reader = Callable[[Call], Tensor]
"""Reads a value [N, k] for N tokens from a call."""


@dataclass(frozen=True)
class _MoeLayer:
    """Where to read one MoE layer's selection i64[N, k], and the weights f[N, k] of the selected experts."""

    name: str
    module: nn.Module
    num_experts: int
    read: Reader
    read_scores: Reader | None

    @property
    def gate_name(self) -> str:
        """The full name of a router beside the layer's module, which adapters may wrap."""
        return f"{self.name.replace('.base_layer', '').rpartition('.')[0]}.gate"


class GateNoise(NamedTuple):
    """The noise that a router drew for N tokens. ``noisy_NE = clean_NE + std_NE · ε`` with standard normal ε."""

    clean_NE: Tensor
    noisy_NE: Tensor
    std_NE: Tensor


class RouterOutput(NamedTuple):
    """What a router of this project's architectures decides for N tokens.

    Attributes:
        logits_NE: without noise.
        scores_Nk: the weights of the selected experts.
        selected_Nk: i64, the selected experts.
        noise: the noise that decided, if the router added any.
    """

    logits_NE: Tensor
    scores_Nk: Tensor
    selected_Nk: Tensor
    noise: GateNoise | None = None


@dataclass
class Routing:
    """What one MoE layer's router decided in one forward pass, for N tokens; gradients reach the router through it.

    Attributes:
        num_experts: E.
        selected_Nk: i64[N, k].
        scores_Nk: f[N, k], the weights with which the selected experts are summed.
        noise: None where the router added none.
    """

    num_experts: int
    selected_Nk: Tensor
    scores_Nk: Tensor
    noise: GateNoise | None = None


class RouterObserver:
    """Counts the routers' selections of chosen forward passes, by source.

    Attributes:
        num_layers: MoE layers L, in the order of depth.
        num_experts: experts E of a layer (the most, where layers differ).

    Raises:
        MoemixError: the model has no MoE layers, or none whose selections can be read.
    """

    def __init__(self, model: nn.Module) -> None:
        named = dict(model.named_modules())
        self._layers = [layer for name, module in named.items() if (layer := _observe(name, module))]
        if not self._layers:
            raise _unobservable(model)
        self.num_layers = len(self._layers)
        self.num_experts = max(layer.num_experts for layer in self._layers)
        self._counts_LKE: Tensor | None = None
        gates = (layer.gate_name for layer in self._layers)
        self._noisy = {name: named[name] for name in gates if hasattr(named.get(name), "add_noise")}

    @property
    def layers(self) -> list[tuple[str, nn.Module, int]]:
        """The MoE layers: where the selection is read (name and module), and the number of experts."""
        return [(layer.name, layer.module, layer.num_experts) for layer in self._layers]

    @contextmanager
    def count(self, source_ids_RT: Tensor, num_sources: int) -> Iterator[None]:
        """Count the one forward pass in this context; tokens whose source in i64[R, T] is -1 (padding) do not count.

        Raises:
            StageError: a layer received another number of tokens than there are source ids, or did not run.
        """
        if self._counts_LKE is None:
            shape = (self.num_layers, num_sources + 1, self.num_experts)
            self._counts_LKE = torch.zeros(shape, dtype=torch.int64, device=source_ids_RT.device)
        counts_LKE = self._counts_LKE
        if counts_LKE.shape[1] != num_sources + 1:
            raise ValueError(f"counts of {counts_LKE.shape[1] - 1} sources are waiting for take()")
        # Row 0 collects the padding, so no count depends on a value that would have to leave the device.
        first_bin_N1 = (source_ids_RT.reshape(-1, 1) + 1) * self.num_experts

        @torch.no_grad()  # a tensor saved for a gradient here would be missing when checkpointing runs this again
        def add(position: int, call: Call) -> None:
            layer = self._layers[position]
            selected_Nk = layer.read(call)
            if len(selected_Nk) != len(first_bin_N1):
                text = f"the layer routed {len(selected_Nk)} tokens, but {len(first_bin_N1)} have a source"
                raise StageError(text, where=layer.name)
            bins_Nk = first_bin_N1 + selected_Nk
            if (
                layer.read_scores is not None
            ):  # an expert whose weight is 0 computes nothing for the token (zaya's skips)
                bins_Nk = bins_Nk.where(layer.read_scores(call) != 0, selected_Nk)
            bins_M = bins_Nk.reshape(-1)
            counts_LKE[position].view(-1).index_add_(0, bins_M, bins_M.new_ones(()).expand_as(bins_M))

        positions = {layer.name: position for position, layer in enumerate(self._layers)}
        with self._first_calls({}, lambda name, call: add(positions[name], call)):
            yield

    @contextmanager
    def record(self) -> Iterator[list[Routing]]:
        """Keep what the routers decide in the one forward pass in this context; the list is filled when it ends.

        Nothing is computed inside the forward pass, so activation checkpointing runs the same operations twice.

        Raises:
            MoemixError: the weights of the selected experts cannot be read.
            StageError: a layer did not run.
        """
        readers = [(layer, layer.read_scores) for layer in self._layers if layer.read_scores is not None]
        if missing := next((layer for layer in self._layers if layer.read_scores is None), None):
            raise MoemixError(
                f"{type(missing.module).__name__} does not show the weights of its selected experts",
                where=missing.name,
                hint=f"its forward has no argument called {' or '.join(f'`{name}`' for name in _SCORE_ARGUMENTS)}",
            )
        calls: dict[str, Call] = {}
        routings: list[Routing] = []
        with self._first_calls(self._noisy, calls.__setitem__):
            yield routings
        for layer, read_scores in readers:
            call = calls[layer.name]
            noise = calls[layer.gate_name].output.noise if layer.gate_name in self._noisy else None
            routings.append(Routing(layer.num_experts, layer.read(call), read_scores(call), noise))

    @contextmanager
    def _first_calls(self, further: Mapping[str, nn.Module], see: Callable[[str, Call], None]) -> Iterator[None]:
        """Pass the first call of each layer's module, and of further modules, to ``see`` by the module's name.

        A layer that runs again, for activation checkpointing, is not seen again. Hooks exist only in this context.
        """
        seen: set[str] = set()

        def hook(name: str) -> Callable[..., None]:
            def call_see(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
                if name not in seen:
                    see(name, Call(args, kwargs, output))
                    seen.add(name)

            return call_see

        with ExitStack() as hooks:
            for name, module in {**{layer.name: layer.module for layer in self._layers}, **further}.items():
                hooks.callback(module.register_forward_hook(hook(name), with_kwargs=True).remove)
            yield
        for layer in self._layers:
            if layer.name not in seen:
                raise StageError("the MoE layer did not run, so its routing is unknown", where=layer.name)

    def take(self) -> NDArray[np.int64]:
        """Return the counts i64[K, L, E] since the last call, and start again from zero."""
        if self._counts_LKE is None:
            raise ValueError("nothing was counted since the last take()")
        counts_KLE: NDArray[np.int64] = self._counts_LKE[:, 1:].transpose(0, 1).contiguous().cpu().numpy()
        self._counts_LKE = None
        return counts_KLE


# --- where selections can be read -----------------------------------------------------------------


def is_moe_layer(module: nn.Module) -> bool:
    """Return whether the selection of an MoE layer can be read at this module."""
    return _observe("", module) is not None


def parts_of(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a model and of its layers by name; what holds experts is taken apart, down to the experts."""
    for name, part in model.named_children():
        whole = isinstance(part, GradientCheckpointingLayer | nn.ModuleList)
        if whole or any(is_moe_layer(inner) for inner in part.modules() if inner is not part):
            yield from parts_of(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part


def _observe(name: str, module: nn.Module) -> _MoeLayer | None:
    kind = type(module).__name__
    # The attention experts of JetMoE and ModuleFormer layers have routers of the same kind, which the paper's gate load
    # leaves out.
    if kind == "JetMoeMoE":
        router = module.get_submodule("router")
        return _MoeLayer(f"{name}.router", router, _integer(router, "num_experts"), _by_expert, _scores_by_expert)
    if kind == "ModuleFormerMoE":
        gate = module.get_submodule("gate")
        fields = (_output_field("selected_Nk"), _output_field("scores_Nk"))
        return _MoeLayer(f"{name}.gate", gate, _integer(gate, "num_experts"), *fields)
    if kind == "Llama4Router":
        selected, scores = (_largest(_integer(module, "top_k"), part) for part in (1, 0))
        return _MoeLayer(name, module, _integer(module, "num_experts"), selected, scores)
    if not hasattr(module, "num_experts"):
        return None
    parameters = list(inspect.signature(module.forward).parameters)
    read = _argument(parameters, _SELECTION_ARGUMENTS)
    if read is None:
        return None
    return _MoeLayer(name, module, _integer(module, "num_experts"), read, _argument(parameters, _SCORE_ARGUMENTS))


def moe_blocks(model: nn.Module) -> dict[str, int]:
    """Return the full name of each MoE layer's block (its router and experts), and the number of its experts."""
    layers = [layer for name, module in model.named_modules() if (layer := _observe(name, module)) is not None]
    return {layer.name.rpartition(".")[0]: layer.num_experts for layer in layers}


def _integer(module: nn.Module, attribute: str) -> int:
    return int(getattr(module, attribute))


def _argument(parameters: list[str], names: tuple[str, ...]) -> Reader | None:
    """Return the reader of experts that get the value as the first parameter that has one of the names."""
    name = next((parameter for parameter in parameters if parameter in names), None)
    if name is None:
        return None
    position = parameters.index(name)

    def read(call: Call) -> Tensor:
        value: Tensor = call.kwargs[name] if name in call.kwargs else call.args[position]
        return value.reshape(-1, value.shape[-1])

    return read


def _output_field(field: str) -> Reader:
    """Return the reader of a router whose output has the value in a field."""
    return lambda call: cast("Tensor", getattr(call.output, field))


def _by_expert(call: Call) -> Tensor:
    """Read JetMoE's router: (token, choice) pairs as flat positions, sorted by expert, and the number of each expert's.

    It returns the selection, i64[N, k].
    """
    positions_M, _, _, expert_sizes, logits_NE = call.output
    sizes_E = torch.as_tensor(expert_sizes, device=positions_M.device)
    experts_M = torch.arange(len(sizes_E), device=positions_M.device).repeat_interleave(sizes_E)
    return torch.empty_like(positions_M).index_copy_(0, positions_M, experts_M).view(len(logits_NE), -1)


def _scores_by_expert(call: Call) -> Tensor:
    """Read the weights of the same pairs, in the order of tokens."""
    positions_M, _, scores_M, _, logits_NE = call.output
    scores_Nk: Tensor = scores_M.new_zeros(scores_M.shape).index_copy(0, positions_M, scores_M).view(len(logits_NE), -1)
    return scores_Nk


def _largest(top_k: int, part: int) -> Reader:
    """Return the reader of Llama 4's router, whose scores are zero for all but the selected experts."""
    return lambda call: cast("Tensor", call.output[0].topk(top_k, dim=-1)[part])


def _unobservable(model: nn.Module) -> MoemixError:
    kinds = {type(module).__name__ for module in model.modules()}
    related = sorted(kind for kind in kinds if any(word in kind.lower() for word in ("moe", "expert", "router", "gat")))
    if not related:
        return MoemixError(
            f"{type(model).__name__} has no MoE layers, so it has no gate load",
            hint="a strategy with the signal `gate_load` needs a Mixture-of-Experts model",
        )
    return MoemixError(
        f"{type(model).__name__} has MoE layers whose selections cannot be read (present: {', '.join(related)})",
        hint="missing: a module with `num_experts` whose forward takes the selected experts as an argument called "
        + " or ".join(f"`{argument}`" for argument in _SELECTION_ARGUMENTS),
    )
