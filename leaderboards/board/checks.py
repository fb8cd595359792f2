"""The checks of one submission by itself, in the order they are told. Each says pass, warn, fail or skip, and why.

``layout``      names, kinds and sizes of the files; nothing is followed, unpacked or executed
``schema``      every record parses
``hashes``      every file is the one that ``submission.json`` names, and the id is that of the content
``suite``       the evaluations are of a pinned suite version, of this checkpoint, with no limit of their own
``questions``   every pinned question, and no other, with its own document, target and prompt
``samples``     every question's score, again from the response (multiple choice, exact match)
``execution``   metrics that run code or ask another model: not recomputed here (programs: ``execution``)
``scores``      task scores and columns, again from the samples
``statistics``  standard errors, again from the samples
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from harness.errors import MoemixError
from harness.recipe_file import parse
from harness.records import EvalSummary, MixtureUpdate, RunManifest
from harness.statistics.columns import Key
from harness.submissions import Contamination, Outcome, PinnedSuite, Submission, Verdict, Withdrawal
from leaderboards.board.folder import SUBMISSION, WITHDRAWN, BoardFolder, SubmissionFolder, is_member
from leaderboards.board.pins import fits
from leaderboards.board.samples import TaskSamples, read_task
from leaderboards.board.untrusted import FILE_BYTES, SUBMISSION_BYTES, read_bytes, read_lines, read_record, walk
from leaderboards.scores import TOLERANCE, Evaluation

MOST_TOLD = 3
NEEDED = ("layout", "schema", "suite", "questions")  # where one fails, the checks after it have nothing to go by


@dataclass
class Findings:
    """What the checks of a submission found out, besides their verdicts.

    Attributes:
        tasks: suite key → task → its samples, of the suites whose questions are right.
        vectors: suite key → what a score stands on → per-question scores, recomputed where that is possible.
    """

    where: SubmissionFolder
    verdicts: list[Verdict] = field(default_factory=list)
    submission: Submission | None = None
    withdrawn: Withdrawal | None = None
    summaries: dict[str, EvalSummary] = field(default_factory=dict)
    tasks: dict[str, dict[str, TaskSamples]] = field(default_factory=dict)
    vectors: dict[str, dict[Key, NDArray[np.float64]]] = field(default_factory=dict)
    contamination: Contamination | None = None

    def say(self, check: str, verdict: Outcome, detail: str) -> None:
        self.verdicts.append(Verdict(submission=self.where.label, check=check, verdict=verdict, detail=detail))

    def tell(self, check: str, faults: list[str], fine: str) -> bool:
        """A pass with what is fine, or a fail with the first faults."""
        self.say(check, "fail" if faults else "pass", few(faults) if faults else fine)
        return not faults

    @property
    def failed(self) -> bool:
        return any(verdict.verdict == "fail" for verdict in self.verdicts)


def few(texts: list[str]) -> str:
    """The first of many sentences."""
    more = f"; and {len(texts) - MOST_TOLD} more" if len(texts) > MOST_TOLD else ""
    return "; ".join(texts[:MOST_TOLD]) + more


def check_alone(board: BoardFolder, where: SubmissionFolder) -> Findings:
    """Every check that needs only the submission and the board's pins.

    Whatever is wrong with a submission is a verdict, never an exception: one bad submission hides no other.
    """
    found = Findings(where)
    steps: list[tuple[str, Callable[[BoardFolder, Findings], bool]]] = [
        ("layout", _layout),
        ("schema", _schema),
        ("hashes", _hashes),
        ("suite", _suite),
        ("questions", _questions),
        ("samples", _samples),
        ("scores", _scores),
        ("statistics", _statistics),
    ]
    stopped = False
    for name, step in steps:
        if stopped and not (name == "hashes" and found.submission is not None):
            continue
        try:
            stopped |= not step(board, found) and name in NEEDED
            continue
        except MoemixError as error:
            found.say(name, "fail", _within(error, where.path))
        except RecursionError:
            found.say(name, "fail", "nested too deeply")
        except OSError as error:
            found.say(name, "fail", f"a file cannot be read: {error.strerror}")
        stopped = True
    return found


def _within(error: MoemixError, folder: Path) -> str:
    """An error's text with paths as they are inside the submission."""
    return str(error).replace(f"{folder}/", "").replace(str(folder), "the submission").replace("\n  ", "; ")


def _layout(board: BoardFolder, found: Findings) -> bool:
    total, faults = 0, []
    for path, entry in walk(found.where.path):
        total += entry.st_size
        if not is_member(path):
            faults.append(f"{path[:120]!r} is no file of a submission")
        elif entry.st_size > FILE_BYTES:
            faults.append(f"{path} has {entry.st_size:,} bytes, at most {FILE_BYTES:,} are read")
    if total > SUBMISSION_BYTES:
        faults.append(f"{total:,} bytes in all, at most {SUBMISSION_BYTES:,} are read")
    return found.tell("layout", faults, f"{total:,} bytes of plain files")


