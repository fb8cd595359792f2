"""The training stage of a run: from its manifest to its checkpoint."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import MoemixError, StageFailed
from harness.files import whole_directory
from harness.records import RunManifest, TrainResult
from harness.store import Run, Store, checkpoint_hash, exclusive, stage
from trainers.data import load_sources
from trainers.mixing import Reference, load_strategy
from trainers.models.checkpoints import load_model
from trainers.parallel import connect
from trainers.signals import Resources
from trainers.tracking import Tracker, tracked
from trainers.training.loop import fit
from trainers.training.state import States, writing


def train(run: Run) -> None:
    """Train a run's model and leave its checkpoint. A finished run is left as it is, an interrupted one goes on.

    Every process of a distributed run calls this; the first one writes.

    Raises:
        MoemixError: model, data and strategy do not go together.
        StageFailed: another process works on this run, or training failed.
    """
    first = connect().is_main_process
    with exclusive(run.folder) if first else nullcontext():
        if not (run.trained and (run.checkpoint / "config.json").is_file()):
            with stage(run, "train") if first else nullcontext(), tracked(run, first) as tracker:
                _train(run, first, tracker)
        if first:
            States(run.state).clear()  # only now: until the stage is done, they are what a restart begins from


def _train(run: Run, first: bool, tracker: Tracker | None) -> None:
    manifest = run.manifest
    config = manifest.config
    base = run.store / manifest.base_checkpoint
    if not (base / "config.json").is_file():
        raise MoemixError("the base checkpoint is missing", where=str(base))
    strategy = load_strategy(config.strategy.name, **config.strategy.options)
    if strategy.trains:
        model, tokenizer = load_checkpoint(base)
        sources = load_sources(
            config.sources,
            tokenizer=tokenizer,
            max_length=config.training.max_length,
            seed=config.data_seed,
            root=Path(manifest.data_root) if manifest.data_root else None,
            cache=Store(run.store).cache / "tokens",
        )
        reference = _reference(run, tuple(source.name for source in sources)) if strategy.needs else None
        compared = run.store / manifest.reference_run / "checkpoint" if manifest.reference_run else base
        resources = Resources(tokenizer, lambda: load_checkpoint(compared)[0], Store(run.store).cache / "embeddings")
        title = f"{config.strategy.label} · {config.model_id} · seed {config.seed}"
        result = fit(
            model,
            tokenizer,
            sources,
            strategy,
            config.training,
            config.mixing,
            config.seed,
            run.folder,
            title,
            reference=reference,
            resources=resources,
            tracker=tracker,
        )
    else:
        result = _untrained(manifest)
    if not first:
        return
    with writing(run.checkpoint), whole_directory(run.checkpoint) as folder:
        if strategy.trains:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        else:
            shutil.copytree(base, folder, dirs_exist_ok=True, copy_function=_link)
    run.update(result=result, checkpoint_hash=checkpoint_hash(run.checkpoint))


def _reference(run: Run, names: tuple[str, ...]) -> Reference:
    """What the run that a strategy needs came to.

    Raises:
        MoemixError: the manifest names none.
        StageFailed: it has not finished, or was of other sources.
    """
    manifest = run.manifest
    if manifest.reference_run is None:
        raise MoemixError(
            f"{manifest.config.strategy.name!r} starts from a finished run, and the manifest names none",
            where=str(run.manifest_path),
            hint="let `moemix bench` or `moemix train RECIPE` create the run",
        )
    needed = Run(run.store / manifest.reference_run)
    result = needed.manifest.result if needed.manifest_path.is_file() else None
    if result is None or not needed.trained:
        raise StageFailed("the run that this one starts from has not finished", where=str(needed.folder))
    if tuple(sorted(result.final_weights)) != names:
        raise StageFailed("the run that this one starts from is of other sources", where=str(needed.folder))
    losses = [result.source_losses[name] for name in names]
    return Reference(
        weights=np.array([result.final_weights[name] for name in names]),
        losses=np.array([np.nan if loss is None else loss for loss in losses], dtype=np.float64),
    )


def load_checkpoint(base: Path) -> tuple[Any, Any]:
    """Model in float32, whatever it is stored in, and tokenizer."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar is enough, and it is not the one over files
    try:
        model = load_model(str(base), where=str(base), dtype=torch.float32, local_files_only=True)
        return model, AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise MoemixError(f"the checkpoint cannot be loaded: {error}", where=str(base)) from error


def _link(source: str, target: str) -> None:
    """The same file under another name; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _untrained(manifest: RunManifest) -> TrainResult:
    """The totals of a run that left its base checkpoint as it was."""
    names = sorted(source.name for source in manifest.config.sources)
    return TrainResult(
        steps=0,
        examples=0,
        tokens=0,
        target_tokens=0,
        seconds=0.0,
        mixing_seconds=0.0,
        final_loss=None,
        final_weights={},
        realised_examples=dict.fromkeys(names, 0),
        realised_tokens=dict.fromkeys(names, 0),
        source_losses=dict.fromkeys(names),
        epochs=dict.fromkeys(names, 0.0),
    )
