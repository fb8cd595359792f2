"""Make a submission: run the missing evaluations, gather the files, and put them into the board's folder."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from harness.checkpoint_argument import checkpoint_name
from harness.errors import MoemixError
from harness.files import hash_file, hash_value, read_json, whole_directory
from harness.provenance import now, provenance
from harness.records import EvalSummary, ModelManifest
from harness.store import Run, checkpoint_hash
from leaderboards.board.folder import SUBMISSION, BoardFolder, SubmissionFolder, is_member, is_name
from leaderboards.board.origins import fingerprint, git, history, sign
from leaderboards.board.pins import Engine, evaluate, local_data, mismatch, pin
from leaderboards.board.submissions import Board, FileEntry, PinnedSuite, Submission

logger = logging.getLogger("moemix.leaderboards")
_RUN_FILES = ("run.json", "mixture.jsonl", "metrics.jsonl", "contamination.json")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # names of configuration keys, by architecture
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_selects", "moe_top_k")


@dataclass(frozen=True)
class Source:
    """A run or a checkpoint that is submitted.

    Attributes:
        run: None for a checkpoint outside a run folder.
        evaluations: folders that may hold finished evaluations.
    """

    checkpoint: Path
    checkpoint_hash: str
    run: Run | None
    evaluations: tuple[Path, ...]


def open_source(path: Path) -> Source:
    """Open a run folder or a checkpoint.

    Raises:
        MoemixError: the path is neither, or the run has not been trained yet.
    """
    path = path.resolve()
    if path.name == "checkpoint" and (path.parent / "run.json").is_file():
        path = path.parent
    if (path / "run.json").is_file():
        run = Run(path)
        if not run.trained:
            raise MoemixError("the run has not been trained yet", where=str(path), hint="`moemix bench` finishes it")
        evaluations = [path / "evals", *sorted((path / "evals").glob("*"))] if (path / "evals").is_dir() else []
        return Source(run.checkpoint, checkpoint_hash(run.checkpoint), run, tuple(evaluations))
    if (path / "config.json").is_file():
        return Source(path, checkpoint_hash(path), None, ())
    raise MoemixError(
        "neither a run nor a checkpoint: there is no run.json and no config.json", where=str(path),
        hint="give a run's folder, or a folder that transformers' `from_pretrained` loads",
    )  # fmt: skip


def open_board(path: Path, source: Source) -> BoardFolder:
    """Open the board at ``path``. A new or empty folder becomes a board that pins the run's own evaluations.

    Raises:
        MoemixError: the folder holds something else, or there is no finished evaluation to pin.
    """
    if (path / "board.yaml").is_file() or (path.is_dir() and any(path.iterdir())):
        return BoardFolder(path)
    finished = [folder for folder in source.evaluations if _is_finished(folder, source)]
    if not finished:
        raise MoemixError(
            "there is no board here, and this checkpoint has no finished evaluation to start one with", where=str(path),
            hint="make a board with `moemix board init DIR --pin EVALUATION`",
        )  # fmt: skip
    name = path.name if is_name(path.name) else "board"
    suites = tuple(pin(folder) for folder in finished)
    logger.info("%s: a new board, pinned to %s", path, ", ".join(suite.key for suite in suites))
    return BoardFolder.create(path, Board(name=name, title=name, suites=suites))


def evaluate_missing(
    board: BoardFolder, source: Source, suites: Sequence[PinnedSuite], engine: Engine
) -> dict[str, Path]:
    """Return, by suite key, the folder of the finished evaluation of this checkpoint. Missing ones are run now.

    Raises:
        MoemixError: an evaluation failed, or this installation evaluates the suite otherwise than the board pins it.
    """
    folders = {}
    if source.run and not engine.data_root:
        engine = replace(engine, data_root=local_data(source.run.folder))
    for suite in suites:
        own = board.work / "evals" / source.checkpoint_hash[:16] / f"{suite.key}.{hash_value(vars(engine))[:6]}"
        candidates = (folder for folder in (*source.evaluations, own) if _is_finished(folder, source, suite))
        folder = next(candidates, None)
        if folder is None:
            folder = own
            selection = ["--tasks", ",".join(suite.only)] if suite.only else []
            selection += ["--limit", str(suite.limit)] if suite.limit else []
            evaluate(board, suite, source.checkpoint, engine, own, selection)
        problem = mismatch(EvalSummary.read(folder / "summary.json"), suite)
        if problem:
            raise MoemixError(
                f"this installation evaluates {suite.suite} otherwise than the board: {problem}",
                where=str(board.path / "board.yaml"),
                hint=f"the suite was pinned with moemix {suite.moemix}; submit with that version",
            )
        folders[suite.key] = folder
    return folders


def _is_finished(folder: Path, source: Source, suite: PinnedSuite | None = None) -> bool:
    """Return whether a folder holds a finished evaluation of this checkpoint (and of this suite version)."""
    if not (folder / "summary.json").is_file():
        return False
    summary = EvalSummary.read(folder / "summary.json")
    return summary.checkpoint_hash == source.checkpoint_hash and (suite is None or mismatch(summary, suite) is None)


def place(
    board: BoardFolder, source: Source, evaluations: Mapping[str, Path], model: str | None,
    stated: Mapping[str, object], key: Path | None = None,
) -> SubmissionFolder:  # fmt: skip
    """Gather a submission in the board's folder. The same answers and statements are never there twice.

    Other statements about the same answers replace a submission that is not committed yet, and supersede one that is.
    ``evaluations`` has a folder for each suite key, ``stated`` the fields of :class:`Submission` that only the
    submitter knows; ``model`` is by default the name that the model was trained as, and the SSH key signs the
    submission.
    """
    known = {"model": checkpoint_name(source.checkpoint), **_from_run(source), **read_checkpoint(source.checkpoint)}
    known |= {"model": model} if model else {}
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
                "submission_id": "0" * 12, "identity": "everything", "checkpoint_hash": source.checkpoint_hash, **known,
                "suites": list(evaluations), "files": files, "created": now(), "provenance": provenance(),
                **{key: value for key, value in stated.items() if value not in (None, "", {})},
            }
        )  # fmt: skip
        old = _same_answers(board, submission)
        same = old is not None and _statements(old.read(), submission) == _statements(submission, submission)
        committed = old is not None and old.label in history(board).arrived
        if old is not None and committed and not submission.supersedes:
            submission = submission.model_copy(update={"supersedes": old.name})
        submission = submission.model_copy(update={"submission_id": submission.content_id})
        submission.write(folder / SUBMISSION)
        if key is not None:
            sign(folder / SUBMISSION, key)
    if old is not None and same:
        shutil.rmtree(scratch)
        logger.info("%s: already submitted", old.label)
        return old
    if old is not None and not committed:
        shutil.rmtree(old.path)
    path = board.path / "submissions" / submission.model / submission.submission_id
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(scratch, path)
    return SubmissionFolder(submission.model, submission.submission_id, path)


def _same_answers(board: BoardFolder, submission: Submission) -> SubmissionFolder | None:
    """Return the newest submission with the same files under the same name."""
    found = None
    for where in board.submissions():
        if where.model == submission.model and (where.path / SUBMISSION).is_file():
            other = where.read()
            names = ("files", "checkpoint_hash", "owner")
            same = all(getattr(other, name) == getattr(submission, name) for name in names)
            if same and (found is None or other.supersedes == found.name):
                found = where
    return found


def _statements(one: Submission, new: Submission) -> dict[str, object]:
    """Return what a submission states about itself; a replaced submission only if the new one names any."""
    left_out = {"submission_id", "identity", "created", "provenance"}
    return one.model_dump(exclude=left_out if new.supersedes else left_out | {"supersedes"})


def owner_of(board: BoardFolder, owner: str | None, key: Path | None) -> str | None:
    """Return who owns a new submission, by the board's rule.

    Raises:
        MoemixError: the rule demands a login or a key, and none is known.
    """
    rule = board.board.rules.owners
    if key is not None:
        return fingerprint(key)
    if rule == "ssh":
        raise MoemixError("this board wants signed submissions", where=str(board.path), hint="give --sign SSH_KEY")
    if owner is None and rule == "login":
        try:
            owner = git(board.path, "config", "github.user").decode().strip()
        except MoemixError:
            raise MoemixError("this board wants to know your login at the repository's host", where=str(board.path),
                              hint="give --owner LOGIN, the account that opens the pull request") from None  # fmt: skip
    return owner


def commit(board: BoardFolder, where: SubmissionFolder, what: str) -> str:
    """Commit a submission's folder on a branch of its own, and return the branch's name.

    Raises:
        MoemixError: the board is in no git repository, or git refuses.
    """
    branch = f"{what}-{where.model}-{where.name}"
    git(board.path, "switch", "--create", branch)
    git(board.path, "add", "--", f"submissions/{where.label}")
    git(board.path, "commit", "--message", f"{what.capitalize()} {where.label}", "--", f"submissions/{where.label}")
    return branch


def _gather(folder: Path, source: Source, evaluations: Mapping[str, Path]) -> None:
    """Copy the files of a submission; never weights, states or logs."""
    copies = {f"evals/{key}/{path.name}": path for key, held in evaluations.items() for path in held.iterdir()}
    if source.run is not None:
        copies |= {name: source.run.folder / name for name in _RUN_FILES}
        judgings = (source.run.folder / "judge").glob("*/*")
        copies |= {f"judge/{path.parent.name}/{path.name}": path for path in judgings}
    for name, path in sorted(copies.items()):
        if path.is_file() and is_member(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


def _from_run(source: Source) -> dict[str, object]:
    """Return what a run's manifest says about the checkpoint."""
    if source.run is None:
        return {}
    manifest = source.run.manifest
    model_file = (source.run.store / manifest.base_checkpoint).parent / "model.json"
    base = ModelManifest.read(model_file).config.model.name if model_file.is_file() else manifest.config.model_id
    label = manifest.config.strategy.label
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in f"{base}-{label}")
    return {
        "model": name[:80].lstrip("._+-"),
        "strategy": label,
        "seed": manifest.config.seed,
        "base_model": manifest.config.model_id,
        "recipe": manifest.recipe,
        "run_id": manifest.run_id,
    }


def read_checkpoint(checkpoint: Path) -> dict[str, object]:
    """Return architecture and parameter counts, from ``config.json`` and the headers of the safetensors files."""
    config = read_json(checkpoint / "config.json")
    architectures = config.get("architectures") or [config.get("model_type")]
    total = routed = 0
    for path in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  (no iterator)
        except SafetensorError as error:
            raise MoemixError(f"not a valid safetensors file: {error}", where=str(path)) from None
        total += sum(map(math.prod, shapes.values()))
        routed += sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    experts = next((config[key] for key in _EXPERTS if config.get(key)), None)
    per_token = next((config[key] for key in _EXPERTS_PER_TOKEN if config.get(key)), None)
    active = total - routed + routed * per_token // experts if routed and experts and per_token else None
    return {"architecture": architectures[0], "parameters": total or None, "active_parameters": active}
