"""Check one submission by itself. Every check passes, warns, fails or is skipped, with the reason.

``layout``      names, kinds and sizes of the files; nothing is followed, unpacked or executed
``schema``      every record is valid, its numbers are possible, and it agrees with the run's manifest
``owner``       the stated owner signed it, where the board demands that; a withdrawal is the owner's
``hashes``      every file is the one that ``submission.json`` lists, and the id is the hash of the content
``suite``       the evaluations are of a pinned suite version and of this checkpoint, without a limit of their own
``questions``   every pinned question, and no other, with its own document, target and prompt
``samples``     the score of every question, recomputed from the response (multiple choice, exact match)
``execution``   metrics that run code or ask another model: not recomputed here (:mod:`.execution` runs programs)
``scores``      task scores and columns, recomputed from the samples
``statistics``  standard errors, recomputed from the samples
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from harness.errors import MoemixError
from harness.records import EvalSummary, MixtureUpdate, RunManifest
from harness.schema import parse
from harness.statistics.columns import Key
from harness.statistics.estimates import Part, estimate
from leaderboards.board.folder import OUTSIDE, SUBMISSION, WITHDRAWN, BoardFolder, SubmissionFolder, is_member
from leaderboards.board.origins import owner_fault, withdrawal_fault
from leaderboards.board.pins import keys_by_task, mismatch
from leaderboards.board.samples import TaskSamples, read_task
from leaderboards.board.submissions import (
    Contamination,
    FileEntry,
    Outcome,
    PinnedSuite,
    ShownJudging,
    Submission,
    Verdict,
    Withdrawal,
    odd_character,
)
from leaderboards.board.untrusted import FILE_BYTES, RECORD_BYTES, read_bytes, read_lines, read_record, walk
from leaderboards.scores import TOLERANCE, Evaluation

SHOWN = 3  # sentences of a verdict
REQUIRED = ("layout", "schema", "owner", "suite", "questions")  # if one fails, the later checks have no basis
LARGE = ("samples_", "answers.jsonl", "conversations.jsonl", "games-", "judgments-", "scores.jsonl", "mixture.jsonl",
         "metrics.jsonl", "results.json")  # fmt: skip
LARGEST_LINES = 256 << 20  # bytes of such a file; samples alone may have more


@dataclass
class Findings:
    """What the checks of a submission found, besides their verdicts.

    Attributes:
        files: path → size and hash of the regular files in the folder.
        tasks: suite key → task → its samples, of the suites whose questions are right.
        vectors: suite key → result → score of each question, recomputed where that is possible.
        as_recorded: suite key and result of the scores that were not recomputed.
        judged: bench → what is shown of its judging.
    """

    where: SubmissionFolder
    verdicts: list[Verdict] = field(default_factory=list)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    submission: Submission | None = None
    withdrawn: Withdrawal | None = None
    summaries: dict[str, EvalSummary] = field(default_factory=dict)
    tasks: dict[str, dict[str, TaskSamples]] = field(default_factory=dict)
    vectors: dict[str, dict[Key, NDArray[np.float64]]] = field(default_factory=dict)
    as_recorded: list[tuple[str, Key]] = field(default_factory=list)
    contamination: Contamination | None = None
    judged: dict[str, ShownJudging] = field(default_factory=dict)

    def add(self, check: str, verdict: Outcome, detail: str) -> None:
        """Add a verdict."""
        self.verdicts.append(Verdict(submission=self.where.label, check=check, verdict=verdict, detail=detail))

    def add_result(self, check: str, faults: list[str], success: str) -> bool:
        """Add a pass with the text ``success``, or a fail with the first faults; return whether it passed."""
        self.add(check, "fail" if faults else "pass", summarise(faults) if faults else success)
        return not faults

    @property
    def known(self) -> Submission:
        """The submission, once the check of the schema has passed."""
        assert self.submission is not None
        return self.submission

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(verdict.verdict == "fail" for verdict in self.verdicts)


def summarise(texts: list[str]) -> str:
    """Join the first of many sentences and count the others."""
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def within(error: Exception, folder: Path) -> str:
    """Return an error's text with its paths as they are inside the submission."""
    return str(error).replace(f"{folder}/", "").replace(str(folder), "the submission").replace("\n  ", "; ")


