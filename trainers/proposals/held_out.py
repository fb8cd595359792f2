"""Measure the losses of checkpoints on the held-out examples of their sources."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedModel

from harness.errors import StageError
from harness.provenance import provenance
from harness.store import Run, checkpoint_hash
from trainers.data import TokenSource
from trainers.data.batches import Layout, pad_id
from trainers.data.sources import run_sources
from trainers.models.checkpoints import load_checkpoint
from trainers.models.loss import TargetLosses
from trainers.models.packing import prepare_packing
from trainers.parallel.base import Ranks
from trainers.proposals.records import HeldOut
from trainers.signals.base import Probe, evaluating
from trainers.signals.losses import each_loss, mean_by_source


def held_out(runs: Sequence[Run], on_run: Callable[[], None] = lambda: None) -> list[HeldOut]:
    """Measure the losses of finished runs of one recipe. Each is stored in ``held_out.json`` beside the run's manifest.

    Args:
        runs: the finished runs.
        on_run: called after each run.

    Raises:
        MoemixError: a source has no held-out examples, or a checkpoint cannot be loaded.
        StageError: a checkpoint has changed since its run wrote it.
    """
    found, sources = [], None
    for run in runs:
        record = _stored(run)
        if record is None:
            started = time.perf_counter()
            model, tokenizer = load_checkpoint(str(run.checkpoint))
            sources = sources or run_sources(run, tokenizer)
            losses = _losses(run, model, sources, pad_id(tokenizer))
            record = HeldOut(
                checkpoint_hash=run.manifest.checkpoint_hash or checkpoint_hash(run.checkpoint),
                losses=losses,
                seconds=time.perf_counter() - started,
                provenance=provenance(),
            )
            record.write(run.folder / "held_out.json")
        found.append(record)
        on_run()
    return found


def _stored(run: Run) -> HeldOut | None:
    """Return the stored losses of this checkpoint, if there are any. Then the checkpoint itself is no longer needed."""
    path, expected = run.folder / "held_out.json", run.manifest.checkpoint_hash
    if path.is_file() and (stored := HeldOut.read(path)).checkpoint_hash == expected:
        return stored
    if expected is not None and expected != checkpoint_hash(run.checkpoint):
        raise StageError("the checkpoint has changed since its run wrote it", where=str(run.checkpoint))
    return None


def _losses(run: Run, model: PreTrainedModel, sources: Sequence[TokenSource], padding: int) -> dict[str, float]:
    """Return the mean loss per target token over all held-out examples of each source."""
    training, seed = run.manifest.config.training, run.manifest.config.seed
    layout = Layout(training.max_length, training.pack, training.rows_per_forward, padding)
    if training.pack:
        prepare_packing(model, training.max_length)
    losses = TargetLosses(model, bfloat16=training.dtype == "bfloat16")
    alone = Ranks(1, 0, losses.model.device)
    most = max(len(source.probe) for source in sources)
    probe = Probe(sources, most, layout, seed, alone, wanted_for="held-out loss")
    with evaluating(losses):
        mean = mean_by_source(probe, alone, losses.model.device, 0, lambda batch: each_loss(losses, batch))
    return dict(zip((source.name for source in sources), np.asarray(mean).tolist(), strict=True))
