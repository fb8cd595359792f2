"""Trial steps: train on a few batches, see what that does, and take it back to the last bit.

What a step changes is put back from copies: parameters and buffers, the optimizer's state, the learning rate, the mode
of the model and the state of the random number generators. Draws are not touched, because a trial has its own batches;
the signals do not watch it either. Copies need as much memory as the weights and the optimizer's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainers.data import Example
from trainers.data.batches import Layout
from trainers.parallel.base import Parallel
from trainers.training.runtime import seed_forward


@dataclass(frozen=True)
class Trials:
    """Tries steps of a training.

    Attributes:
        losses: the function of the model's losses, as training calls it.
        optimizer: its optimizer.
        parallel: how the ranks train together.
        layout: how examples become forward passes.
        rate: the learning rate after so many steps.
        max_norm: the largest norm of a gradient.
        seed: the seed of the run.
    """

    losses: nn.Module
    optimizer: Optimizer
    parallel: Parallel
    layout: Layout
    rate: Callable[[int], float]
    max_norm: float | None
    seed: int

    @contextmanager
    def __call__(self, after: int, batches: Sequence[Sequence[Example]]) -> Iterator[None]:
        """Do one step on each batch, the same on every rank, and undo all when the context ends, also after an error.

        ``after`` is the number of finished steps; every rank calls this.
        """
        with _kept(self.losses, self.optimizer, self.parallel.changing(self.losses)):
            self.losses.train()
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(after)
            for number, examples in enumerate(batches):
                self._step(examples, after, number)
            yield

    def _step(self, examples: Sequence[Example], after: int, number: int) -> None:
        parallel, ranks = self.parallel, self.parallel.ranks
        targets = sum(int(example.is_target.sum()) for example in examples)
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        rows, sources = self.layout.forwards(lengths), [0] * len(examples)
        forwards = list(self.layout.shares(rows, examples, sources, ranks.index, ranks.count, parallel.device))
        for i, forward in enumerate(forwards):
            # numbers that no forward pass of the training has
            seed_forward(self.seed, after, -1 - (number * 10**6 + i * ranks.count + ranks.index))
            with parallel.accumulate(self.losses, last=i + 1 == len(forwards)):
                found = self.losses(forward)
                loss = found.total / max(targets, 1) + found.balance * (forward.tokens / int(lengths.sum()))
                parallel.backward(loss * ranks.count)
        parallel.step(self.losses, self.optimizer, self.max_norm)


@contextmanager
def _kept(losses: nn.Module, optimizer: Optimizer, changing: Sequence[Tensor]) -> Iterator[None]:
    """Keep everything that a step changes, and put it back."""
    tensors = [(tensor, tensor.detach().clone()) for tensor in changing]
    state = {parameter: {name: value.clone() for name, value in each.items()} for parameter, each in _state(optimizer)}
    rates = [group["lr"] for group in optimizer.param_groups]
    training, generators = losses.training, _generators()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, kept in tensors:
                tensor.copy_(kept)
        for parameter, each in _state(optimizer):
            if parameter not in state:
                del optimizer.state[parameter]
                continue
            for name, value in state[parameter].items():
                each[name].copy_(value)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.zero_grad()
        losses.train(training)
        torch.set_rng_state(generators[0])
        if generators[1]:
            torch.cuda.set_rng_state_all(generators[1])


def _state(optimizer: Optimizer) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Return the optimizer's state by parameter; AdamW's holds tensors alone."""
    return list(optimizer.state.items())


def _generators() -> tuple[Tensor, list[Tensor]]:
    """Return the states of the random number generators: of the CPU, and of each GPU in use."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
