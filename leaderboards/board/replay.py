"""Replay a submission: the checkpoint answers some questions again, and its answers are compared with the submitted.

The verifier draws the questions, so that nobody knows them beforehand. The evaluation runs as a process of its own
(``moemix eval --questions``) and builds the prompts itself, so a changed prompt is found too.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import MoemixError
from harness.files import write_json
from harness.records import EvalRequest, EvalSummary
from harness.samples import FIELDS, Sample, parse_samples
from harness.schema import parse
from harness.store import checkpoint_hash
from leaderboards.board.folder import BoardFolder
from leaderboards.board.pins import Engine, evaluate, local_data
from leaderboards.board.submissions import Outcome, PinnedSuite, Submission, Verdict
from leaderboards.board.untrusted import read_lines, read_record
from leaderboards.board.verify import Checked

CLOSE = {"float32": 0.05}  # allowed difference of log-likelihoods; other precisions differ more between machines
CLOSE_OTHERWISE = 0.5
ALLOWED = {"float32": 0.1}  # share of the questions that may differ before a submission fails
ALLOWED_OTHERWISE = 0.5  # greedy texts in bfloat16 agree between engines in about 6 of 10 cases

Samples = dict[int, dict[str, Sample]]  # question → filter → sample


@dataclass(frozen=True)
class Replay:
    """How submissions are replayed.

    Attributes:
        count: how many questions of each suite are drawn.
        checkpoints: folders in which a submission's checkpoint is searched, by its hash.
        engine: replaces the submission's engine; required where that was the address of a server.
        seed: seed of the draw; None for an unpredictable one.
        data_root: folder of local benchmark files.
    """

    count: int
    checkpoints: Sequence[Path] = ()
    engine: Engine | None = None
    seed: int | None = None
    data_root: str | None = None


@dataclass
class _Result:
    """What replaying found, over all suites of a submission."""

    asked: int = 0
    differing: list[str] = field(default_factory=list)
    changed_prompts: list[str] = field(default_factory=list)


def replay(board: BoardFolder, checked: Checked, options: Replay) -> Verdict:
    """Ask random questions of a submission again. What prevents a replay is a verdict, too."""
    outcome, detail = _replay(board, checked, options)
    return Verdict(submission=checked.label, check="replay", verdict=outcome, detail=detail)


def _replay(board: BoardFolder, checked: Checked, options: Replay) -> tuple[Outcome, str]:
    submission = checked.submission
    if submission is None or checked.failed:
        return "skip", "not done, because another check fails"
    folder = board.path / "submissions" / checked.label
    summaries = {key: _summary(folder / "evals" / key) for key in submission.suites}
    checkpoint = _find_checkpoint(submission, summaries, options.checkpoints)
    if checkpoint is None:
        return "skip", f"the checkpoint {submission.checkpoint_hash[:12]} was not found; give --checkpoint DIR"
    generator = random.Random(options.seed) if options.seed is not None else random.SystemRandom()
    result = _Result()
    for key, summary in summaries.items():
        try:
            engine = options.engine or _submitted_engine(summary.request, folder, options.data_root)
            _replay_suite(board, board.suite(key), folder / "evals" / key, checkpoint, engine, generator,
                          options.count, result)  # fmt: skip
        except MoemixError as error:
            return "warn", str(error).replace("\n  ", "; ")
    if result.changed_prompts:
        return "fail", (f"{len(result.changed_prompts)} of {result.asked} prompts are not the suite's: "
                        f"{'; '.join(result.changed_prompts[:3])}")  # fmt: skip
    if not result.differing:
        return "pass", f"the checkpoint gave the submitted answers to {result.asked} questions"
    allowed = ALLOWED.get(next(iter(summaries.values())).request.dtype, ALLOWED_OTHERWISE)
    outcome: Outcome = "fail" if len(result.differing) > allowed * result.asked else "warn"
    return outcome, (f"{len(result.differing)} of {result.asked} answers differ from the submitted ones "
                     f"({allowed:.0%} may): {'; '.join(result.differing[:3])}")  # fmt: skip


def _summary(folder: Path) -> EvalSummary:
    return parse(EvalSummary, read_record(folder / "summary.json"), where=str(folder / "summary.json"))


def _find_checkpoint(
    submission: Submission, summaries: Mapping[str, EvalSummary], folders: Sequence[Path]
) -> Path | None:
    """Find the checkpoint by its hash; the submitter's own machine still has it where the evaluation found it."""
    for folder in [*folders, *(Path(summary.checkpoint) for summary in summaries.values())]:
        inner = folder / "checkpoint" if (folder / "checkpoint" / "config.json").is_file() else folder
        if (inner / "config.json").is_file() and checkpoint_hash(inner) == submission.checkpoint_hash:
            return inner
    return None


