"""Sketches of each source's gradient, small enough to keep one for every source and compare them.

A count-sketch (Charikar, Chen and Farach-Colton 2002) adds every entry of the gradient, with a sign, to one of S
buckets. Bucket and sign are hashed from the entry's number, so neither is stored. Inner products of sketches are
unbiased estimates of those of the gradients, with a standard deviation of about ‖g‖‖h‖ / √S. The sketch is linear, so
it is taken of one forward pass at a time and never needs more than one gradient in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from trainers.signals.base import Signal, SignalContext, Situation, evaluating, plain

if TYPE_CHECKING:
    from torch import Tensor

    from trainers.data.batches import Forward
    from trainers.models.loss import TargetLosses

WIDTH = 4096
_CHUNK = 1 << 20  # entries hashed at a time
_MASK = (1 << 31) - 1


class GradientSketch(Signal):
    """f32[K, S], a sketch of the gradient of each source's mean held-out loss per target token.

    It costs a forward and a backward pass over the probe examples of each source, and is all zero for a source without
    targets.
    """

    field = "gradient"
    shape = "f32[K, S]"
    cost = "a forward and backward pass over the probe examples, one gradient in memory"
    sees = frozenset({"held-out examples", "gradients"})
    unknown: ClassVar[float] = 0

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float32]:
        """Return the true directions with the error of the examples drawn."""
        return now.blurred(now.gradient, now.drawn).astype(np.float32)

    def __init__(self, context: SignalContext, width: int = WIDTH) -> None:
        super().__init__(context)
        self._probe, self._width = context.probe(self.field), width

    def observe(self, step: int) -> NDArray[np.float32]:
        """Sketch the gradient of each source on held-out examples."""
        rows = [self._sketch(step, source) for source in range(self._probe.num_sources)]
        return np.stack(rows).astype(np.float32)

    def trace(self, observed: np.ndarray) -> object:
        """Return the inner products of all pairs of sketches: what strategies use of them, and far fewer numbers."""
        return plain(observed.astype(np.float64) @ observed.T.astype(np.float64))

    def _sketch(self, step: int, source: int) -> NDArray[np.float64]:
        import torch

        device = self._context.device
        sketch_S = torch.zeros(self._width, dtype=torch.float32, device=device)
        targets = 0
        for batch in self._probe.forwards(step, device, only=source):
            targets += len(batch.target_source_N)
            for start, gradient in gradients_of(self._context.losses, batch):
                add_to_sketch(sketch_S, gradient, start)
        sums = self._context.ranks.sum(np.append(sketch_S.cpu().double().numpy(), float(targets)))
        mean_S: NDArray[np.float64] = sums[:-1] / max(sums[-1], 1.0)
        return mean_S


class TargetGradient(GradientSketch):
    """f32[J, S], a sketch of the gradient of each target set's mean loss per target token."""

    field = "target_gradient"
    shape = "f32[J, S]"
    cost = "a forward and backward pass over as many examples of each target set, one gradient in memory"
    sees = frozenset({"target sets", "gradients"})
    axes = ()

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float32]:
        """Return the true directions with the error of as many examples as are held out."""
        return now.blurred(now.target_gradient, now.held_out).astype(np.float32)

    def __init__(self, context: SignalContext, width: int = WIDTH) -> None:
        Signal.__init__(self, context)
        self._probe, self._width = context.target_probe(self.field), width


class GradientAlignment(GradientSketch):
    """f64[K, K], the cosines between the sources' gradients, from their sketches; nan where one is unknown."""

    field = "gradient_alignment"
    shape = "f64[K, K]"
    unknown = math.nan
    axes = (0, 1)

    @classmethod
    def invent(cls, now: Situation) -> NDArray[np.float64]:  # type: ignore[override]
        """Return the cosines of the true directions with the error of the examples drawn."""
        return cosines(super().invent(now))

    def observe(self, step: int) -> NDArray[np.float64]:  # type: ignore[override]
        """Compare the gradients of the sources on held-out examples."""
        return cosines(super().observe(step))

    def trace(self, observed: np.ndarray) -> object:
        """Return the cosines."""
        return plain(observed)


def cosines(sketch_KS: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines between rows, f64[K, K]; nan for a row of zeros."""
    wide = sketch_KS.astype(np.float64)
    length = np.linalg.norm(wide, axis=1)
    unit = np.full(wide.shape, np.nan)
    np.divide(wide, length[:, None], out=unit, where=length[:, None] > 0)
    between: NDArray[np.float64] = unit @ unit.T
    return between


def gradients_of(losses: TargetLosses, batch: Forward) -> Iterator[tuple[int, Tensor]]:
    """Yield the gradient of the summed loss of a forward pass: each learning parameter's, and its first entry's number.

    No optimizer sees these gradients, and they do not meet those of other ranks.
    """
    import torch

    learning = [parameter for parameter in losses.parameters() if parameter.requires_grad]
    with evaluating(losses), torch.enable_grad():
        gradients = torch.autograd.grad(losses(batch).total, learning, allow_unused=True)
    start = 0
    for parameter, gradient in zip(learning, gradients, strict=True):
        if gradient is not None:
            yield start, gradient
        start += parameter.numel()


def add_to_sketch(sketch_S: Tensor, gradient: Tensor, start: int) -> None:
    """Add a piece of a gradient, in float32, whose first entry has the number ``start`` in the whole."""
    import torch

    flat_N = gradient.detach().reshape(-1).float()
    for at in range(0, len(flat_N), _CHUNK):
        piece_N = flat_N[at : at + _CHUNK]
        first = start + at
        hashed_N = _hash(torch.arange(first, first + len(piece_N), device=piece_N.device))
        sign_N = 1.0 - 2.0 * (hashed_N & 1).float()
        sketch_S.index_add_(0, (hashed_N >> 1) % len(sketch_S), piece_N * sign_N)


def _hash(number_N: Tensor) -> Tensor:
    """Return 31 well-mixed bits of each number below 2^62, by rounds of shift and multiply."""
    low_N, high_N = number_N & _MASK, number_N >> 31
    mixed_N = low_N ^ ((high_N * 0x2C1B3C6D) & _MASK)
    for factor in (0x45D9F3B, 0x2545F491, 0x297A2D39):
        mixed_N = ((mixed_N ^ (mixed_N >> 15)) * factor) & _MASK
    return mixed_N ^ (mixed_N >> 13)
