"""Measure the gate load of a finished checkpoint: tokens of each source and benchmark, by layer and expert."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.errors import MoemixError
from harness.provenance import provenance
from harness.records import GateLoads
from harness.samples import read_samples
from harness.store import Run, checkpoint_hash, exclusive
from trainers.data import Example
from trainers.data.batches import pad_id
from trainers.data.sources import run_sources
from trainers.models.checkpoints import load_checkpoint
from trainers.models.loss import TargetLosses
from trainers.models.routers import RouterObserver
from trainers.signals.gate_load import count_routed
from trainers.training.held_out import measuring_layout

Group = tuple[str, Literal["source", "benchmark"], list[Example]]


def measure_gate_load(run: Run, out: Path, *, examples: int, benchmarks: bool) -> GateLoads:
    """Measure a trained run and write ``out/summary.json``; a summary of the same checkpoint is kept.

    ``examples`` are the most of each source and benchmark; sources give held-out examples, else training ones. With
    ``benchmarks``, the prompts of the run's evaluations are measured too, one group for each task.

    Raises:
        MoemixError: the run has no checkpoint yet, or its architecture has no routers to observe.
        StageError: another process works on this.
    """
    if not (run.checkpoint / "config.json").is_file():
        raise MoemixError("the run has no checkpoint yet", where=str(run.folder), hint="train it first")
    path = out / "summary.json"
    with exclusive(out):
        fingerprint = checkpoint_hash(run.checkpoint)
        if path.is_file():
            kept = GateLoads.read(path)
            if kept.checkpoint_hash == fingerprint and kept.examples == examples:
                return kept
        started = time.monotonic()
        model, tokenizer = load_checkpoint(str(run.checkpoint))
        groups = list(_sources(run, tokenizer, examples))
        if benchmarks:
            groups += _benchmarks(run, tokenizer, examples)
        counts_KLE = count(model, tokenizer, groups, run.manifest.config.training.max_length)
        found = GateLoads(
            checkpoint_hash=fingerprint,
            examples=examples,
            names=tuple(name for name, _, _ in groups),
            kinds=tuple(kind for _, kind, _ in groups),
            counts=tuple(tuple(tuple(map(int, row)) for row in layers) for layers in counts_KLE),
            seconds=time.monotonic() - started,
            provenance=provenance(),
        )
        found.write(path)
        return found


def count(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, groups: list[Group], max_length: int
) -> NDArray[np.int64]:
    """Return i64[K, L, E], tokens of each group by layer and expert, in evaluation mode (no gate noise)."""
    layout = measuring_layout(model, max_length, pad_id(tokenizer))
    examples = [example for _, _, members in groups for example in members]
    group_ids = [k for k, (_, _, members) in enumerate(groups) for _ in members]
    lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
    forwards = (layout.collate(rows, examples, group_ids, model.device) for rows in layout.forwards(lengths))
    return count_routed(TargetLosses(model), RouterObserver(model), forwards, len(groups))


def _sources(run: Run, tokenizer: PreTrainedTokenizerBase, examples: int) -> Iterator[Group]:
    for source in run_sources(run, tokenizer):
        split = source.probe if len(source.probe) else source.train
        yield source.name, "source", [split[i] for i in range(min(examples, len(split)))]


def _benchmarks(run: Run, tokenizer: PreTrainedTokenizerBase, examples: int) -> Iterator[Group]:
    """Yield the prompts of each evaluated task from lm-eval's samples, each question once."""
    length = run.manifest.config.training.max_length
    for path in sorted((run.folder / "evals").glob("*/samples_*.jsonl")):
        prompts: dict[int, str] = {}
        for sample in read_samples(path):
            prompts.setdefault(sample.doc_id, str(sample.requests[0][0]))
        members = []
        for _, text in sorted(prompts.items())[:examples]:
            ids = np.array(tokenizer(text, add_special_tokens=False).input_ids[-length:], dtype=np.int32)
            if len(ids) > 1:
                members.append(Example(ids, np.arange(len(ids)) == len(ids) - 1))
        if members:
            yield path.stem.removeprefix("samples_"), "benchmark", members
