"""Checkpoints' losses on what their sources held out of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedModel

from harness.errors import StageFailed
from harness.provenance import provenance
from harness.store import Run, checkpoint_hash
from trainers.data import TokenSource
from trainers.data.batches import Layout, pad_id
from trainers.data.sources import run_sources
from trainers.models.checkpoints import load_checkpoint
from trainers.models.loss import TargetLosses
from trainers.models.packing import prepare_packing
from trainers.parallel.ranks import Ranks
from trainers.proposals.records import HeldOut
from trainers.signals.base import Probe, evaluating
from trainers.signals.losses import each_loss, mean_by_source


def held_out(runs: Sequence[Run], shown: Callable[[], None] = lambda: None) -> list[HeldOut]:
    """The losses of finished runs of one recipe, each measured once and kept in ``held_out.json`` beside its manifest.

    Args:
        shown: called after each run.

    Raises:
        MoemixError: a source holds out nothing, or a checkpoint cannot be loaded.
        StageFailed: a checkpoint is no longer what its run left.
    """
    found, sources = [], None
    for run in runs:
        record = _kept(run)
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
        shown()
    return found


def _kept(run: Run) -> HeldOut | None:
    """What was measured of this checkpoint before. The checkpoint itself is no longer needed then."""
    path, expected = run.folder / "held_out.json", run.manifest.checkpoint_hash
    if path.is_file() and (kept := HeldOut.read(path)).checkpoint_hash == expected:
        return kept
    if expected is not None and expected != checkpoint_hash(run.checkpoint):
        raise StageFailed("the checkpoint is not what its run left", where=str(run.checkpoint))
    return None


def _losses(run: Run, model: PreTrainedModel, sources: Sequence[TokenSource], padding: int) -> dict[str, float]:
    """Mean loss per target token over all that each source holds out."""
    training, seed = run.manifest.config.training, run.manifest.config.seed
    layout = Layout(training.max_length, training.pack, training.rows_per_forward, padding)
    if training.pack:
        prepare_packing(model)
    losses = TargetLosses(model, bfloat16=training.dtype == "bfloat16")
    alone = Ranks(1, 0, losses.model.device)
    most = max(len(source.probe) for source in sources)
    probe = Probe(sources, most, layout, seed, alone, wanted_for="held-out loss")
    with evaluating(losses):
        mean_K = mean_by_source(probe, alone, losses.model.device, 0, lambda batch: each_loss(losses, batch))
    return dict(zip((source.name for source in sources), np.asarray(mean_K).tolist(), strict=True))
