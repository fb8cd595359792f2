"""Packing on the real four-type mix: how much of the computing is real, and what an example costs."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.report import Report, options, real_data, spread
from tests.bench.workload import real_mix, small_moe
from trainers.data import Draws, TokenSource
from trainers.data.batches import GlobalBatch, Layout
from trainers.models.loss import TargetLosses

MAX_LENGTH, BATCH = 2048, 128


def seconds(losses: TargetLosses, batch: GlobalBatch) -> float:
    """Forward and backward passes over a global batch."""
    started = time.perf_counter()
    losses.model.zero_grad()
    for forward in batch.forwards(0, 1, torch.device("cpu")):
        losses(forward).total.backward()
    return time.perf_counter() - started


def drawn(sources: tuple[TokenSource, ...], step: int, count: int, layout: Layout) -> GlobalBatch:
    """The examples of a step under uniform weights."""
    draws = Draws(np.array([len(source.train) for source in sources]), 0, "repeat")
    weights_K = np.full(len(sources), 1 / len(sources))
    seen_K = draws.replay([(0, weights_K)], step * count)
    return GlobalBatch.of(sources, *draws.take(step * count, count, weights_K, seen_K), layout)


def main() -> None:
    given = options()
    root = real_data(given)
    report = Report(
        "packing",
        "Packing the real four-type mix",
        f"The four real sources of the recipe `smol` under SmolLM2's tokenizer, drawn uniformly, at most {MAX_LENGTH}"
        f" tokens in a row. A forward pass holds one packed row, cut to its own length. Shares are over global batches"
        f" of {BATCH} examples. Seconds are those of forward and"
        " backward passes (fp32) of a random Mixtral of eight layers, width 256, eight experts of which two are"
        " selected, over the same eight examples, packed and with every example padded to the maximum length, in turn"
        " in one process. The target is a real share of at least 90 %.",
        quick=given.quick,
    )
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, sources = real_mix(root, MAX_LENGTH, Path(scratch))
        layouts = {"packed": True, "one padded row an example": False}
        shares: dict[str, list[float]] = {name: [] for name in layouts}
        made: dict[str, Layout] = {}
        for name, packed in layouts.items():
            made[name] = Layout(MAX_LENGTH, packed, 1, tokenizer.pad_token_id or 0)
            for step in range(3 if given.quick else 40):
                batch = drawn(sources, step, BATCH, made[name])
                shares[name].append(100 * int(batch.tally.tokens.sum()) / batch.computed_tokens)
        lengths = [(s.name, len(s.train), f"{s.train.lengths.mean():.0f}") for s in sources]
        report.table(lengths, ("source", "examples to train on", "mean tokens"))

        losses = TargetLosses(small_moe("mixtral", len(tokenizer))).train()
        taken: dict[str, list[float]] = {name: [] for name in layouts}
        for step in range(-1, 1 if given.quick else 9):
            for name, layout in made.items():
                spent = seconds(losses, drawn(sources, abs(step), 8, layout))
                if step >= 0:  # the first pass of each only warms up
                    taken[name].append(spent)
    rows: list[tuple[Any, ...]] = [
        (name, spread(shares[name], 1), spread(np.array(taken[name]) / 8, 3)) for name in layouts
    ]
    report.table(rows, ("layout", "real tokens, % of computed", "seconds an example"))
    packed_s, padded_s = (np.array(seconds) for seconds in taken.values())
    report.say(f"Padding costs {spread(padded_s / packed_s, 1)} times as much an example as packing.")
    report.save()
    if np.median(shares["packed"]) < 90:
        sys.exit("less than 90 % of the packed tokens are real")


if __name__ == "__main__":
    main()
