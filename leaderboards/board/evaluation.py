"""Run ``moemix eval`` for a board, in a process of its own: this package only reads what an evaluation leaves."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StageFailed
from harness.launch import run_moemix
from harness.recipe_file import parse
from harness.records import RunManifest
from harness.submissions import PinnedSuite
from leaderboards.board.folder import BoardFolder
from leaderboards.board.untrusted import read_record

logger = logging.getLogger("moemix.leaderboards")


@dataclass(frozen=True)
class Engine:
    """How an evaluation is run: options of ``moemix eval``."""

    name: str = "transformers"
    dtype: str = "float32"
    data_root: str | None = None


def local_data(folder: Path) -> str | None:
    """Return the data root that a run (or a submission's copy of its manifest) used, if it is on this machine."""
    if not (folder / "run.json").is_file():
        return None
    root = parse(RunManifest, read_record(folder / "run.json"), where=str(folder / "run.json")).data_root
    return root if root and Path(root).is_dir() else None


def evaluate(
    board: BoardFolder, suite: PinnedSuite, checkpoint: Path, engine: Engine, out: Path, extra: Sequence[str] = ()
) -> None:
    """Evaluate a checkpoint on a pinned suite. An evaluation that was interrupted resumes.

    Args:
        board: its folder may hold the suite's own file.
        suite: what to evaluate; its selection of tasks and its limit are in ``extra`` where they apply.
        checkpoint: a folder that transformers loads.
        engine: what answers.
        out: the folder for results, samples and summary.
        extra: further options of ``moemix eval``.

    Raises:
        StageFailed: the evaluation failed; its own messages are on standard error.
    """
    own = board.path / suite.suite
    name = os.fspath(own.resolve()) if suite.suite.endswith((".yaml", ".yml")) and own.is_file() else suite.suite
    command = [
        "eval", str(checkpoint), "--suite", name, "--engine", engine.name, "--dtype", engine.dtype,
        "--seed", str(suite.seed), "--out", str(out), *extra,
    ]  # fmt: skip
    command += ["--data-root", engine.data_root] if engine.data_root else []
    logger.info("%s: evaluating %s", suite.key, checkpoint)
    if run_moemix(*command):
        raise StageFailed(f"the evaluation on {suite.key} failed; its messages are above", where=str(out),
                          hint="fix the cause and run the same command again")  # fmt: skip
