"""Held-out examples for the signals that run the model on data of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from harness.errors import MoemixError
from trainers.data import TokenSource
from trainers.parallel.ranks import Ranks
from trainers.training.batches import Forward, Layout


class Probe:
    """Some held-out examples of each source, drawn anew for every update; the same for all signals of one update.

    Args:
        examples: of each source; all there are, if it holds out fewer.
        seed: of the run.

    Raises:
        MoemixError: a source holds out no examples.
    """

    def __init__(
        self, sources: Sequence[TokenSource], examples: int, layout: Layout, seed: int, ranks: Ranks, *, wanted_for: str
    ) -> None:
        for source in sources:
            if not len(source.probe):
                raise MoemixError(
                    f"holds out no examples to probe the {wanted_for.replace('_', ' ')} with",
                    where=f"source {source.name}",
                    hint="set its `probe_examples` (the paper: 1000)"
                    + (", or mixing.gate_load=online" if wanted_for == "gate_load" else ""),
                )
        self.num_sources = len(sources)
        self._sources, self._examples, self._layout, self._seed = sources, examples, layout, seed
        self._ranks = ranks

    def forwards(self, step: int, device: torch.device, only: int | None = None) -> Iterator[Forward]:
        """This rank's share of the forward passes after ``step`` steps; every rank gets equally many.

        Args:
            only: the one source to take examples of; all of them in mixed rows otherwise.
        """
        examples, source_ids = [], []
        for k, source in enumerate(self._sources):
            if only is not None and k != only:
                continue
            order = np.random.default_rng((self._seed, step, k)).permutation(len(source.probe))
            picked = order[: self._examples].tolist()
            examples += [source.probe[i] for i in picked]
            source_ids += [k] * len(picked)
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        for rows in self._layout.share(self._layout.forwards(lengths), self._ranks.index, self._ranks.count):
            yield self._layout.collate(rows, examples, source_ids, device) if rows else self._layout.idle(device)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout, no gate noise), and back to what it was."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
