"""Making a model: from ``model.json`` to ``checkpoint/`` beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import MoemixError
from harness.files import whole_directory
from harness.provenance import now, provenance
from harness.recipe import CheckpointModel, Source, SplitModel, TinyModel, UpcycledModel
from harness.records import ModelManifest, Stage
from harness.store import Store, checkpoint_hash, exclusive
from trainers.models.routers import RouterObserver

_ROUTER_MAX_LENGTH = 1024  # tokens of the examples that routers are made from


def make_model(folder: Path) -> Path:
    """Make the model that ``folder/model.json`` describes and leave it in ``folder/checkpoint``.

    A finished model is left as it is; interrupted pretraining goes on where it stopped. The checkpoint is safetensors,
    configuration and tokenizer, and loads with plain transformers.

    Args:
        folder: ``<store>/_models/<model_id>``.

    Returns:
        the checkpoint's folder.

    Raises:
        MoemixError: the configuration, the data or the source checkpoint is not usable.
        StageFailed: another process makes this model, or pretraining failed.
    """
    path, checkpoint = folder / "model.json", folder / "checkpoint"
    with exclusive(folder):
        manifest = ModelManifest.read(path)
        if manifest.stage.status == "done" and (checkpoint / "config.json").is_file():
            return checkpoint
        with _stage(path):
            model, tokenizer, report = _make(manifest, folder)
            with whole_directory(checkpoint) as target:
                model.save_pretrained(target)
                tokenizer.save_pretrained(target)
            _update(
                path,
                checkpoint_hash=checkpoint_hash(checkpoint),
                report={**size(model), **report},
                provenance=provenance(),
            )
        shutil.rmtree(folder / "pretrain" / "state", ignore_errors=True)  # until now a restart would have needed it
    return checkpoint


def _make(manifest: ModelManifest, folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Model, tokenizer, and what making it measured."""
    from trainers.models.chat_templates import TEMPLATES
    from trainers.models.checkpoints import load_checkpoint
    from trainers.models.tiny import make_tiny

    config, model = manifest.config, manifest.config.model
    root = Path(manifest.data_root) if manifest.data_root else None
    cache = Store(folder.parent.parent).cache / "tokens"
    if isinstance(model, TinyModel):
        return make_tiny(model, config.sources, root=root, cache=cache, folder=folder / "pretrain")
    if isinstance(model, CheckpointModel):
        loaded, tokenizer = load_checkpoint(model.source, model.revision, dtype="auto")
        if model.chat_template is not None:
            tokenizer.chat_template = TEMPLATES[model.chat_template]
        return loaded, tokenizer, {}
    return from_dense(model, config.sources, root, cache)


def from_dense(
    model: UpcycledModel | SplitModel, sources: tuple[Source, ...], root: Path | None, cache: Path
) -> tuple[Any, Any, dict[str, Any]]:
    """An MoE from a dense checkpoint: model, tokenizer, and what making it measured."""
    from trainers.data import load_sources
    from trainers.models.checkpoints import load_checkpoint
    from trainers.models.split import split
    from trainers.models.upcycle import upcycle

    dense, tokenizer = load_checkpoint(model.source, model.revision)
    loaded = load_sources(
        sources, tokenizer=tokenizer, max_length=_ROUTER_MAX_LENGTH, seed=model.seed, root=root, cache=cache
    )
    if isinstance(model, SplitModel):
        moe, report = split(dense, tokenizer, model, loaded)
    else:
        moe, report = upcycle(dense, tokenizer, model, loaded)
    return moe, tokenizer, report


def size(model: Any) -> dict[str, int]:
    """Parameters, and MoE layers and experts where there are any that can be observed."""
    found = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    try:
        observer = RouterObserver(model)
    except MoemixError:
        return found
    return {**found, "moe_layers": observer.num_layers, "experts": observer.num_experts}


def _update(path: Path, **changes: object) -> None:
    ModelManifest.read(path).model_copy(update=changes).write(path)


@contextmanager
def _stage(path: Path) -> Iterator[None]:
    """Mark the model running, then done or failed with the reason. Interrupts leave it resumable."""
    started = now()
    _update(path, stage=Stage(status="running", started=started))
    try:
        yield
    except KeyboardInterrupt:
        _update(path, stage=Stage(started=started))
        raise
    except BaseException as error:
        text = str(error) or type(error).__name__
        _update(path, stage=Stage(status="failed", started=started, finished=now(), error=text))
        raise
    _update(path, stage=Stage(status="done", started=started, finished=now()))
