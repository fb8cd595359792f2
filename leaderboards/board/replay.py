"""Replaying: the checkpoint answers some questions again, and its answers are those that were submitted, or not.

The questions are drawn by the verifier, who is not known beforehand. The evaluation runs as a process of its own
(``moemix eval --questions``), which builds the prompts itself: a doctored prompt shows too.
"""

from __future__ import annotations

import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MoemixError
from harness.files import read_jsonl, write_json
from harness.records import EvalSummary
from harness.store import checkpoint_hash
from harness.submissions import Outcome, PinnedSuite, Verdict
from leaderboards.board.bundle import Engine, local_data
from leaderboards.board.folder import BoardFolder
from leaderboards.board.pins import suite_argument
from leaderboards.board.verify import Checked

CLOSE = {"float32": 0.05}  # between log-likelihoods; other precisions differ more between machines
LOOSE = 0.5
DIFFERING = {"float32": 0.1}  # share of the questions that may differ before a submission fails
LOOSELY = 0.5  # bf16 greedy texts agree in about 6 of 10 cases between engines


@dataclass(frozen=True)
class Replayed:
    """How many questions were asked again, and what differed."""

    asked: int
    differing: tuple[str, ...]
    doctored: tuple[str, ...]


def replay(
    board: BoardFolder,
    checked: Checked,
    count: int,
    checkpoints: Sequence[Path],
    engine: Engine | None,
    seed: int | None,
    data_root: str | None = None,
) -> Verdict:
    """Ask ``count`` random questions of a submission again.

    Args:
        checkpoints: folders to look for the checkpoint in, by its hash; else where the submission says it was.
        engine: another engine than the submission's; needed where that was the address of a server.
        seed: of the draw; unpredictable if None.
    """

    def say(verdict: Outcome, detail: str) -> Verdict:
        return Verdict(submission=checked.label, check="replay", verdict=verdict, detail=detail)

    submission = checked.submission
    if submission is None or checked.failed:
        return say("skip", "the other checks come first")
    checkpoint = _find(submission.checkpoint_hash, [*checkpoints, *_local(board, checked)])
    if checkpoint is None:
        return say("skip", f"no checkpoint {submission.checkpoint_hash[:12]} was given (--checkpoint DIR)")
    generator = random.Random(seed) if seed is not None else random.SystemRandom()
    results = []
    for key in submission.suites:
        folder = board.find(submission.submission_id).path / "evals" / key
        try:
            results.append(
                _replay_suite(board, board.suite(key), folder, checkpoint, count, engine, generator, data_root)
            )
        except MoemixError as error:
            return say("warn", str(error).replace("\n  ", "; "))
    asked = sum(result.asked for result in results)
    doctored = [text for result in results for text in result.doctored]
    differing = [text for result in results for text in result.differing]
    if doctored:
        return say("fail", f"{len(doctored)} of {asked} prompts are not the suite's: {'; '.join(doctored[:3])}")
    if not differing:
        return say("pass", f"{asked} questions were answered as submitted")
    allowed = DIFFERING.get(_summary(board, checked).request.dtype, LOOSELY)
    outcome: Outcome = "fail" if len(differing) > allowed * asked else "warn"
    return say(outcome, f"{len(differing)} of {asked} answers differ from those submitted "
               f"({allowed:.0%} may): {'; '.join(differing[:3])}")  # fmt: skip


def _summary(board: BoardFolder, checked: Checked) -> EvalSummary:
    assert checked.submission is not None
    folder = board.find(checked.submission.submission_id).path / "evals" / checked.submission.suites[0]
    return EvalSummary.read(folder / "summary.json")


def _local(board: BoardFolder, checked: Checked) -> list[Path]:
    """Where the submission says the checkpoint was: the submitter's own machine still has it."""
    return [Path(_summary(board, checked).checkpoint)]


def _find(fingerprint: str, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        inner = folder / "checkpoint" if (folder / "checkpoint" / "config.json").is_file() else folder
        if (inner / "config.json").is_file() and checkpoint_hash(inner) == fingerprint:
            return inner
    return None


def _replay_suite(
    board: BoardFolder, suite: PinnedSuite, folder: Path, checkpoint: Path, count: int, engine: Engine | None,
    generator: random.Random, data_root: str | None,
) -> Replayed:  # fmt: skip
    """Ask again and compare, in one suite."""
    request = EvalSummary.read(folder / "summary.json").request
    submitted = {task: _samples(folder / f"samples_{task}.jsonl") for task in suite.tasks}
    every = [(task, number) for task, samples in submitted.items() for number in sorted(samples)]
    drawn = generator.sample(every, min(count, len(every)))
    chosen: dict[str, list[int]] = {}
    for task, number in sorted(drawn):
        chosen.setdefault(task, []).append(number)
    used = engine or Engine(request.engine, request.dtype, data_root or local_data(folder.parents[1]))
    if engine is None and "://" in request.engine:
        raise MoemixError("it was evaluated through a server of its own", hint="give --engine")
    with tempfile.TemporaryDirectory(prefix="moemix-replay-") as scratch:
        out = Path(scratch) / "out"
        write_json(Path(scratch) / "questions.json", chosen)
        command = [
            "eval", str(checkpoint), "--suite", suite_argument(board, suite), "--engine", used.name,
            "--dtype", used.dtype, "--seed", str(suite.seed), "--questions", str(Path(scratch) / "questions.json"),
            "--no-cache",
            "--out", str(out),
        ]  # fmt: skip
        command += ["--data-root", used.data_root] if used.data_root else []
        process = subprocess.run((sys.executable, "-m", "harness.cli", *command), stdout=sys.stderr, check=False)
        if process.returncode:
            raise MoemixError("the checkpoint could not be evaluated again here", hint="the output above says why")
        again = {task: _samples(out / f"samples_{task}.jsonl") for task in chosen}
    close = CLOSE.get(used.dtype, LOOSE)
    differing, doctored = [], []
    for task, numbers in chosen.items():
        for number in numbers:
            mine, theirs = again[task].get(number), submitted[task][number]
            if mine is None or _prompts(mine) != _prompts(theirs):
                doctored.append(f"question {number} of {task}")
            elif not _alike(mine, theirs, close):
                differing.append(f"question {number} of {task}")
    return Replayed(len(drawn), tuple(differing), tuple(doctored))


def _samples(path: Path) -> dict[int, dict[str, dict[str, Any]]]:
    """Question → filter → sample."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for sample in read_jsonl(path):
        found.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
    return found


def _prompts(samples: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    return [sample["arguments"] for sample in samples.values()]


def _alike(mine: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]], close: float) -> bool:
    """The same responses, log-likelihoods up to ``close``, and the same scores: those of executed code too."""
    for name, sample in mine.items():
        other = theirs.get(name)
        if other is None or any(sample[metric] != other.get(metric) for metric in sample["metrics"]):
            return False
        generated = isinstance(sample["resps"][0][0], str)
        if not _same(sample["resps"], other["resps"], 0.0 if generated else close):
            return False
    return True


def _same(mine: Any, theirs: Any, close: float) -> bool:
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(_same(a, b, close) for a, b in zip(mine, theirs, strict=True))
    if mine == theirs or close == 0.0:
        return bool(mine == theirs)
    try:
        return math.isclose(float(mine), float(theirs), abs_tol=close) and math.isfinite(float(mine))
    except (TypeError, ValueError):
        return mine in ("True", "False") and theirs in ("True", "False")  # greedy flags flip with rounding