def _schema(board: BoardFolder, found: Findings) -> bool:
    folder = found.where.path
    submission = found.submission = found.where.read()
    found.withdrawn = found.where.withdrawal()
    faults = []
    if submission.model != found.where.model or submission.submission_id != found.where.name:
        faults.append(f"it is {submission.model}/{submission.submission_id} by its {SUBMISSION}, "
                      f"and lies in {found.where.label}")  # fmt: skip
    if found.withdrawn and found.withdrawn.submission_id != submission.submission_id:
        faults.append(f"{WITHDRAWN} is about {found.withdrawn.submission_id[:40]!r}")
    for suite in submission.suites:
        path = folder / "evals" / suite / "summary.json"
        if not is_member(f"evals/{suite}/summary.json"):
            faults.append(f"{suite[:60]!r} is no name of a suite version")
        else:
            found.summaries[suite] = parse(EvalSummary, read_record(path), where=str(path))
    if "run.json" in submission.files:
        parse(RunManifest, read_record(folder / "run.json"), where="run.json")
    if "mixture.jsonl" in submission.files:
        for where, line in read_lines(folder / "mixture.jsonl"):
            try:
                MixtureUpdate.model_validate(line)
            except ValidationError as error:
                raise MoemixError(f"no mixture update: {error.errors()[0]['msg']}", where=where) from None
    if "contamination.json" in submission.files:
        path = folder / "contamination.json"
        found.contamination = parse(Contamination, read_record(path), where=str(path))
    return found.tell("schema", faults, f"{len(found.summaries)} evaluations, schema {submission.schema_version}")


def _hashes(board: BoardFolder, found: Findings) -> bool:
    submission = _known(found)
    folder, faults = found.where.path, []
    there = {path for path, _ in walk(folder)} - {SUBMISSION, WITHDRAWN}
    faults += [f"{path} is not listed in {SUBMISSION}" for path in sorted(there - submission.files.keys())]
    for path, entry in sorted(submission.files.items()):
        if path not in there:
            faults.append(f"{path[:120]} is listed and not there")
            continue
        data = read_bytes(folder / path, FILE_BYTES)
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            faults.append(f"{path} is not the file that was submitted")
    if submission.content_id != submission.submission_id:
        faults.append(f"the id is not that of the content ({submission.content_id})")
    return found.tell("hashes", faults, f"{len(submission.files)} files")


def _suite(board: BoardFolder, found: Findings) -> bool:
    submission = _known(found)
    pinned = {suite.key: suite for suite in board.board.suites}
    faults = []
    for key, summary in found.summaries.items():
        if key not in pinned:
            faults.append(f"the board pins no {key} (it pins {', '.join(pinned) or 'nothing'})")
            continue
        suite = pinned[key]
        problem = fits(summary, suite)
        if problem:
            faults.append(problem)
        if summary.checkpoint_hash != submission.checkpoint_hash:
            faults.append(f"{key} was evaluated on another checkpoint ({summary.checkpoint_hash[:12]})")
        for name, column in suite.columns.items():
            held = summary.columns.get(name)
            definition = ("tasks", "columns", "metric", "filter", "aggregation")
            if held is None:
                faults.append(f"{key} has no column {name}")
            elif any(getattr(held, part) != getattr(column, part) for part in definition):
                faults.append(f"column {name} of {key} is defined otherwise than the board pins it")
    return found.tell("suite", faults, ", ".join(found.summaries))


def _questions(board: BoardFolder, found: Findings) -> bool:
    faults: list[str] = []
    count = 0
    for key, summary in found.summaries.items():
        suite = board.suite(key)
        evaluation = Evaluation(found.where.path / "evals" / key, summary)
        wanted = needed(evaluation, suite)
        for task, pinned in suite.tasks.items():
            path = evaluation.folder / f"samples_{task}.jsonl"
            try:
                samples = read_task(path, task, wanted[task], pinned.scorer)
            except MoemixError as error:
                faults.append(_within(error, found.where.path))
                continue
            faults += samples.faults
            faults += _other_questions(task, samples, suite)
            results = [evaluation.results[k] for k in wanted[task]]
            if any(result.prompt_hash != samples.prompt_hash for result in results):
                faults.append(f"{task}: the prompts are not those of the summary")
            if any((result.task_version, result.shots) != (pinned.version, pinned.shots) for result in results):
                faults.append(f"{task}: the board pins version {pinned.version}, {pinned.shots}-shot")
            count += len(samples.numbers)
            found.tasks.setdefault(key, {})[task] = samples
    return found.tell("questions", faults, f"{count:,} questions, all that are pinned and no other")


