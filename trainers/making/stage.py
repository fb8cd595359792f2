"""Make a model: the stage that turns ``model.json`` into a checkpoint, and the same from a dense checkpoint by hand."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.chat_templates import chat_template
from harness.errors import MoemixError
from harness.files import whole_directory, write_json
from harness.provenance import provenance
from harness.recipe import CheckpointModel, Part, Source, SplitModel, TinyModel, UpcycledModel
from harness.records import ModelManifest
from harness.store import Store, checkpoint_hash, exclusive, marked
from trainers.data import load_sources
from trainers.data.encoder import Encoder
from trainers.making.from_dense import split, upcycle
from trainers.making.samples import Report
from trainers.making.tiny import pretrain, random_model
from trainers.models.checkpoints import load_checkpoint
from trainers.models.routers import RouterObserver

REPORT = "report.json"
_ROUTER_MAX_LENGTH = 1024  # tokens of the examples from which routers are made

Made = tuple[PreTrainedModel, PreTrainedTokenizerBase, Report]
"""A model, its tokenizer, and what was measured when it was made."""


def make_model(folder: Path) -> Path:
    """Make the model that ``folder/model.json`` describes, write it into ``folder/checkpoint``, and return that folder.

    A finished model stays unchanged; interrupted pretraining resumes. The checkpoint is safetensors, configuration and
    tokenizer, and loads with plain transformers.

    Raises:
        MoemixError: the configuration, the data or the source checkpoint is not usable.
        StageError: another process makes this model, or pretraining failed.
    """
    path, checkpoint = folder / "model.json", folder / "checkpoint"
    with exclusive(folder):
        manifest = ModelManifest.read(path)
        if manifest.stage.status == "done" and (checkpoint / "config.json").is_file():
            return checkpoint
        with marked(lambda stage: _update(path, stage=stage)):
            made = _make(manifest, folder)
            _save(made, checkpoint)
            report = {**_size(made[0]), **made[2]}
            fingerprint = checkpoint_hash(checkpoint)
            _update(path, checkpoint_hash=fingerprint, report=report, provenance=provenance())
        shutil.rmtree(folder / "pretrain" / "state", ignore_errors=True)  # until now a restart would have needed it
    return checkpoint


def make_from_dense(
    model: UpcycledModel | SplitModel, sources: Sequence[Source], root: Path | None, out: Path
) -> Report:
    """Write an MoE made from a dense checkpoint into the new folder ``out``; return what is in its ``report.json``.

    The report has the model's fields, its size, and how it compares with the dense model.

    Raises:
        MoemixError: ``out`` is not empty, or source, model and data do not fit together.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MoemixError("the folder exists and is not empty", where=str(out), hint="give a new folder with --out")
    if model.reads_sources and not sources:
        raise MoemixError(
            "routers and clusters are made from data, and none was given",
            hint="--sources RECIPE, or --source NAME=ADAPTER:FILE; or --router-init random",
        )
    with tempfile.TemporaryDirectory() as cache:
        made = _from_dense(model, tuple(sources), root, Path(cache))
    report = {**model.model_dump(mode="json"), **_size(made[0]), **made[2]}
    _save(made, out, report)
    return report


def describe(report: Report) -> str:
    """Return the report of :func:`make_from_dense` in sentences."""
    lines = [f"{report['parameters']:,} parameters, {report['moe_layers']} MoE layers of {report['experts']} experts"]
    routers = report.get("routers")
    if not isinstance(routers, dict):
        return "\n".join([*lines, "no data was given, so nothing was measured"])
    distance, variation = routers["distance"], routers["load_cv"]
    lines += [
        f"outputs moved from the dense model: KL divergence {report['kl_divergence']:.3g} nats a token, same first"
        f" choice for {report['same_first_choice']:.1%} of tokens, largest change of a logit"
        f" {report['largest_logit_difference']:.3g} (largest logit {report['largest_logit']:.3g})",
        f"sources over experts: mean distance of gate loads {sum(distance) / len(distance):.3f} (last layer"
        f" {distance[-1]:.3f}), unevenness of load at most {max(variation):.3f}",
    ]
    return "\n".join(lines)


def parse_source(text: str) -> Source:
    """Parse ``NAME=ADAPTER:FILE`` into a source."""
    name, equals, rest = text.partition("=")
    adapter, colon, files = rest.partition(":")
    if not (equals and colon and name and adapter and files):
        raise MoemixError(f"invalid source {text!r}", where="--source", hint="expected NAME=ADAPTER:FILE")
    return Source(name=name, parts=(Part(adapter=adapter, files=(files,)),))


def _make(manifest: ModelManifest, folder: Path) -> Made:
    config, model = manifest.config, manifest.config.model
    root = Path(manifest.data_root) if manifest.data_root else None
    cache = Store(folder.parent.parent).cache / "tokens"
    if isinstance(model, TinyModel):
        network, tokenizer = random_model(model, config.sources, root)
        if model.pretrain is None:
            return network, tokenizer, {}
        where = folder / "pretrain"
        result = pretrain(network, tokenizer, model, model.pretrain, root=root, cache=cache, folder=where)
        return network, tokenizer, {"pretrain": result.model_dump(mode="json")}
    if isinstance(model, CheckpointModel):
        loaded, tokenizer = load_checkpoint(model.source, model.revision, dtype="auto")
        if model.chat_template is not None:
            tokenizer.chat_template = chat_template(model.chat_template)
            _stop_at_ends(loaded, tokenizer)
        return loaded, tokenizer, {}
    return _from_dense(model, config.sources, root, cache)


def _from_dense(model: UpcycledModel | SplitModel, sources: tuple[Source, ...], root: Path | None, cache: Path) -> Made:
    dense, tokenizer = load_checkpoint(model.source, model.revision)
    if model.chat_template is not None:
        tokenizer.chat_template = chat_template(model.chat_template)
    length = _ROUTER_MAX_LENGTH
    loaded = load_sources(sources, tokenizer=tokenizer, max_length=length, seed=model.seed, root=root, cache=cache)
    if isinstance(model, SplitModel):
        moe, report = split(dense, tokenizer, model, loaded)
    else:
        moe, report = upcycle(dense, tokenizer, model, loaded)
    if model.chat_template is not None:
        _stop_at_ends(moe, tokenizer)
    return moe, tokenizer, report


def _stop_at_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let generation end where the chat template ends the assistant's turn, besides where it ended before."""
    config = model.generation_config
    if config is None:
        return
    given = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
    known = {given} if isinstance(given, int) else set(given or ())
    if not (ends := Encoder(tokenizer).template.end_tokens) <= known:
        config.eos_token_id = sorted(known | ends)


def _size(model: PreTrainedModel) -> dict[str, int]:
    """Return the number of parameters, and of MoE layers and experts where they can be observed."""
    size = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    try:
        observer = RouterObserver(model)
    except MoemixError:
        return size
    return {**size, "moe_layers": observer.num_layers, "experts": observer.num_experts}


def _save(made: Made, folder: Path, report: Report | None = None) -> None:
    with whole_directory(folder) as target:
        made[0].save_pretrained(target)
        made[1].save_pretrained(target)
        if report is not None:
            write_json(target / REPORT, report)


def _update(path: Path, **changes: object) -> None:
    ModelManifest.read(path).model_copy(update=changes).write(path)
