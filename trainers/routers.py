"""Gate load of any Mixture-of-Experts model: how many tokens of each source its routers send to each expert.

What is counted is the selection that the experts compute with, not a top-k taken again from logits: transformers' MoE
layers hand it to a module of experts as ``experts(hidden_states, top_k_index, top_k_weights)``, whatever the router
does before that (groups, biases, noise). The few architectures that do otherwise have a reader of their own below.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.errors import MoemixError, StageFailed

# What the argument with the selected experts is called, in transformers and in vLLM.
_SELECTION_ARGUMENTS = ("top_k_index", "router_indices", "selected_experts", "topk_ids")

# (positional arguments, keyword arguments, output) of a module's forward → its selection, i64[N, k], for N tokens.
Reader = Callable[[tuple[Any, ...], dict[str, Any], Any], Tensor]


@dataclass(frozen=True)
class _MoeLayer:
    """Where the selection of one MoE layer can be seen."""

    name: str
    module: nn.Module
    num_experts: int
    read: Reader


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
        return _MoeLayer(f"{name}.router", router, router.num_experts, _grouped_by_expert)
    if kind == "Llama4Router":
        return _MoeLayer(
            name, module, _integer(module, "num_experts"), _zero_unless_selected(_integer(module, "top_k"))
        )
    parameters = list(inspect.signature(module.forward).parameters)
    argument = next((parameter for parameter in parameters if parameter in _SELECTION_ARGUMENTS), None)
    if argument is None or not hasattr(module, "num_experts"):
        return None
    return _MoeLayer(name, module, _integer(module, "num_experts"), _argument(argument, parameters.index(argument)))


def _integer(module: nn.Module, attribute: str) -> int:
    value: Any = getattr(module, attribute)
    return int(value)


def _argument(name: str, position: int) -> Reader:
    """Experts that are handed the selection."""

    def read(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        selected: Tensor = kwargs[name] if name in kwargs else args[position]
        return selected.reshape(-1, selected.shape[-1])

    return read


def _grouped_by_expert(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
    """JetMoE's router: (token, choice) pairs as flat positions, sorted by expert, and how many each expert has."""
    positions_M, _, _, expert_sizes, logits_NE = output
    sizes_E = torch.as_tensor(expert_sizes, device=positions_M.device)
    experts_M = torch.arange(len(sizes_E), device=positions_M.device).repeat_interleave(sizes_E)
    selected_M = torch.empty_like(positions_M).index_copy_(0, positions_M, experts_M)
    return selected_M.view(len(logits_NE), -1)


def _zero_unless_selected(top_k: int) -> Reader:
    """Llama 4's router: scores that are zero for all but the selected experts."""

    def read(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        scores_NE: Tensor = output[0]
        return scores_NE.topk(top_k, dim=-1).indices

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