def _other_questions(task: str, samples: TaskSamples, suite: PinnedSuite) -> Iterator[str]:
    pinned = suite.tasks[task]
    if len(samples.numbers) != pinned.questions:
        missing = sorted(set(range(pinned.questions)) - set(samples.numbers))
        told = f" (missing: {', '.join(map(str, missing[:5]))}{' …' if len(missing) > 5 else ''})" if missing else ""
        yield f"{task}: {len(samples.numbers)} questions where {pinned.questions} are pinned{told}"
    elif samples.question_hash != pinned.question_hash:
        yield f"{task}: a question or its target is not the one that is pinned"
    elif pinned.prompt_hash is not None and samples.prompt_hash != pinned.prompt_hash:
        yield f"{task}: the prompts are not those that are pinned"


def needed(evaluation: Evaluation, suite: PinnedSuite) -> dict[str, list[Key]]:
    """Task → the results that the pinned columns are computed from."""
    found: dict[str, list[Key]] = {}
    for name in suite.columns:
        for key in evaluation.shares(name):
            held = found.setdefault(key.task, [])
            if key not in held:
                held.append(key)
    return found


def _samples(board: BoardFolder, found: Findings) -> bool:
    faults, again, believed = [], 0, []
    for suite_key, tasks in found.tasks.items():
        suite = board.suite(suite_key)
        vectors = found.vectors.setdefault(suite_key, {})
        for task, samples in tasks.items():
            recomputed = suite.tasks[task].scorer.recomputed
            if recomputed:
                faults += samples.differing
            for key, recorded in samples.scores.items():
                if f"{key.metric},{key.filter}" in recomputed:
                    if key not in samples.recomputed and not samples.differing:
                        faults.append(f"{task}: {key.metric} cannot be recomputed from these samples")
                    vectors[key] = samples.recomputed.get(key, recorded)
                    again += len(recorded)
                else:
                    believed.append(f"{key.metric} of {task} ({len(recorded)} questions)")
                    vectors[key] = recorded
    fine = found.tell("samples", faults, f"{again:,} scores are those of their responses")
    if believed:
        found.say("execution", "skip", f"{few(believed)}: scored by running code or another model, which was not"
                  " done; as recorded")  # fmt: skip
    return fine


def _scores(board: BoardFolder, found: Findings) -> bool:
    faults, count = [], 0
    for key, vectors in found.vectors.items():
        suite, evaluation = board.suite(key), Evaluation(Path(), found.summaries[key])
        for task_key, values in vectors.items():
            result = evaluation.results[task_key]
            if result.n != len(values):
                faults.append(f"{task_key.task}: n is {len(values)} by its samples, {result.n} as claimed")
            faults += _differ(f"{task_key.metric} of {task_key.task}", float(values.mean()), result.value)
            count += 1
        for name, shares in column_shares(evaluation, suite).items():
            value = sum(share * float(vectors[k].mean()) for k, share in shares.items())
            faults += _differ(f"column {name} of {key}", value, evaluation.summary.columns[name].value)
            count += 1
    return found.tell("scores", faults, f"{count} task scores and columns are those of the samples")


def _statistics(board: BoardFolder, found: Findings) -> bool:
    faults, count = [], 0
    for key, vectors in found.vectors.items():
        suite, evaluation = board.suite(key), Evaluation(Path(), found.summaries[key])
        errors = {k: _standard_error(values) for k, values in vectors.items()}
        for task_key in vectors:
            claimed = evaluation.results[task_key].stderr
            if claimed is not None:
                faults += _differ(f"standard error of {task_key.task}", errors[task_key], claimed)
                count += 1
        for name, shares in column_shares(evaluation, suite).items():
            claimed = evaluation.summary.columns[name].stderr
            if claimed is not None:
                error = math.sqrt(sum((share * errors[k]) ** 2 for k, share in shares.items()))
                faults += _differ(f"standard error of column {name} of {key}", error, claimed)
                count += 1
    return found.tell("statistics", faults, f"{count} standard errors are those of the samples")


def column_shares(evaluation: Evaluation, suite: PinnedSuite) -> dict[str, dict[Key, float]]:
    """Column → how much each result counts in it."""
    return {name: evaluation.shares(name) for name in suite.columns}


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _differ(what: str, computed: float, claimed: float | None) -> list[str]:
    if claimed is None:
        return [f"{what} is {computed:.6g} by the samples and missing in the summary"]
    if math.isfinite(claimed) and math.isclose(computed, claimed, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        return []
    return [f"{what} is {computed:.6g} by the samples, {claimed:.6g} as claimed"]


def _known(found: Findings) -> Submission:
    assert found.submission is not None  # the schema check passed
    return found.submission