def check_alone(board: BoardFolder, where: SubmissionFolder, files: Mapping[str, FileEntry]) -> Findings:
    """Run every check that needs only the submission, the sizes and hashes of its files, and the board's pins.

    Whatever is wrong with a submission becomes a verdict and never an exception: one bad submission hides no other.
    """
    findings = Findings(where, files=files)
    checks: dict[str, Callable[[BoardFolder, Findings], bool]] = {
        "layout": _layout,
        "schema": _schema,
        "owner": _owner,
        "hashes": _hashes,
        "suite": _suite,
        "questions": _questions,
        "samples": _samples,
        "scores": _scores,
        "statistics": _statistics,
    }
    stopped = False
    for name, check in checks.items():
        if stopped and not (name == "hashes" and findings.submission is not None):
            continue
        try:
            stopped |= not check(board, findings) and name in REQUIRED
            continue
        except MoemixError as error:
            findings.add(name, "fail", within(error, where.path))
        except RecursionError:
            findings.add(name, "fail", "nested too deeply")
        except OSError as error:
            findings.add(name, "fail", f"a file cannot be read: {error.strerror}")
        stopped = True
    return findings


def _layout(board: BoardFolder, findings: Findings) -> bool:
    total, faults = 0, []
    names: dict[str, str] = {}
    for path, status in walk(findings.where.path):
        total += status.st_size
        large = path.rpartition("/")[2].startswith(LARGE)
        limit = FILE_BYTES if "/samples_" in path else LARGEST_LINES if large else RECORD_BYTES
        if not is_member(path):
            faults.append(f"{path[:120]!r} is not a file of a submission")
        elif status.st_size > limit:
            faults.append(f"{path} has {status.st_size:,} bytes; the limit is {limit:,}")
        if (other := names.setdefault(path.casefold(), path)) != path:
            faults.append(f"{other!r} and {path!r} differ only in the case of letters")
    if total > board.board.rules.max_bytes:
        faults.append(f"the files have {total:,} bytes in total; the limit is {board.board.rules.max_bytes:,}")
    return findings.add_result("layout", faults, f"{total:,} bytes in regular files")


def _schema(board: BoardFolder, findings: Findings) -> bool:
    folder, where = findings.where.path, findings.where
    submission = findings.submission = where.read()
    faults: list[str] = []
    if submission.model != where.model or submission.submission_id != where.name:
        faults.append(f"{SUBMISSION} names {submission.model}/{submission.submission_id}, "
                      f"and the folder is {where.label}")  # fmt: skip
    for suite in submission.suites:
        path = folder / "evals" / suite / "summary.json"
        if not is_member(f"evals/{suite}/summary.json"):
            faults.append(f"invalid suite version name {suite[:60]!r}")
        else:
            findings.summaries[suite] = parse(EvalSummary, read_record(path), where=str(path))
    manifest = None
    if "run.json" in submission.files:
        manifest = parse(RunManifest, read_record(folder / "run.json"), where="run.json")
        faults += _other_run(submission, manifest)
    if "mixture.jsonl" in submission.files:
        faults += _impossible_mixture(folder / "mixture.jsonl", manifest)
    if "contamination.json" in submission.files:
        path = folder / "contamination.json"
        findings.contamination = parse(Contamination, read_record(path), where=str(path))
    success = f"{len(findings.summaries)} evaluations, schema {submission.schema_version}"
    return findings.add_result("schema", faults, success)


def _other_run(submission: Submission, manifest: RunManifest) -> Iterator[str]:
    """Yield where a submission contradicts the manifest of its run."""
    config = manifest.config
    pairs: dict[str, tuple[object, object]] = {
        "strategy": (submission.strategy, config.strategy.label),
        "seed": (submission.seed, config.seed),
        "base_model": (submission.base_model, config.model_id),
        "recipe": (submission.recipe, manifest.recipe),
        "run_id": (submission.run_id, manifest.run_id),
        "checkpoint_hash": (submission.checkpoint_hash, manifest.checkpoint_hash or submission.checkpoint_hash),
    }
    for name, (stated, known) in pairs.items():
        if stated != known:
            yield f"{name} is {stated!r}, and {known!r} in run.json"
    result = manifest.result
    if result is not None and (result.steps > config.training.steps or min(result.tokens, result.seconds) < 0):
        yield f"run.json reports {result.steps} of {config.training.steps} steps, {result.tokens} tokens"


def _impossible_mixture(path: Path, manifest: RunManifest | None) -> Iterator[str]:
    """Yield what cannot be true of a mixture trace: weights that are no shares, other sources, steps out of order."""
    step, names = -1, tuple(sorted(source.name for source in manifest.config.sources)) if manifest else None
    for where, line in read_lines(path):
        try:
            update = MixtureUpdate.model_validate(line)
        except ValidationError as error:
            raise MoemixError(f"not a mixture update: {error.errors()[0]['msg']}", where=where) from None
        names = names or update.names
        place = where.replace(f"{path.parent}/", "")
        if sorted(update.names) != sorted(names) or any(odd_character(name) for name in update.names):
            yield f"{place}: the sources are not {', '.join(names)[:120]}"
        elif update.step <= step or (manifest and update.step > manifest.config.training.steps):
            yield f"{place}: step {update.step} is out of order or after the last one"
        for weights in (update.before, update.after):
            shares = len(weights) == len(update.names) and all(0 <= weight <= 1 for weight in weights)
            if not shares or not math.isclose(math.fsum(weights), 1, abs_tol=1e-6):
                yield f"{place}: the weights are not shares of 100 %: {', '.join(f'{w:g}' for w in weights[:5])}"
                break
        step = update.step


