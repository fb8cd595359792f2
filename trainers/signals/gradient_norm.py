"""How long gradients are: of each source, and of each example. What they disagree about is the noise of a source."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainers.signals.base import Signal, SignalContext, Situation
from trainers.signals.gradient import WIDTH, add_to_sketch, gradients_of

if TYPE_CHECKING:
    from torch import Tensor

    from trainers.data import Example


class ExampleGradientNorm(Signal):
    """f64[K, N], the norm of the gradient of each held-out example's mean loss; nan where a source has fewer.

    Each example has a backward pass of its own.
    """

    field = "example_gradient_norm"
    shape = "f64[K, N]"
    cost = "a forward and backward pass over each probe example alone, one gradient in memory"
    sees = frozenset({"held-out examples", "gradients"})

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return norms of examples that vary around the true gradient of their source."""
        length = np.linalg.norm(now.gradient, axis=1)
        return now.measured(np.repeat(length[:, None], now.held_out, axis=1), 1)

    def __init__(self, context: SignalContext) -> None:
        super().__init__(context)
        self._probe = context.probe(self.field)

    def observe(self, step: int) -> NDArray[np.float64]:
        """Measure the gradient of every probe example."""
        norm_KN = np.full((self._probe.num_sources, self._context.probe_examples), np.nan)
        for k in range(len(norm_KN)):
            square_n = self._squares(self._probe.drawn(step, k), lambda start, gradient: None)
            norm_KN[k, : len(square_n)] = np.sqrt(square_n)
        return norm_KN

    def _squares(self, examples: list[Example], take: Callable[[int, Tensor], None]) -> NDArray[np.float64]:
        """Return ‖g‖² of each example, f64[n], on every rank; ``take`` gets this rank's gradients, piece by piece."""
        context, ranks = self._context, self._context.ranks
        square_n = np.zeros(len(examples))
        for first in range(0, len(examples), ranks.count):
            n = first + ranks.index
            alone = [examples[min(n, len(examples) - 1)]]  # ranks meet in every pass, the last of them in vain
            batch = context.layout.collate([[0]], alone, [0], context.device)
            scale = 1.0 / max(len(batch.target_source_N), 1)
            for start, gradient in gradients_of(context.losses, batch):
                if n < len(examples):
                    square_n[n] += scale**2 * float(gradient.float().square().sum())
                    take(start, scale * gradient)
        return ranks.sum(square_n)


class GradientNoise(ExampleGradientNorm):
    """f64[K, 2], of each source ‖∇L‖², and the variance of the gradient of one example, E ‖∇ℓ − ∇L‖²; both unbiased."""

    field = "gradient_noise"
    shape = "f64[K, 2]"
    cost = "a forward and backward pass over each probe example alone, two gradients in memory"

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:
        """Return the square of the true gradient, and its noise of one example, with the held-out error."""
        square = (now.gradient**2).sum(axis=1)
        return now.measured(np.stack([square, square * (now.noise**2 + 1e-12)], axis=1))

    def observe(self, step: int) -> NDArray[np.float64]:
        """Measure the gradients of all probe examples and of their mean."""
        import torch

        context = self._context
        found = np.full((self._probe.num_sources, 2), np.nan)
        for k in range(len(found)):
            total: dict[int, Tensor] = {}  # of this rank, by the number of the first entry

            def add(start: int, gradient: Tensor, total: dict[int, Tensor] = total) -> None:
                total[start] = total[start] + gradient if start in total else gradient

            square_n = self._squares(self._probe.drawn(step, k), add)
            count = len(square_n)
            sketch_S = torch.zeros(WIDTH, dtype=torch.float32, device=context.device)
            for start, gradient in total.items():
                add_to_sketch(sketch_S, gradient / count, start)
            mean_S = context.ranks.sum(sketch_S.cpu().double().numpy())
            if count > 1:
                of_mean = float(mean_S @ mean_S)  # has the noise of the mean in it
                noise = max(float(square_n.mean()) - of_mean, 0.0) * count / (count - 1)
                found[k] = max(of_mean - noise / count, 0.0), noise
        return found
