"""Making a submission: evaluate what the board pins and is missing, gather the files, place them for review.

The evaluation is a stage of its own, so it runs as a process (``moemix eval``); this package only reads what it leaves.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoint_argument import checkpoint_name
from harness.errors import MoemixError, StageFailed
from harness.files import hash_file, hash_value, read_json, whole_directory
from harness.provenance import now, provenance
from harness.records import EvalSummary, ModelManifest, RunManifest
from harness.store import Run, checkpoint_hash
from harness.submissions import Board, FileEntry, PinnedSuite, Submission
from leaderboards.board.folder import SUBMISSION, BoardFolder, SubmissionFolder, is_member
from leaderboards.board.pins import fits, pin, suite_argument

_TRACE = ("run.json", "mixture.jsonl", "metrics.jsonl")


@dataclass(frozen=True)
class Engine:
    """How missing evaluations are run; the arguments of ``moemix eval``."""

    name: str = "transformers"
    dtype: str = "float32"
    data_root: str | None = None


@dataclass(frozen=True)
class Source:
    """What is submitted: a run of ours, or a checkpoint from anywhere.

    Attributes:
        run: None for a checkpoint that is in no run folder.
        evaluations: folders that may hold finished evaluations.
    """

    checkpoint: Path
    fingerprint: str
    run: Run | None
    evaluations: tuple[Path, ...]


def open_source(path: Path) -> Source:
    """A run folder or a checkpoint.

    Raises:
        MoemixError: neither, or a run that is not trained yet.
    """
    path = path.resolve()
    if path.name == "checkpoint" and (path.parent / "run.json").is_file():
        path = path.parent
    if (path / "run.json").is_file():
        run = Run(path)
        if not run.trained:
            raise MoemixError("the run is not trained yet", where=str(path), hint="`moemix bench` finishes it")
        held = [path / "evals", *sorted((path / "evals").glob("*"))] if (path / "evals").is_dir() else []
        return Source(run.checkpoint, checkpoint_hash(run.checkpoint), run, tuple(held))
    if (path / "config.json").is_file():
        return Source(path, checkpoint_hash(path), None, ())
    raise MoemixError(
        "neither a run nor a checkpoint: there is no run.json and no config.json", where=str(path),
        hint="give a run's folder, or a folder that transformers' `from_pretrained` loads",
    )  # fmt: skip


def local_data(folder: Path) -> str | None:
    """The data root that a run (or a submission's copy of its manifest) was made with, if it is on this machine."""
    if not (folder / "run.json").is_file():
        return None
    root = RunManifest.read(folder / "run.json").data_root
    return root if root and Path(root).is_dir() else None


def open_board(path: Path, source: Source) -> BoardFolder:
    """The board at ``path``. A new folder becomes one that pins the run's own evaluations, and that is said."""
    if (path / "board.yaml").is_file() or (path.is_dir() and any(path.iterdir())):
        return BoardFolder(path)
    finished = [folder for folder in source.evaluations if _summary(folder, source) is not None]
    if not finished:
        raise MoemixError(
            "there is no board, and no finished evaluation of this checkpoint to start one with", where=str(path),
            hint="`moemix board init DIR --pin EVALUATION` makes a board",
        )  # fmt: skip
    name = path.name if is_member(f"judge/{path.name}/x.json") else "board"
    suites = tuple(pin(folder) for folder in finished)
    print(f"{path}: a new board, pinned to {', '.join(suite.key for suite in suites)}", file=sys.stderr)
    return BoardFolder.create(path, Board(name=name, title=name, suites=suites))


def evaluate_missing(
    board: BoardFolder, source: Source, suites: Sequence[PinnedSuite], engine: Engine
) -> dict[str, Path]:
    """Suite key → folder of its finished evaluation of this checkpoint; those that are missing are run now.

    An evaluation that was interrupted goes on where it stopped when the same submission is made again.
    """
    found = {}
    for suite in suites:
        held = [folder for folder in source.evaluations if _summary(folder, source, suite) is not None]
        own = board.work / "evals" / source.fingerprint[:16] / f"{suite.key}.{hash_value(vars(engine))[:6]}"
        if not held and _summary(own, source, suite) is None:
            _evaluate(board, source, suite, engine, own)
        found[suite.key] = held[0] if held else own
        summary = EvalSummary.read(found[suite.key] / "summary.json")
        problem = fits(summary, suite)
        if problem:
            raise MoemixError(
                f"this installation evaluates another {suite.suite}: {problem}", where=str(board.path / "board.yaml"),
                hint=f"the suite was pinned with moemix {suite.moemix}; submit with that version",
            )  # fmt: skip
    return found


def _summary(folder: Path, source: Source, suite: PinnedSuite | None = None) -> EvalSummary | None:
    """A finished evaluation of this checkpoint (and of this suite version)."""
    if not (folder / "summary.json").is_file():
        return None
    summary = EvalSummary.read(folder / "summary.json")
    if summary.checkpoint_hash != source.fingerprint or (suite is not None and fits(summary, suite)):
        return None
    return summary


def _evaluate(board: BoardFolder, source: Source, suite: PinnedSuite, engine: Engine, out: Path) -> None:
    command = [
        "eval", str(source.checkpoint), "--suite", suite_argument(board, suite), "--engine", engine.name,
        "--dtype", engine.dtype, "--seed", str(suite.seed), "--out", str(out),
    ]  # fmt: skip
    command += ["--tasks", ",".join(suite.only)] if suite.only else []
    command += ["--limit", str(suite.limit)] if suite.limit else []
    root = engine.data_root or (local_data(source.run.folder) if source.run else None)
    command += ["--data-root", root] if root else []
    print(f"{suite.key}: evaluating {source.checkpoint}", file=sys.stderr, flush=True)
    process = subprocess.run((sys.executable, "-m", "harness.cli", *command), stdout=sys.stderr, check=False)
    if process.returncode:
        raise StageFailed(
            f"the evaluation on {suite.key} failed", where=str(out), hint="run the same command again: it goes on"
        )


def place(
    board: BoardFolder, source: Source, evaluations: dict[str, Path], *, model: str | None, **stated: Any
) -> SubmissionFolder:
    """Gather a submission and put it where it will be reviewed. The same content has one id, so it lies there once.

    Args:
        model: its name on the board; by default what it was trained as.
        stated: fields of :class:`Submission` that only the submitter knows.
    """
    known = {**_trained(source), **_architecture(source.checkpoint)}
    name = model or known.pop("model", None) or checkpoint_name(source.checkpoint)
    known.pop("model", None)
    scratch = board.work / "bundle"
    with whole_directory(scratch) as folder:
        _gather(folder, source, evaluations)
        files = {
            path.relative_to(folder).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=hash_file(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        submission = Submission.model_validate(
            {
                "submission_id": "0" * 12, "model": name, "checkpoint_hash": source.fingerprint, **known,
                "suites": list(evaluations), "files": files, "created": now(), "provenance": provenance(),
                **{key: value for key, value in stated.items() if value not in (None, "", {})},
            }
        )  # fmt: skip
        submission = submission.model_copy(update={"submission_id": submission.content_id})
        submission.write(folder / SUBMISSION)
    where = SubmissionFolder(
        submission.model, submission.submission_id,
        board.path / "submissions" / submission.model / submission.submission_id,
    )  # fmt: skip
    if (where.path / SUBMISSION).is_file():
        print(f"{where.label}: submitted already; only what is stated about it is taken anew", file=sys.stderr)
        old = where.read()
        submission.model_copy(update={"created": old.created, "provenance": old.provenance}).write(
            where.path / SUBMISSION
        )
        shutil.rmtree(scratch)
    else:
        where.path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch, where.path)
    return where


def _gather(folder: Path, source: Source, evaluations: dict[str, Path]) -> None:
    """Copy what belongs to a submission: never weights, states or logs."""
    for key, held in evaluations.items():
        for path in sorted(held.iterdir()):
            _copy(path, folder, f"evals/{key}/{path.name}")
    if source.run is None:
        return
    for name in _TRACE:
        _copy(source.run.folder / name, folder, name)
    _copy(source.run.folder / "contamination.json", folder, "contamination.json")
    for path in sorted((source.run.folder / "judge").glob("*/*")):
        _copy(path, folder, f"judge/{path.parent.name}/{path.name}")


def _copy(path: Path, folder: Path, name: str) -> None:
    if path.is_file() and is_member(name):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _trained(source: Source) -> dict[str, Any]:
    """What a run says about itself."""
    if source.run is None:
        return {}
    manifest: RunManifest = source.run.manifest
    base = source.run.store / manifest.base_checkpoint
    made = base.parent / "model.json"
    model = ModelManifest.read(made).config.model if made.is_file() else None
    label = manifest.config.strategy.label
    return {
        "model": _name(f"{model.name if model else manifest.config.model_id}-{label}"),
        "strategy": label,
        "seed": manifest.config.seed,
        "base_model": manifest.config.model_id,
        "recipe": manifest.recipe,
        "run_id": manifest.run_id,
    }


def _name(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in text)[:80].lstrip("._+-")


def _architecture(checkpoint: Path) -> dict[str, Any]:
    """Architecture and number of parameters, from ``config.json`` and the headers of the safetensors files."""
    config = read_json(checkpoint / "config.json")
    names = config.get("architectures") or [config.get("model_type")]
    total = routed = 0
    for path in sorted(checkpoint.glob("*.safetensors")):
        for name, shape in _tensors(path).items():
            size = 1
            for side in shape:
                size *= side
            total += size
            routed += size if ".experts." in name else 0
    experts = next((config[k] for k in ("num_local_experts", "num_experts", "n_routed_experts") if config.get(k)), None)
    used = next((config[k] for k in ("num_experts_per_tok", "num_selects", "moe_top_k") if config.get(k)), None)
    active = total - routed + routed * used // experts if routed and experts and used else None
    return {"architecture": names[0], "parameters": total or None, "active_parameters": active}


def _tensors(path: Path) -> dict[str, list[int]]:
    """Tensor → shape, from a safetensors header."""
    import json

    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, 1 << 26)))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
