"""Held-out losses: what a model makes of examples that it is never trained on, example by example.

A line of ``held_out.jsonl`` holds one set after one step (:class:`harness.records.HeldOutLosses`). The sets are the
probe examples of the run's sources, and the recipe's ``held_out``. Losses of two runs pair by the examples' keys.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.errors import MoemixError
from harness.records import HeldOutLosses
from trainers.data import TokenSource
from trainers.data.batches import Layout
from trainers.data.sources import TokenSplit
from trainers.models.loss import TargetLosses
from trainers.models.packing import prepare_packing
from trainers.parallel.ranks import Ranks
from trainers.signals.losses import example_losses

FILE = "held_out.jsonl"
ROWS_PER_FORWARD = 8


def held_out_sets(sources: Sequence[TokenSource], further: Sequence[TokenSource]) -> dict[str, TokenSplit]:
    """Return the examples to measure by name: the probe examples of each source, and all of a set that has none."""
    sets = {source.name: source.probe for source in sources if len(source.probe)}
    return sets | {source.name: source.probe if len(source.probe) else source.train for source in further}


def measuring_layout(model: PreTrainedModel, max_length: int, padding: int) -> Layout:
    """Return how to lay out examples for a model that is not trained: packed, if it keeps packed examples apart.

    The model is changed so that packed examples are computed as single ones; ``padding`` is the token of padding.
    """
    try:
        prepare_packing(model, max_length)
        packed = True
    except MoemixError:
        packed = False
    return Layout(max_length, packed, ROWS_PER_FORWARD, padding)


class HeldOut:
    """Measures the loss of every held-out example.

    Args:
        losses: the model.
        sets: the examples by the set's name.
        layout: how examples become forward passes.
        ranks: the processes that measure together; every one of them calls :meth:`measure`.
        tokenizer: tells how many bytes of text the targets are.
    """

    def __init__(
        self,
        losses: TargetLosses,
        sets: Mapping[str, TokenSplit],
        layout: Layout,
        ranks: Ranks,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._losses, self._layout, self._ranks, self._tokenizer = losses, layout, ranks, tokenizer
        self._sets = {name: [split[i] for i in range(len(split))] for name, split in sets.items()}

    def measure(self, step: int) -> list[HeldOutLosses]:
        """Return the losses of each set after so many steps, the same on every rank."""
        found = []
        for name, examples in self._sets.items():
            started = time.perf_counter()
            total_n, targets_n = example_losses(self._losses, examples, self._layout, self._ranks)
            texts = [str(self._tokenizer.decode(e.input_ids[e.is_target], skip_special_tokens=True)) for e in examples]
            found.append(
                HeldOutLosses(
                    step=step,
                    set=name,
                    keys=tuple(hashlib.sha256(e.input_ids.tobytes()).hexdigest()[:12] for e in examples),
                    nats=tuple(total_n.tolist()),
                    targets=tuple(int(n) for n in targets_n),
                    bytes=tuple(len(text.encode()) for text in texts),
                    seconds=time.perf_counter() - started,
                )
            )
        return found