def _owner(board: BoardFolder, findings: Findings) -> bool:
    """Check the owner. A withdrawal that is not the owner's, or not valid, does not count, and harms nobody."""
    submission, where = findings.known, findings.where
    fault = owner_fault(board, where, submission)
    ignored = None
    if fault is None:
        try:
            found = where.withdrawal()
            ignored = withdrawal_fault(board, where, submission.owner, found) if found else None
            findings.withdrawn = None if ignored else found
        except MoemixError as error:
            ignored = within(error, where.path)
    if ignored:
        findings.add("owner", "warn", f"{WITHDRAWN} is ignored: {ignored}")
        return True
    return findings.add_result("owner", [fault] if fault else [], submission.owner or "anyone may submit")


def _hashes(board: BoardFolder, findings: Findings) -> bool:
    submission, folder = findings.known, findings.where.path
    present = {path: entry for path, entry in findings.files.items() if path not in OUTSIDE}
    faults = [f"{path} is not listed in {SUBMISSION}" for path in sorted(present.keys() - submission.files.keys())]
    for path, entry in sorted(submission.files.items()):
        if path not in present:
            faults.append(f"{path[:120]} is listed but missing")
            continue
        if (present[path].bytes, present[path].sha256) != (entry.bytes, entry.sha256):
            data = read_bytes(folder / path, FILE_BYTES)
            crlf = hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest() == entry.sha256
            what = "has other line ends: git changed them" if crlf else "was changed after the submission"
            faults.append(f"{path} {what}")
    if submission.content_id != submission.submission_id:
        faults.append(f"the id is not the hash of the content, which is {submission.content_id}")
    if not faults and submission.identity == "files":
        detail = f"{len(submission.files)} files; the id does not cover strategy, licence and date"
        findings.add("hashes", "warn", detail)
        return True
    return findings.add_result("hashes", faults, f"{len(submission.files)} files")


def _suite(board: BoardFolder, findings: Findings) -> bool:
    pinned = {suite.key: suite for suite in board.board.suites}
    faults = []
    for key, summary in findings.summaries.items():
        if key not in pinned:
            faults.append(f"the board does not pin {key}; it pins {', '.join(pinned) or 'nothing'}")
            continue
        problem = mismatch(summary, pinned[key])
        if problem:
            faults.append(problem)
        if summary.checkpoint_hash != findings.known.checkpoint_hash:
            faults.append(f"{key} was evaluated on another checkpoint ({summary.checkpoint_hash[:12]})")
        for name, column in pinned[key].columns.items():
            own = summary.columns.get(name)
            definition = ("tasks", "columns", "metric", "filter", "aggregation")
            if own is None:
                faults.append(f"{key} has no column {name}")
            elif any(getattr(own, part) != getattr(column, part) for part in definition):
                faults.append(f"the definition of column {name} of {key} is not the pinned one")
    return findings.add_result("suite", faults, ", ".join(findings.summaries))


def _questions(board: BoardFolder, findings: Findings) -> bool:
    faults: list[str] = []
    count = 0
    for key, summary in findings.summaries.items():
        suite = board.suite(key)
        evaluation = Evaluation(findings.where.path / "evals" / key, summary)
        keys = keys_by_task(evaluation, suite.columns)
        for task, pinned in suite.tasks.items():
            path = evaluation.folder / f"samples_{task}.jsonl"
            try:
                samples = read_task(path, task, keys[task], pinned.scorer)
            except MoemixError as error:
                faults.append(within(error, findings.where.path))
                continue
            faults += samples.faults
            faults += _other_questions(task, samples, suite)
            results = [evaluation.results[k] for k in keys[task]]
            if any(result.prompt_hash != samples.prompt_hash for result in results):
                faults.append(f"{task}: the hash of the prompts is not the one in the summary")
            if any((result.task_version, result.shots) != (pinned.version, pinned.shots) for result in results):
                faults.append(f"{task}: the board pins version {pinned.version}, {pinned.shots}-shot")
            count += len(samples.numbers)
            findings.tasks.setdefault(key, {})[task] = samples
    return findings.add_result("questions", faults, f"{count:,} questions: all pinned ones and no others")


