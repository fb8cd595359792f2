"""The run store: one folder per run and per made model, whole files only, one writer at a time.

<store>/<recipe>/<run_id>/   a run (run.json, mixture.jsonl, metrics.jsonl, state/, checkpoint/, evals/, judge/)
<store>/_models/<model_id>/  a made model (model.json, checkpoint/)
<store>/_contamination/      which suites' questions stand in which sources (`moemix data check`)
<store>/_cache/              tokenised data and generated worlds: safe to delete
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.errors import MoemixError, StageFailed
from harness.execution import Tracking
from harness.files import hash_tree, hash_value, read_json, write_json
from harness.provenance import now, provenance
from harness.records import EvalRequest, EvalSummary, ModelConfig, ModelManifest, RunConfig, RunManifest, Stage

DEFAULT_STORE = "runs"


def store_root(given: str | None = None) -> Path:
    """The store: the argument, else ``MOEMIX_STORE``, else ``runs/`` here."""
    return Path(given or os.environ.get("MOEMIX_STORE") or DEFAULT_STORE).resolve()


def data_root(given: str | None = None) -> Path | None:
    """The folder of local data: the argument, else ``MOEMIX_DATA_ROOT``, else none."""
    name = given or os.environ.get("MOEMIX_DATA_ROOT")
    if not name:
        return None
    path = Path(name).resolve()
    if not path.is_dir():
        raise MoemixError("the data root is not a folder", where=name)
    return path


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against other writers; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StageFailed(
            "another process is working on this", where=str(folder), hint="wait for it, or stop it first"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Run:
    """A run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def manifest_path(self) -> Path:
        return self.folder / "run.json"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def mixture(self) -> Path:
        return self.folder / "mixture.jsonl"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def store(self) -> Path:
        """The store this run lies in: recipe names may hold slashes, so the manifest says how deep."""
        return self.folder.parents[len(Path(self.manifest.recipe).parts)]

    @property
    def manifest(self) -> RunManifest:
        return RunManifest.read(self.manifest_path)

    def update(self, **changes: object) -> RunManifest:
        """Replace fields of the manifest, as a whole."""
        manifest = self.manifest.model_copy(update=changes)
        manifest.write(self.manifest_path)
        return manifest

    @property
    def trained(self) -> bool:
        return self.manifest_path.is_file() and self.manifest.stages["train"].status == "done"

    def eval_folder(self, request: EvalRequest) -> Path:
        """Where this evaluation lies or may go: the suite's name, unless another request already has that folder."""
        plain = self.folder / "evals" / Path(request.suite).stem
        for folder in (plain, plain.with_name(f"{plain.name}.{request.id}")):
            held = eval_request(folder)
            if held is None or held == request:
                return folder
        raise AssertionError("a folder named by the request's hash holds another request")

    def judge_folder(self, bench: str, asked: list[Any]) -> Path:
        """Where a judging lies or may go: the bench's name, unless another judging already has that folder.

        Args:
            asked: the options of its command, and the hash of the bench's content.
        """
        plain, wanted = self.folder / "judge" / Path(bench).stem, _wherever(asked)
        for folder in (plain, plain.with_name(f"{plain.name}.{hash_value(wanted)[:12]}")):
            free = not (folder / "stage.json").is_file() and not (folder / "request.json").is_file()
            if free or ((folder / "stage.json").is_file() and _wherever(read_json(folder / "stage.json")) == wanted):
                return folder
        raise AssertionError("a folder named by a judging's hash holds another judging")


def _wherever(asked: list[Any]) -> list[Any]:
    """What a judging was asked, wherever the store and the data lie: a store that was moved holds what it held."""
    words, content = asked
    options = dict(zip(words[::2], words[1::2], strict=True))
    options.pop("--data-root", None)  # the content tells what is there
    if "--judge-checkpoint" in options:
        options["--judge-checkpoint"] = Path(options["--judge-checkpoint"]).parent.name  # the model's id
    return [options, content]


def mark_judging(folder: Path, asked: list[Any]) -> None:
    """Say what a judging's folder is for, before it starts."""
    write_json(folder / "stage.json", asked)


def eval_request(folder: Path) -> EvalRequest | None:
    """The request a folder's evaluation was made for, finished or not; none if the folder is free."""
    if (folder / "summary.json").is_file():
        return EvalSummary.read(folder / "summary.json").request
    if (folder / "request.json").is_file():
        return EvalRequest.model_validate_json((folder / "request.json").read_text())
    return None


@contextmanager
def stage(run: Run, name: str) -> Iterator[None]:
    """Mark a stage running, then done or failed with the reason. Interrupts leave it resumable."""
    started = now()

    def mark(**fields: object) -> None:
        stages = dict(run.manifest.stages)
        stages[name] = Stage.model_validate({"started": started, **fields})
        run.update(stages=stages)

    mark(status="running")
    try:
        yield
    except KeyboardInterrupt:
        mark(status="planned")
        raise
    except BaseException as error:
        mark(status="failed", finished=now(), error=str(error) or type(error).__name__)
        raise
    mark(status="done", finished=now())


class Store:
    """All runs and models under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def cache(self) -> Path:
        return self.root / "_cache"

    def model_folder(self, config: ModelConfig) -> Path:
        return self.root / "_models" / config.id

    def run(self, recipe: str, config: RunConfig) -> Run:
        return Run(self.root / recipe / config.id)

    def contamination_path(self, suite_hash: str, fingerprint: str) -> Path:
        """Where the record of a suite's questions in a source lies, if the two were compared."""
        return self.root / "_contamination" / f"{hash_value([suite_hash, fingerprint])[:24]}.json"

    def create_run(
        self,
        recipe: str,
        config: RunConfig,
        base_checkpoint: Path,
        reference: Run | None,
        data_root: str | None,
        tracking: Tracking | None = None,
    ) -> Run:
        """The run's folder with its manifest; an existing one is kept (its config has the same hash), but for where
        its data lie now and who is told of it."""
        surroundings = {"data_root": data_root, "tracking": tracking or Tracking()}
        run = self.run(recipe, config)
        with exclusive(run.folder):
            if not run.manifest_path.is_file():
                RunManifest(
                    run_id=config.id,
                    recipe=recipe,
                    config=config,
                    base_checkpoint=os.path.relpath(base_checkpoint, self.root),
                    reference_run=os.path.relpath(reference.folder, self.root) if reference else None,
                    provenance=provenance(),
                    **surroundings,
                ).write(run.manifest_path)
            elif any(getattr(run.manifest, name) != value for name, value in surroundings.items()):
                run.update(**surroundings)
        return run

    def create_model(self, config: ModelConfig, data_root: str | None) -> Path:
        """The model's folder with its manifest; an existing one is kept."""
        folder = self.model_folder(config)
        with exclusive(folder):
            if not (folder / "model.json").is_file():
                ModelManifest(model_id=config.id, config=config, data_root=data_root, provenance=provenance()).write(
                    folder / "model.json"
                )
        return folder


def checkpoint_hash(folder: Path) -> str:
    """What a checkpoint is: its weights, configuration and tokenizer, not when or where it was written."""
    if not (folder / "config.json").is_file():
        raise MoemixError("not a checkpoint: there is no config.json", where=str(folder))
    return hash_value({p: hash_tree(folder, p) for p in ("*.safetensors", "*.json", "*.jinja", "*.model")})
