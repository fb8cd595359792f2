"""Gate load of any Mixture-of-Experts model: how many tokens of each source its routers send to each expert.

What is counted is the selection that the experts compute with, not a top-k taken again from logits: transformers' MoE
layers hand it to a module of experts as ``experts(hidden_states, top_k_index, top_k_weights)``, whatever the router
does before that (groups, biases, noise). The few architectures that do otherwise have a reader of their own below.
The same places tell with what weights the selected experts are summed, which a balance loss needs (``record``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.errors import MoemixError, StageFailed

# What the arguments with the selected experts and with their weights are called, in transformers and in vLLM.
_SELECTION_ARGUMENTS = ("top_k_index", "router_indices", "selected_experts", "topk_ids")
_SCORE_ARGUMENTS = ("top_k_weights", "routing_weights", "topk_weights")

# (positional arguments, keyword arguments, output) of a module's forward → a value [N, k] for N tokens.
Reader = Callable[[tuple[Any, ...], dict[str, Any], Any], Tensor]


@dataclass(frozen=True)
class _MoeLayer:
    """Where one MoE layer's selection i64[N, k], and the weights f[N, k] of the selected experts, can be seen."""

    name: str
    module: nn.Module
    num_experts: int
    read: Reader
    read_scores: Reader | None


class GateNoise(NamedTuple):
    """What a noisy router drew for N tokens. ``noisy_NE = clean_NE + std_NE · ε`` with standard normal ε."""

    clean_NE: Tensor
    noisy_NE: Tensor
    std_NE: Tensor


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
        MoemixError: the model has no MoE layers, or none whose selections can be seen.
    """

    def __init__(self, model: nn.Module) -> None:
        found = (_observe(name, module) for name, module in model.named_modules())
        self._layers = [layer for layer in found if layer]
        if not self._layers:
            raise _unobservable(model)
        self.num_layers = len(self._layers)
        self.num_experts = max(layer.num_experts for layer in self._layers)
        self._counts_LKE: Tensor | None = None
        named = dict(model.named_modules())
        beside = (f"{_parent(layer.name)}.gate" for layer in self._layers)
        self._noisy = {name: named[name] for name in beside if hasattr(named.get(name), "add_noise")}

    @contextmanager
    def count(self, source_ids_RT: Tensor, num_sources: int) -> Iterator[None]:
        """Count the one forward pass in this context. Hooks exist only inside it.

        A layer is counted once, should it run again for activation checkpointing.

        Args:
            source_ids_RT: i64[R, T], each token's source; tokens with -1 (padding) are left out.
            num_sources: K.

        Raises:
            StageFailed: a layer saw another number of tokens than there are source ids, or did not run.
        """
        if self._counts_LKE is None:
            shape = (self.num_layers, num_sources + 1, self.num_experts)
            self._counts_LKE = torch.zeros(shape, dtype=torch.int64, device=source_ids_RT.device)
        counts_LKE = self._counts_LKE
        if counts_LKE.shape[1] != num_sources + 1:
            raise ValueError(f"counts of {counts_LKE.shape[1] - 1} sources are waiting for take()")
        # Row 0 collects the padding, so no count depends on a value that would have to leave the device.
        first_bin_N1 = (source_ids_RT.reshape(-1, 1) + 1) * self.num_experts
        counted: set[int] = set()

        def hook(position: int, layer: _MoeLayer) -> Callable[..., None]:
            @torch.no_grad()  # a tensor saved for a gradient here would be missing when checkpointing runs this again
            def report(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                if position in counted:
                    return
                selected_Nk = layer.read(args, kwargs, output)
                if len(selected_Nk) != len(first_bin_N1):
                    text = f"routed {len(selected_Nk)} tokens, and {len(first_bin_N1)} were to be counted"
                    raise StageFailed(text, where=layer.name)
                bins_M = (first_bin_N1 + selected_Nk).reshape(-1)
                counts_LKE[position].view(-1).index_add_(0, bins_M, bins_M.new_ones(()).expand_as(bins_M))
                counted.add(position)

            return report

        with ExitStack() as hooks:
            for position, layer in enumerate(self._layers):
                handle = layer.module.register_forward_hook(hook(position, layer), with_kwargs=True)
                hooks.callback(handle.remove)
            yield
        for position, layer in enumerate(self._layers):
            if position not in counted:
                raise StageFailed("the MoE layer did not run, so its gate load is unknown", where=layer.name)

    @contextmanager
    def record(self) -> Iterator[list[Routing]]:
        """Keep what the routers decide in the one forward pass in this context; the list is filled when it ends.

        Nothing is computed inside the forward pass, so activation checkpointing runs the same operations twice.

        Raises:
            MoemixError: the weights of the selected experts cannot be seen.
            StageFailed: a layer did not run.
        """
        for layer in self._layers:
            if layer.read_scores is None:
                raise MoemixError(
                    f"{type(layer.module).__name__} does not show the weights of its selected experts",
                    where=layer.name,
                    hint=f"missing: an argument called {' or '.join(f'`{name}`' for name in _SCORE_ARGUMENTS)}",
                )
        calls: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {}
        routings: list[Routing] = []

        def keep(name: str) -> Callable[..., None]:
            def report(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                calls.setdefault(name, (args, kwargs, output))

            return report

        with ExitStack() as hooks:
            for name, module in ((layer.name, layer.module) for layer in self._layers):
                hooks.callback(module.register_forward_hook(keep(name), with_kwargs=True).remove)
            for name, module in self._noisy.items():
                hooks.callback(module.register_forward_hook(keep(name), with_kwargs=True).remove)
            yield routings
        for layer in self._layers:
            if layer.name not in calls:
                raise StageFailed("the MoE layer did not run, so its routing is unknown", where=layer.name)
            assert layer.read_scores is not None
            call, beside = calls[layer.name], f"{_parent(layer.name)}.gate"
            noise = calls[beside][2].noise if beside in self._noisy else None
            routings.append(Routing(layer.num_experts, layer.read(*call), layer.read_scores(*call), noise))

    def take(self) -> NDArray[np.int64]:
        """The counts i64[K, L, E] since the last call; they start again from zero."""
        if self._counts_LKE is None:
            raise ValueError("nothing was counted since the last take()")
        counts_KLE = self._counts_LKE[:, 1:].transpose(0, 1).contiguous().cpu().numpy()
        self._counts_LKE = None
        return counts_KLE


# --- where selections can be seen -----------------------------------------------------------------


def _observe(name: str, module: nn.Module) -> _MoeLayer | None:
    kind = type(module).__name__
    if kind == "JetMoeMoE":
        # The attention experts of a JetMoE layer have a router of the same kind; its gate load is not the paper's.
        router: Any = module.router
        return _MoeLayer(f"{name}.router", router, router.num_experts, _grouped_by_expert, _scores_by_expert)
    if kind == "ModuleFormerMoE":  # its attention experts likewise
        gate: Any = module.gate
        return _MoeLayer(f"{name}.gate", gate, gate.num_experts, _output("selected_Nk"), _output("scores_Nk"))
    if kind == "Llama4Router":
        selected, scores = (_largest(_integer(module, "top_k"), part) for part in ("indices", "values"))
        return _MoeLayer(name, module, _integer(module, "num_experts"), selected, scores)
    if not hasattr(module, "num_experts"):
        return None
    parameters = list(inspect.signature(module.forward).parameters)
    read = _argument(parameters, _SELECTION_ARGUMENTS)
    if read is None:
        return None
    return _MoeLayer(name, module, _integer(module, "num_experts"), read, _argument(parameters, _SCORE_ARGUMENTS))


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _integer(module: nn.Module, attribute: str) -> int:
    value: Any = getattr(module, attribute)
    return int(value)


def _argument(parameters: list[str], names: tuple[str, ...]) -> Reader | None:
    """Experts that are handed the value, as the first parameter that has one of the names."""
    name = next((parameter for parameter in parameters if parameter in names), None)
    if name is None:
        return None
    position = parameters.index(name)

    def read(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        value: Tensor = kwargs[name] if name in kwargs else args[position]
        return value.reshape(-1, value.shape[-1])

    return read


def _output(field: str) -> Reader:
    """A router whose output has the value in a field."""

    def read(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        value: Tensor = getattr(output, field)
        return value

    return read


def _grouped_by_expert(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
    """JetMoE's router: (token, choice) pairs as flat positions, sorted by expert, and how many each expert has."""
    positions_M, _, _, expert_sizes, logits_NE = output
    sizes_E = torch.as_tensor(expert_sizes, device=positions_M.device)
    experts_M = torch.arange(len(sizes_E), device=positions_M.device).repeat_interleave(sizes_E)
    selected_M = torch.empty_like(positions_M).index_copy_(0, positions_M, experts_M)
    return selected_M.view(len(logits_NE), -1)