def _other_questions(task: str, samples: TaskSamples, suite: PinnedSuite) -> Iterator[str]:
    pinned = suite.tasks[task]
    if len(samples.numbers) != pinned.questions:
        missing = sorted(set(range(pinned.questions)) - set(samples.numbers))
        listing = f"; missing: {', '.join(map(str, missing[:5]))}{' …' if len(missing) > 5 else ''}" if missing else ""
        yield f"{task}: {len(samples.numbers)} questions, and {pinned.questions} are pinned{listing}"
    elif samples.question_hash != pinned.question_hash:
        yield f"{task}: a question or its target is not the pinned one"
    elif pinned.prompt_hash is not None and samples.prompt_hash != pinned.prompt_hash:
        yield f"{task}: the prompts are not the pinned ones"


def _samples(board: BoardFolder, findings: Findings) -> bool:
    faults, recomputed, recorded = [], 0, []
    for suite_key, tasks in findings.tasks.items():
        suite = board.suite(suite_key)
        vectors = findings.vectors.setdefault(suite_key, {})
        for task, samples in tasks.items():
            rules = suite.tasks[task].scorer.recomputed
            if rules:
                faults += samples.differing
            for key, values in samples.scores.items():
                if f"{key.metric},{key.filter}" in rules:
                    if key not in samples.recomputed and not samples.differing:
                        faults.append(f"{task}: {key.metric} cannot be recomputed from these samples")
                    vectors[key] = samples.recomputed.get(key, values)
                    recomputed += len(values)
                else:
                    recorded.append(f"{key.metric} of {task} ({len(values)} questions)")
                    findings.as_recorded.append((suite_key, key))
                    vectors[key] = values
    passed = findings.add_result("samples", faults, f"{recomputed:,} scores agree with their responses")
    if recorded:
        findings.add("execution", "skip", f"{summarise(recorded)}: scored by running code or by another model;"
                     " not recomputed, as recorded")  # fmt: skip
    return passed


def _scores(board: BoardFolder, findings: Findings) -> bool:
    faults, count = [], 0
    for key, vectors in findings.vectors.items():
        evaluation = Evaluation(Path(), findings.summaries[key])
        for result_key, values in vectors.items():
            result = evaluation.results[result_key]
            if result.n != len(values):
                faults.append(f"{result_key.task}: n is {len(values)} by its samples, {result.n} as claimed")
            faults += _difference(f"{result_key.metric} of {result_key.task}", float(values.mean()), result.value)
            count += 1
        for name in board.suite(key).columns:
            value = sum(share * float(vectors[k].mean()) for k, share in evaluation.shares(name).items())
            faults += _difference(f"column {name} of {key}", value, evaluation.summary.columns[name].value)
            count += 1
    return findings.add_result("scores", faults, f"{count} task scores and columns agree with the samples")


def _statistics(board: BoardFolder, findings: Findings) -> bool:
    faults, count = [], 0
    for key, vectors in findings.vectors.items():
        evaluation = Evaluation(Path(), findings.summaries[key])
        # Version 0.1 wrote the errors of single questions, clustered or not.
        pairs = {k: _standard_errors(values, findings.tasks[key][k.task]) for k, values in vectors.items()}
        known = [{k: errors[at] for k, errors in pairs.items()} for at in (0, 1)]
        claims = [
            (f"standard error of {k.task}", [errors[k] for errors in known], evaluation.results[k].stderr)
            for k in vectors
        ]
        for name in board.suite(key).columns:
            shares = evaluation.shares(name).items()
            errors = [math.sqrt(sum((share * e[k]) ** 2 for k, share in shares)) for e in known]
            claims.append(
                (f"standard error of column {name} of {key}", errors, evaluation.summary.columns[name].stderr)
            )
        for name, computed, claimed in claims:
            if claimed is not None:
                found = [_difference(name, value, claimed) for value in computed]
                faults += found[0] if all(found) else []
                count += 1
    return findings.add_result("statistics", faults, f"{count} standard errors agree with the samples")


def _standard_errors(values: NDArray[np.float64], samples: TaskSamples) -> tuple[float, float]:
    """Return the standard error of a mean over clusters of questions, and that over questions."""
    single, clusters = _standard_error(values, np.arange(len(values))), samples.clusters
    return single if clusters.max(initial=-1) == len(values) - 1 else _standard_error(values, clusters), single


def _standard_error(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> float:
    found = estimate([Part(1.0, values[None], clusters)])
    return 0.0 if math.isnan(found.se) else found.se


def _difference(name: str, computed: float, claimed: float | None) -> list[str]:
    if claimed is None:
        return [f"{name} is {computed:.6g} by the samples and missing in the summary"]
    if math.isfinite(claimed) and math.isclose(computed, claimed, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        return []
    return [f"{name} is {computed:.6g} by the samples, {claimed:.6g} as claimed"]
