"""Replay a submission: the checkpoint answers some questions again, and its answers are compared with the submitted.

The board says which engine and precision answer, whatever the submission states, and how many questions are enough to
find forged answers (:class:`~leaderboards.board.submissions.PinnedReplay`). The verifier draws them, so that nobody
knows them beforehand. The evaluation runs as a process of its own (``moemix eval --questions``) and builds the prompts
itself, so a changed prompt is found too.

What counts are scores that differ from the submitted ones. Texts may differ between machines, and most such differences
move no score. Log-likelihoods of one checkpoint are close everywhere: if most are not, it is another one.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scipy.stats import binom

from harness.errors import MoemixError
from harness.files import write_json
from harness.provenance import now
from harness.records import EvalSummary
from harness.samples import FIELDS, Sample, parse_samples
from harness.schema import parse
from harness.statistics.columns import Key
from harness.store import checkpoint_hash
from leaderboards.board.bundle import read_checkpoint
from leaderboards.board.checked import Checked
from leaderboards.board.folder import BoardFolder
from leaderboards.board.pins import Engine, evaluate, local_data
from leaderboards.board.standings import suite_shares
from leaderboards.board.submissions import POWER, Outcome, PinnedReplay, ReplayRecord, Submission, Verdict
from leaderboards.board.untrusted import read_lines, read_record
from leaderboards.scores import TOLERANCE

CLOSE, CLOSE_SHARE = 0.5, 0.05  # difference of one checkpoint's log-likelihoods between machines, at most
Samples = dict[int, dict[str, Sample]]  # question → filter → sample


@dataclass(frozen=True)
class Replay:
    """How submissions are replayed.

    Attributes:
        count: how many questions are drawn; 0 for as many as the board pins.
        checkpoints: folders in which a submission's checkpoint is searched, by its hash.
        engine: replaces the board's engine; such a replay is not recorded.
        seed: seed of the draw; None for an unpredictable one. A replay with a given seed is not recorded.
    """

    count: int = 0
    checkpoints: Sequence[Path] = ()
    engine: Engine | None = None
    seed: int | None = None
    data_root: str | None = None


@dataclass
class _Result:
    """What replaying found, over all suites of a submission; ``far`` of its answers by log-likelihood differ."""

    asked: int = 0
    moved: list[str] = field(default_factory=list)
    likelihoods: int = 0
    far: int = 0
    changed_prompts: list[str] = field(default_factory=list)


def replay(board: BoardFolder, checked: Checked, options: Replay) -> Verdict:
    """Ask random questions of a submission again, and record the result if it is by the board's own rule.

    What prevents a replay is a verdict, too.
    """
    outcome, detail = _replay(board, checked, options)
    return Verdict(submission=checked.label, check="replay", verdict=outcome, detail=detail)


def _replay(board: BoardFolder, checked: Checked, options: Replay) -> tuple[Outcome, str]:
    submission, rule = checked.submission, board.board.rules.replay
    if submission is None or any(v.verdict == "fail" and v.check != "replay" for v in checked.verdicts):
        return "skip", "not done, because another check fails"
    folder = board.path / "submissions" / checked.label
    summaries = {key: _summary(folder / "evals" / key) for key in submission.suites}
    checkpoint = _find_checkpoint(submission, summaries, options.checkpoints)
    if checkpoint is None:
        return "skip", f"the checkpoint {submission.checkpoint_hash[:12]} was not found; give --checkpoint DIR"
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(48)
    engine = options.engine or Engine(rule.engine, rule.dtype, options.data_root or local_data(folder))
    questions, result = options.count or rule.design[0], _Result()
    try:
        _replay_suites(board, list(summaries), folder, checkpoint, engine, (questions, seed), result)
    except MoemixError as error:
        return "skip", str(error).replace("\n  ", "; ")
    outcome, detail = _judged(submission, checkpoint, rule, result)
    known = sum(task.questions for key in summaries for task in board.suite(key).tasks.values())
    if options.engine is None and options.seed is None and result.asked >= min(rule.design[0], known):
        ReplayRecord(
            submission_id=submission.submission_id, engine=engine.name, dtype=engine.dtype,
            seed=seed, questions=result.asked, moved=len(result.moved), allowed=_allowed(rule, result.asked),
            verdict=outcome, detail=detail[:4000], date=now(),
        ).write(board.replay_path(submission.submission_id))  # fmt: skip
    return outcome, detail


def _allowed(rule: PinnedReplay, asked: int) -> int:
    return int(binom.ppf(POWER, asked, rule.moved))


def _judged(
    submission: Submission, checkpoint: Path, rule: PinnedReplay, result: _Result
) -> tuple[Literal["pass", "fail"], str]:
    if result.changed_prompts:
        return "fail", (f"{len(result.changed_prompts)} of {result.asked} prompts are not the suite's: "
                        f"{'; '.join(result.changed_prompts[:3])}")  # fmt: skip
    stated, known = submission.parameters, read_checkpoint(checkpoint)["parameters"]
    if stated and known and stated != known:
        return "fail", f"the checkpoint has {known:,} parameters, {stated:,} as stated"
    if result.far > result.likelihoods / 2:
        return "fail", f"{result.far} of {result.likelihoods} answers have other log-likelihoods: another checkpoint"
    allowed = _allowed(rule, result.asked)
    detail = (
        f"{len(result.moved)} of {result.asked} scores are not those that the checkpoint earns ({allowed} may differ)"
    )
    if len(result.moved) > allowed:
        return "fail", f"{detail}: {'; '.join(result.moved[:3])}"
    return "pass", detail


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


def _replay_suites(
    board: BoardFolder, keys: Sequence[str], folder: Path, checkpoint: Path, engine: Engine, draw: tuple[int, int],
    result: _Result,
) -> None:  # fmt: skip
    """Ask questions again, spread over all suites, and add to ``result``."""
    suites = {key: board.suite(key) for key in keys}
    submitted = {(key, task): _samples(folder / "evals" / key / f"samples_{task}.jsonl")
                 for key, suite in suites.items() for task in suite.tasks}  # fmt: skip
    every = [(key, task, number) for (key, task), samples in submitted.items() for number in sorted(samples)]
    drawn = sorted(random.Random(draw[1]).sample(every, min(draw[0], len(every))))
    result.asked = len(drawn)
    for key, suite in suites.items():
        questions: dict[str, list[int]] = {}
        for _, task, number in (one for one in drawn if one[0] == key):
            questions.setdefault(task, []).append(number)
        if not questions:
            continue
        with tempfile.TemporaryDirectory(prefix="moemix-replay-") as scratch:
            out, file = Path(scratch) / "out", Path(scratch) / "questions.json"
            write_json(file, questions)
            evaluate(board, suite, checkpoint, engine, out, ("--questions", str(file), "--no-cache"))
            replayed = {task: _samples(out / f"samples_{task}.jsonl") for task in questions}
        results = {result for weights in suite_shares(suite).values() for result in weights}
        for task, numbers in questions.items():
            for number in numbers:
                ours, theirs = replayed[task].get(number), submitted[key, task][number]
                if ours is None or _prompts(ours) != _prompts(theirs):
                    result.changed_prompts.append(f"question {number} of {task}")
                    continue
                if any(_moved(theirs, ours, one) for one in results if one.task == task):
                    result.moved.append(f"question {number} of {task}")
                pairs = list(zip(*(next(iter(side.values())).likelihoods for side in (ours, theirs)), strict=False))
                result.likelihoods += bool(pairs)
                result.far += any(abs(a - b) > max(CLOSE, CLOSE_SHARE * abs(a)) for a, b in pairs)


def _moved(theirs: Mapping[str, Sample], ours: Mapping[str, Sample], key: Key) -> bool:
    submitted, earned = (side[key.filter].score(key.metric) for side in (theirs, ours))
    return abs(submitted - earned) > TOLERANCE


def _samples(path: Path) -> Samples:
    samples: Samples = {}
    for sample in parse_samples(read_lines(path), required=FIELDS):
        samples.setdefault(sample.doc_id, {})[sample.filter] = sample
    return samples


def _prompts(samples: Mapping[str, Sample]) -> list[list[list[object]]]:
    return [sample.requests for sample in samples.values()]
