"""What the model makes of each source: mean hidden states after every layer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from trainers.signals.base import Signal, SignalContext, Situation, evaluating, plain

if TYPE_CHECKING:
    from torch import nn


class Representation(Signal):
    """f32[K, L, D], the mean hidden state of the tokens of each source after each of the L layers of the decoder."""

    field = "representation"
    shape = "f32[K, L, D]"

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float32]:
        """Return what each source is about, one layer like the other, with the held-out error."""
        layers = [now.blurred(now.meaning, now.held_out) for _ in range(now.load.shape[1])]
        return np.stack(layers, axis=1).astype(np.float32)

    def __init__(self, context: SignalContext) -> None:
        super().__init__(context)
        self._probe, self._layers = context.probe(self.field), decoder_layers(context.losses.model)

    def observe(self, step: int) -> NDArray[np.float32]:
        """Run the model on held-out examples."""
        import torch

        context, count = self._context, self._probe.num_sources
        sums: dict[int, Any] = {}
        tokens = np.zeros(count)
        with evaluating(context.losses), torch.no_grad(), ExitStack() as hooks:
            source_N = torch.zeros(0, dtype=torch.int64)

            def hook(layer: int) -> Any:
                def read(_: nn.Module, __: object, output: Any) -> None:
                    hidden_ND = (output[0] if isinstance(output, tuple) else output).flatten(0, -2).double()
                    total = hidden_ND.new_zeros(count + 1, hidden_ND.shape[1]).index_add_(0, source_N + 1, hidden_ND)
                    sums[layer] = sums.get(layer, 0) + total[1:].cpu().numpy()

                return read

            for layer, module in enumerate(self._layers):
                hooks.callback(module.register_forward_hook(hook(layer)).remove)
            for batch in self._probe.forwards(step, context.device):
                source_N = batch.source_RT.reshape(-1)
                tokens += np.bincount(source_N[source_N >= 0].cpu().numpy(), minlength=count)
                context.losses.observe(batch)
        total_KLD = context.ranks.sum(np.stack([sums[layer] for layer in range(len(self._layers))], axis=1))
        tokens = context.ranks.sum(tokens)[:, None, None]
        mean = np.full(total_KLD.shape, np.nan)
        np.divide(total_KLD, tokens, out=mean, where=tokens > 0)
        return mean.astype(np.float32)

    def trace(self, observed: np.ndarray) -> object:
        """Return the distances between the sources in each layer: far fewer numbers than the hidden states."""
        wide = observed.astype(np.float64)
        return plain(np.linalg.norm(wide[:, None] - wide[None], axis=3).transpose(2, 0, 1))


def decoder_layers(model: Any) -> list[nn.Module]:
    """Return the layers of a decoder, in the order of depth.

    Raises:
        MoemixError: the model has no list of layers.
    """
    from torch import nn

    lists = [child for child in model.base_model.modules() if isinstance(child, nn.ModuleList)]
    depth = getattr(model.config, "num_hidden_layers", None)
    for each in lists:
        if len(each) == depth:
            return list(each)
    raise MoemixError(f"{type(model).__name__} shows no list of its layers, so their outputs cannot be read")
