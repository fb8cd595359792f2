"""The training stage of a run: from its manifest to its checkpoint."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from harness.errors import MoemixError, StageError
from harness.files import whole_directory, write_text
from harness.recipe import CheckpointModel
from harness.records import ModelManifest, TrainResult
from harness.store import Run, Store, checkpoint_hash, exclusive, stage
from trainers.data.batches import pad_id
from trainers.data.sources import run_sources
from trainers.mixing import MixingStrategy, Reference, load_strategy
from trainers.models.checkpoints import load_checkpoint
from trainers.models.loss import TargetLosses
from trainers.models.trainable import BaseName
from trainers.parallel import connect
from trainers.parallel.ranks import Ranks
from trainers.signals import Resources
from trainers.tracking import Tracker, tracked
from trainers.training.held_out import FILE as HELD_OUT
from trainers.training.held_out import HeldOut, held_out_sets, measuring_layout
from trainers.training.loop import FitRequest, fit
from trainers.training.state import States, writing

logger = logging.getLogger("moemix.trainers")


def train(run: Run) -> None:
    """Train a run's model and write its checkpoint. A finished run stays unchanged, an interrupted one resumes.

    Every process of a distributed run calls this; the first one writes.

    Raises:
        MoemixError: model, data and strategy do not fit together.
        StageError: another process works on this run, or training failed.
    """
    first = connect().is_main_process
    with exclusive(run.folder) if first else nullcontext():
        if not (run.trained and (run.checkpoint / "config.json").is_file()):
            with stage(run, "train") if first else nullcontext(), tracked(run, first) as tracker:
                _train(run, first, tracker)
        if first:
            States(run.state).clear()  # only now: until the stage is done, a restart begins from them


def _train(run: Run, first: bool, tracker: Tracker | None) -> None:
    manifest = run.manifest
    base = run.store / manifest.base_checkpoint
    if not (base / "config.json").is_file():
        raise MoemixError("the base checkpoint is missing", where=str(base))
    strategy = load_strategy(manifest.config.strategy.name, **manifest.config.strategy.options)
    if strategy.trains:
        request = _request(run, base, strategy, tracker)
        result = fit(request).model_copy(update={"rows": {s.name: s.report.counts() for s in request.sources}})
    else:
        result = _untrained(run, base)
    if not first:
        return
    with writing(run.checkpoint), whole_directory(run.checkpoint) as folder:
        if strategy.trains:
            request.model.save_pretrained(folder)
            request.tokenizer.save_pretrained(folder)
        else:
            shutil.copytree(base, folder, dirs_exist_ok=True, copy_function=_link)
    for name, rows in result.rows.items():
        left_out = sum(rows.left_out.values())
        message = "%s: %d rows read, %d examples, %d left out, %d cut to %d tokens"
        cut = (rows.truncated, manifest.config.training.max_length)
        logger.info(message, name, rows.read, rows.examples, left_out, *cut)
    run.update(result=result, checkpoint_hash=checkpoint_hash(run.checkpoint))


def _request(run: Run, base: Path, strategy: MixingStrategy, tracker: Tracker | None) -> FitRequest:
    """Load what a run trains, and on what."""
    manifest = run.manifest
    config = manifest.config
    model, tokenizer = load_checkpoint(str(base))
    sources = run_sources(run, tokenizer)
    compared = run.store / manifest.reference_run / "checkpoint" if manifest.reference_run else base
    return FitRequest(
        model=model,
        tokenizer=tokenizer,
        sources=sources,
        strategy=strategy,
        training=config.training,
        mixing=config.mixing,
        seed=config.seed,
        folder=run.folder,
        title=f"{config.strategy.label} · {config.model_id} · seed {config.seed}",
        reference=_reference(run, tuple(source.name for source in sources)) if strategy.needs else None,
        resources=Resources(
            tokenizer, lambda: load_checkpoint(str(compared))[0], Store(run.store).cache / "embeddings"
        ),
        tracker=tracker,
        held_out=run_sources(run, tokenizer, config.held_out),
        held_out_every=config.held_out_every,
        base=_base_name(run),
    )


def _base_name(run: Run) -> BaseName:
    """Return a checkpoint as the recipe names it; for a model made here, its folder relative to the store."""
    folder = run.manifest.base_checkpoint
    path = (run.store / folder).parent / "model.json"
    made = ModelManifest.read(path).config.model if path.is_file() else None
    return BaseName(made.source, made.revision) if isinstance(made, CheckpointModel) else BaseName(folder)


def _reference(run: Run, names: tuple[str, ...]) -> Reference:
    """Return the result of the run that a strategy needs.

    Raises:
        MoemixError: the manifest names none.
        StageError: the run has not finished, or has other sources.
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
        raise StageError("the run that this one starts from has not finished", where=str(needed.folder))
    if tuple(sorted(result.final_weights)) != names:
        raise StageError("the run that this one starts from has other sources", where=str(needed.folder))
    losses = [result.source_losses[name] for name in names]
    return Reference(
        weights=np.array([result.final_weights[name] for name in names]),
        losses=np.array([np.nan if loss is None else loss for loss in losses], dtype=np.float64),
    )


def _link(source: str, target: str) -> None:
    """Give a file another name; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _untrained(run: Run, base: Path) -> TrainResult:
    """Measure the held-out losses of the base checkpoint, and return the totals of a run that leaves it unchanged."""
    config = run.manifest.config
    if config.held_out or any(source.probe_examples for source in config.sources):
        model, tokenizer = load_checkpoint(str(base))
        sets = held_out_sets(run_sources(run, tokenizer), run_sources(run, tokenizer, config.held_out))
        layout = measuring_layout(model, config.training.max_length, pad_id(tokenizer))
        measured = HeldOut(TargetLosses(model), sets, layout, Ranks(1, 0, model.device), tokenizer).measure(0)
        write_text(run.folder / HELD_OUT, "".join(record.model_dump_json() + "\n" for record in measured))
    names = sorted(source.name for source in config.sources)
    none = dict.fromkeys(names, 0)
    totals = dict.fromkeys(("steps", "examples", "tokens", "target_tokens", "seconds", "mixing_seconds"), 0)
    return TrainResult.model_validate(
        {
            **totals,
            "final_loss": None,
            "final_weights": {},
            "realised_examples": none,
            "realised_tokens": none,
            "source_losses": dict.fromkeys(names),
            "epochs": none,
        }
    )
