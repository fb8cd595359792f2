"""The run store: one folder for each run and each made model, complete files only, one writer at a time.

<store>/<recipe>/<run_id>/   a run (run.json, mixture.jsonl, metrics.jsonl, held_out.jsonl, state/, checkpoint/,
                             adapter/, evals/, judge/)
<store>/_models/<model_id>/  a made model (model.json, checkpoint/)
<store>/_contamination/      which suites' questions are in which sources (`moemix data check`)
<store>/_cache/              tokenised data and generated worlds: safe to delete
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from harness.errors import MoemixError, StageError
from harness.files import hash_tree, hash_value
from harness.judging import JudgeConfig
from harness.provenance import now, provenance
from harness.records import EvalRequest, HeldOutLosses, ModelConfig, ModelManifest, RunConfig, RunManifest, Stage
from harness.requests import ModelJobRequest, TrainJobRequest, eval_request, judge_config
from harness.schema import parse_lines

DEFAULT_STORE = "runs"


def store_root(given: str | None = None) -> Path:
    """Return the folder of the store: the argument, else ``MOEMIX_STORE``, else ``runs/`` here."""
    return Path(given or os.environ.get("MOEMIX_STORE") or DEFAULT_STORE).resolve()


def data_root(given: str | None = None) -> Path | None:
    """Return the folder of local data: the argument, else ``MOEMIX_DATA_ROOT``, else none."""
    name = given or os.environ.get("MOEMIX_DATA_ROOT")
    if not name:
        return None
    path = Path(name).resolve()
    if not path.is_dir():
        raise MoemixError("the data root is not a folder", where=name)
    return path


def data_root_of(checkpoint: Path) -> Path | None:
    """Return the data root that the run of a checkpoint was trained on, if there is a run and the folder exists."""
    if not (checkpoint.resolve().parent / "run.json").is_file():
        return None
    run = Run(checkpoint.resolve().parent)
    given = Path(run.manifest.data_root or "/nonexistent")
    moved = Store(run.store).cache / "worlds" / given.name  # with the whole store
    return next((path for path in (given, moved) if path.is_dir()), None)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder against other writers. The lock ends with the process, however it ends.

    Raises:
        StageError: another process works on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StageError(
            "another process is working on this", where=str(folder), hint="wait for it, or stop it first"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Run:
    """The folder of a run, and the files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest_path = folder / "run.json"
        self.checkpoint = folder / "checkpoint"
        self.mixture = folder / "mixture.jsonl"
        self.metrics = folder / "metrics.jsonl"
        self.held_out = folder / "held_out.jsonl"
        self.state = folder / "state"

    @property
    def store(self) -> Path:
        """Folder of the store. Recipe names may have slashes, so the manifest says how deep the run is."""
        return self.folder.parents[len(Path(self.manifest.recipe).parts)]

    @property
    def manifest(self) -> RunManifest:
        """The manifest as it is now."""
        return RunManifest.read(self.manifest_path)

    def update(self, **changes: object) -> RunManifest:
        """Replace fields of the manifest."""
        manifest = self.manifest.model_copy(update=changes)
        manifest.write(self.manifest_path)
        return manifest

    @property
    def trained(self) -> bool:
        """Whether training is done."""
        return self.manifest_path.is_file() and self.manifest.stages["train"].status == "done"

    def final_losses(self) -> dict[str, HeldOutLosses]:
        """Return the last measurement of each held-out set by its name, in order; empty if none was made.

        Raises:
            MoemixError: with file and line, if a line is not a measurement.
        """
        return dict(sorted({losses.set: losses for losses in parse_lines(HeldOutLosses, self.held_out)}.items()))

    def eval_folder(self, request: EvalRequest) -> Path:
        """Return the folder of this evaluation: the suite's name, unless another request already has that folder."""
        return _folder_of(request, self.folder / "evals" / Path(request.suite).stem, eval_request)

    def judge_folder(self, config: JudgeConfig) -> Path:
        """Return the folder of this judging: the bench's name, unless another judging already has that folder."""
        return _folder_of(config, self.folder / "judge" / Path(config.bench).stem, judge_config)


C = TypeVar("C", EvalRequest, JudgeConfig)