def _submitted_engine(request: EvalRequest, folder: Path, data_root: str | None) -> Engine:
    if "://" in request.engine:
        raise MoemixError("the submission was evaluated through a server", hint="give --engine")
    return Engine(request.engine, request.dtype, data_root or local_data(folder))


def _replay_suite(
    board: BoardFolder, suite: PinnedSuite, folder: Path, checkpoint: Path, engine: Engine,
    generator: random.Random, count: int, result: _Result,
) -> None:  # fmt: skip
    """Ask questions of one suite again and add to ``result``."""
    submitted = {task: _samples(folder / f"samples_{task}.jsonl") for task in suite.tasks}
    every = [(task, number) for task, samples in submitted.items() for number in sorted(samples)]
    drawn = sorted(generator.sample(every, min(count, len(every))))
    result.asked += len(drawn)
    questions: dict[str, list[int]] = {}
    for task, number in drawn:
        questions.setdefault(task, []).append(number)
    with tempfile.TemporaryDirectory(prefix="moemix-replay-") as scratch:
        out, file = Path(scratch) / "out", Path(scratch) / "questions.json"
        write_json(file, questions)
        evaluate(board, suite, checkpoint, engine, out, ("--questions", str(file), "--no-cache"))
        replayed = {task: _samples(out / f"samples_{task}.jsonl") for task in questions}
    close = CLOSE.get(engine.dtype, CLOSE_OTHERWISE)
    for task, number in drawn:
        ours, theirs = replayed[task].get(number), submitted[task][number]
        if ours is None or _prompts(ours) != _prompts(theirs):
            result.changed_prompts.append(f"question {number} of {task}")
        elif not _same_answers(ours, theirs, close):
            result.differing.append(f"question {number} of {task}")


def _samples(path: Path) -> Samples:
    samples: Samples = {}
    for sample in parse_samples(read_lines(path), required=FIELDS):
        samples.setdefault(sample.doc_id, {})[sample.filter] = sample
    return samples


def _prompts(samples: Mapping[str, Sample]) -> list[list[list[object]]]:
    return [sample.requests for sample in samples.values()]


def _same_answers(ours: Mapping[str, Sample], theirs: Mapping[str, Sample], close: float) -> bool:
    """Return whether responses (log-likelihoods up to ``close``) and scores agree; executed code by its scores too."""
    for name, sample in ours.items():
        other = theirs.get(name)
        if other is None or any(sample.field(metric) != other.record.get(metric) for metric in sample.metrics):
            return False
        responses = sample.responses
        generated = isinstance(responses, list) and isinstance(responses[0][0], str)
        if not _same(responses, other.responses, 0.0 if generated else close):
            return False
    return True


def _same(ours: object, theirs: object, close: float) -> bool:
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(_same(a, b, close) for a, b in zip(ours, theirs, strict=True))
    if ours == theirs or close == 0.0:
        return ours == theirs
    flags = ("True", "False")  # of greedy decoding; they flip with rounding
    if ours in flags or theirs in flags:
        return ours in flags and theirs in flags
    try:
        return math.isclose(float(str(ours)), float(str(theirs)), abs_tol=close) and math.isfinite(float(str(ours)))
    except ValueError:
        return False
