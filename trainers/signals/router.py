"""What routers think of each source before they choose: full probabilities, and how undecided they are.

Probabilities are the softmax of the router's output over all experts, without gate noise; the gate load counts only the
experts that were chosen. They are measured on held-out examples.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from trainers.signals.base import Signal, SignalContext, Situation, evaluating

if TYPE_CHECKING:
    from torch import Tensor, nn


class RouterProbability(Signal):
    """f64[K, L, E], the mean probability that each router gives each expert for the tokens of each source."""

    field = "router_probability"
    shape = "f64[K, L, E]"
    sees = frozenset({"held-out examples", "router"})

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the true loads, of which routers are less sure than of their choice, with the held-out error."""
        share = now.measured(np.sqrt(now.load))
        probability: NDArray[np.float64] = share / share.sum(axis=2, keepdims=True)
        return probability

    def __init__(self, context: SignalContext) -> None:
        super().__init__(context)
        self._probe, self._routers = context.probe(self.field), RouterOutputs(context.losses.model)

    def observe(self, step: int) -> NDArray[np.float64]:
        """Run the model on held-out examples."""
        import torch

        context, count = self._context, self._probe.num_sources
        sums: dict[int, Any] = {}
        tokens = np.zeros(count)
        with evaluating(context.losses), torch.no_grad():
            for batch in self._probe.forwards(step, context.device):
                source_N = batch.source_RT.reshape(-1)
                tokens += np.bincount(source_N[source_N >= 0].cpu().numpy(), minlength=count)
                for layer, probability_NE in enumerate(self._routers(partial(context.losses.observe, batch))):
                    values_NX = self._each(probability_NE).double()
                    total = values_NX.new_zeros(count + 1, values_NX.shape[1]).index_add_(0, source_N + 1, values_NX)
                    sums[layer] = sums.get(layer, 0) + total[1:].cpu().numpy()
        layers_KLX = context.ranks.sum(np.stack(list(sums.values()), axis=1))
        tokens = context.ranks.sum(tokens)
        mean: NDArray[np.float64] = np.full(layers_KLX.shape, np.nan)
        mean[tokens > 0] = layers_KLX[tokens > 0] / tokens[tokens > 0, None, None]
        return self._shaped(mean)

    def _each(self, probability_NE: Tensor) -> Tensor:
        """Return what is averaged over tokens, f[N, X]."""
        return probability_NE

    def _shaped(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return mean


class RouterEntropy(RouterProbability):
    """f64[K, L], the mean entropy in nats of a router's probabilities for a token: how undecided it is."""

    field = "router_entropy"
    shape = "f64[K, L]"

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the entropy of the true loads with the held-out error."""
        probability = super().invent(now)
        entropy: NDArray[np.float64] = -(probability * np.log(probability.clip(1e-300))).sum(axis=2)
        return entropy

    def _each(self, probability_NE: Tensor) -> Tensor:
        import torch

        entropy_N1: Tensor = torch.special.entr(probability_NE).sum(dim=1, keepdim=True)
        return entropy_N1

    def _shaped(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return mean[:, :, 0]


class RouterOutputs:
    """Reads the routers of any MoE model in one forward pass.

    Raises:
        MoemixError: the model has no MoE layers that can be observed.
    """

    def __init__(self, model: nn.Module) -> None:
        from trainers.models.routers import RouterObserver

        named = dict(model.named_modules())
        self._places: list[tuple[str, int, list[nn.Module]]] = []
        for name, module, experts in RouterObserver(model).layers:
            around = dict(named[name.rpartition(".")[0]].named_children())
            routers = [child for key, child in around.items() if "gate" in key or "router" in key]
            self._places.append((name, experts, [module, *routers]))

    def __call__(self, forward: Callable[[], object]) -> list[Tensor]:
        """Run a forward pass and return f[N, E] of each MoE layer, in the order of depth.

        Raises:
            MoemixError: a layer's router does not show its output.
        """
        found: dict[str, Tensor] = {}

        def hook(name: str, experts: int) -> Callable[..., None]:
            def read(_: nn.Module, __: object, output: object) -> None:
                for part in output if isinstance(output, tuple) else (output,):
                    if name not in found and getattr(part, "is_floating_point", bool)() and part.shape[-1] == experts:
                        found[name] = part.detach().reshape(-1, experts).float()

            return read

        with ExitStack() as hooks:
            for name, experts, modules in self._places:
                for module in modules:
                    hooks.callback(module.register_forward_hook(hook(name, experts)).remove)
            forward()
        if missing := [name for name, _, _ in self._places if name not in found]:
            raise MoemixError(
                "the router does not show its output for all experts, so its probabilities are unknown",
                where=missing[0],
                hint="strategies that need only the gate load work with this model",
            )
        return [_probability(found[name]) for name, _, _ in self._places]


def _probability(output_NE: Tensor) -> Tensor:
    """Return probabilities; some routers give these, the others logits."""
    sums = output_NE.sum(dim=1)
    if bool((output_NE >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        return output_NE
    return output_NE.softmax(dim=1)