def _scores_by_expert(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
    """The weights of the same pairs, in the order of tokens."""
    positions_M, _, scores_M, _, logits_NE = output
    return scores_M.new_zeros(scores_M.shape).index_copy(0, positions_M, scores_M).view(len(logits_NE), -1)


def _largest(top_k: int, part: str) -> Reader:
    """Llama 4's router: scores that are zero for all but the selected experts."""

    def read(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        scores_NE: Tensor = output[0]
        return getattr(scores_NE.topk(top_k, dim=-1), part)

    return read


def _unobservable(model: nn.Module) -> MoemixError:
    kinds = {type(module).__name__ for module in model.modules()}
    related = sorted(kind for kind in kinds if any(word in kind.lower() for word in ("moe", "expert", "router", "gat")))
    if not related:
        return MoemixError(
            f"{type(model).__name__} has no MoE layers, so it has no gate load",
            hint="a strategy that asks for `gate_load` needs a Mixture-of-Experts model",
        )
    return MoemixError(
        f"{type(model).__name__} has MoE layers whose selections cannot be seen (found: {', '.join(related)})",
        hint="missing: a module with `num_experts` whose forward takes the selected experts as an argument called "
        + " or ".join(f"`{argument}`" for argument in _SELECTION_ARGUMENTS),
    )
