"""A checkpoint's loss on what its run's sources held out of training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from harness.errors import MoemixError
from harness.provenance import provenance
from harness.records_offline import HeldOut
from harness.store import Run, Store, checkpoint_hash
from trainers.batches import Layout
from trainers.data import TokenSource, load_sources
from trainers.loss import TargetLosses
from trainers.run import load_checkpoint


def held_out(run: Run) -> HeldOut:
    """The losses of a finished run, measured once and kept in ``held_out.json`` beside its manifest.

    Raises:
        MoemixError: a source holds out nothing.
    """
    path, manifest = run.folder / "held_out.json", run.manifest
    fingerprint = manifest.checkpoint_hash or checkpoint_hash(run.checkpoint)
    if path.is_file() and (kept := HeldOut.read(path)).checkpoint_hash == fingerprint:
        return kept
    started = time.perf_counter()
    config = manifest.config
    model, tokenizer = load_checkpoint(run.checkpoint)
    sources = load_sources(
        config.sources,
        tokenizer=tokenizer,
        max_length=config.training.max_length,
        seed=config.data_seed,
        root=Path(manifest.data_root) if manifest.data_root else None,
        cache=Store(run.store).cache / "tokens",
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    training = config.training
    layout = Layout(training.max_length, training.pack, training.rows_per_forward, int(pad or 0))
    losses = TargetLosses(model, bfloat16=training.dtype == "bfloat16")
    sums, targets = _sums(losses, sources, layout)
    record = HeldOut(
        checkpoint_hash=fingerprint,
        losses={source.name: s / n for source, s, n in zip(sources, sums, targets, strict=True)},
        target_tokens={source.name: n for source, n in zip(sources, targets, strict=True)},
        seconds=time.perf_counter() - started,
        provenance=provenance(),
    )
    record.write(path)
    return record


def _sums(losses: TargetLosses, sources: Sequence[TokenSource], layout: Layout) -> tuple[list[float], list[int]]:
    """For each source, the sum of its held-out losses and how many tokens they are of."""
    sums, targets = [], []
    losses.eval()
    for source in sources:
        examples = [source.probe[i] for i in range(len(source.probe))]
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        total, count = 0.0, 0
        with torch.no_grad():
            for rows in layout.forwards(lengths):
                forward = layout.collate(rows, examples, [0] * len(examples), losses.model.device)
                total += float(losses(forward).each_N.double().sum())
                count += len(forward.target_N)
        if not count:
            raise MoemixError(
                "holds out nothing to measure its loss on",
                where=f"source {source.name}",
                hint="set its `probe_examples`",
            )
        sums.append(total)
        targets.append(count)
    return sums, targets