def _folder_of(config: C, plain: Path, read: Callable[[Path], C | None]) -> Path:
    """Return the folder that holds ``config``, or else a free one for it."""
    folders = [plain, *sorted(plain.parent.glob(f"{plain.name}.*"))]
    stored = {folder: read(folder) for folder in folders}
    if config in stored.values():
        return next(folder for folder, present in stored.items() if present == config)
    return plain if stored[plain] is None else plain.with_name(f"{plain.name}.{config.id}")


def run_in(folder: Path) -> Run:
    """Return the run whose manifest lies in a folder.

    Raises:
        MoemixError: there is no manifest.
    """
    if not (folder / "run.json").is_file():
        raise MoemixError("there is no run.json in this folder", where=str(folder), hint="`moemix plan` lists runs")
    return Run(folder.resolve())


def stage(run: Run, name: str) -> AbstractContextManager[None]:
    """Mark a stage of a run running, then done or failed with the reason. Interrupts leave it resumable."""
    return marked(lambda stage: run.update(stages={**run.manifest.stages, name: stage}))


@contextmanager
def marked(mark: Callable[[Stage], object]) -> Iterator[None]:
    """Report a stage to ``mark`` as running, then as done or failed with the reason. Interrupts leave it planned."""
    started = now()
    mark(Stage(status="running", started=started))
    try:
        yield
    except KeyboardInterrupt:
        mark(Stage(started=started))
        raise
    except BaseException as error:
        text = str(error) or type(error).__name__
        mark(Stage(status="failed", started=started, finished=now(), error=text))
        raise
    mark(Stage(status="done", started=started, finished=now()))


class Store:
    """All runs and models under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

        self.cache = root / "_cache"

    def model_folder(self, config: ModelConfig) -> Path:
        """Return the folder of a made model."""
        return self.root / "_models" / config.id

    def judge_tests(self, config: JudgeConfig) -> Path:
        """Return the folder with the tests of a judging's judges; judgings that ask them alike share it."""
        fields = {"judges", "protocol", "temperature", "judge_max_tokens", "dtype", "seed"}
        tree = config.model_dump(mode="json", include=fields)
        tree["judges"] = [judge["name"] for judge in tree["judges"]]
        return self.root / "_judges" / hash_value(tree)[:12]

    def run(self, recipe: str, config: RunConfig) -> Run:
        """Return a run of a recipe, whether or not it exists yet."""
        return Run(self.root / recipe / config.id)

    def contamination_path(self, suite_hash: str, fingerprint: str) -> Path:
        """Return the file of the record of a suite's questions in a source; it exists if they were compared."""
        return self.root / "_contamination" / f"{hash_value([suite_hash, fingerprint])[:24]}.json"


def create_run(request: TrainJobRequest) -> Run:
    """Make the run's folder with its manifest.

    A manifest that exists is kept, because its configuration has the same hash; only the data root and the trackers
    in it are updated.
    """
    run, settings = Run(request.out), {"data_root": _text(request.data_root), "tracking": request.tracking}
    with exclusive(run.folder):
        if not run.manifest_path.is_file():
            root = run.folder.parents[len(Path(request.recipe).parts)]
            RunManifest(
                run_id=request.config.id,
                recipe=request.recipe,
                config=request.config,
                base_checkpoint=os.path.relpath(request.base_checkpoint, root),
                reference_run=os.path.relpath(request.reference_run, root) if request.reference_run else None,
                provenance=provenance(),
                **settings,
            ).write(run.manifest_path)
        elif any(getattr(run.manifest, name) != value for name, value in settings.items()):
            run.update(**settings)
    return run


def create_model(request: ModelJobRequest) -> Path:
    """Make the model's folder with its manifest; a manifest that exists is kept."""
    path = request.out / "model.json"
    with exclusive(request.out):
        if not path.is_file():
            config, root = request.config, _text(request.data_root)
            ModelManifest(model_id=config.id, config=config, data_root=root, provenance=provenance()).write(path)
    return request.out


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def checkpoint_hash(folder: Path) -> str:
    """Return the hash of a checkpoint's weights, configuration and tokenizer."""
    if not (folder / "config.json").is_file():
        raise MoemixError("not a checkpoint: there is no config.json", where=str(folder))
    return hash_value({p: hash_tree(folder, p) for p in ("*.safetensors", "*.json", "*.jinja", "*.model")})
