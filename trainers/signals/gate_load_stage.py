"""The gate load of a finished checkpoint: tokens of each source, and of each benchmark, by expert and layer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

import trainers.models  # noqa: F401  (registers this project's architectures with transformers)
from harness.errors import MoemixError
from harness.provenance import provenance
from harness.records import GateLoads
from harness.samples import read_samples
from harness.store import Run, Store, checkpoint_hash, exclusive
from trainers.data import Example, load_sources
from trainers.models.checkpoints import load_checkpoint
from trainers.models.routers import RouterObserver
from trainers.training.batches import Layout
from trainers.training.loss import TargetLosses
from trainers.training.packing_check import prepare_packing

Group = tuple[str, Literal["source", "benchmark"], list[Example]]
ROWS_PER_FORWARD = 8


def measure_gate_load(run: Run, out: Path, *, examples: int, benchmarks: bool) -> GateLoads:
    """Measure and leave ``out/summary.json``; what is there already for this checkpoint is kept.

    Args:
        examples: of each source and each benchmark, at most; sources give their held-out examples, else training ones.
        benchmarks: also the prompts of the run's evaluations, one group a task.

    Raises:
        MoemixError: the run has no checkpoint yet, or its architecture has no routers to observe.
        StageFailed: another process works on this.
    """
    if not (run.checkpoint / "config.json").is_file():
        raise MoemixError("the run has no checkpoint yet", where=str(run.folder), hint="train it first")
    path = out / "summary.json"
    with exclusive(out):
        fingerprint = checkpoint_hash(run.checkpoint)
        if path.is_file():
            held = GateLoads.read(path)
            if held.checkpoint_hash == fingerprint and held.examples == examples:
                return held
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


def count(model: Any, tokenizer: Any, groups: list[Group], max_length: int) -> NDArray[np.int64]:
    """i64[K, L, E], tokens of each group by layer and expert, in evaluation mode (no gate noise)."""
    try:
        prepare_packing(model)
        packed = True
    except MoemixError:
        packed = False  # it would let examples see each other: one to a row then
    observer = RouterObserver(model)
    losses = TargetLosses(model).eval()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    layout = Layout(max_length, packed, ROWS_PER_FORWARD, pad)
    examples = [example for _, _, members in groups for example in members]
    group_ids = [k for k, (_, _, members) in enumerate(groups) for _ in members]
    lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
    counts_KLE = np.zeros((len(groups), observer.num_layers, observer.num_experts), dtype=np.int64)
    with torch.no_grad():
        for rows in layout.forwards(lengths):
            batch = layout.collate(rows, examples, group_ids, model.device)
            with observer.count(batch.source_RT, len(groups)):
                losses.observe(batch)
            counts_KLE += observer.take()
    return counts_KLE


def _sources(run: Run, tokenizer: Any, examples: int) -> Iterator[Group]:
    manifest = run.manifest
    sources = load_sources(
        manifest.config.sources,
        tokenizer=tokenizer,
        max_length=manifest.config.training.max_length,
        seed=manifest.config.data_seed,
        root=Path(manifest.data_root) if manifest.data_root else None,
        cache=Store(run.store).cache / "tokens",
    )
    for source in sources:
        split = source.probe if len(source.probe) else source.train
        yield source.name, "source", [split[i] for i in range(min(examples, len(split)))]


def _benchmarks(run: Run, tokenizer: Any, examples: int) -> Iterator[Group]:
    """The prompts that each evaluated task really asked, from lm-eval's samples; a question once."""
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
