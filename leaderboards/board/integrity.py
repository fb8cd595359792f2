"""Check the honesty of a submission, which no hash can show. Copies fail; oddities are warnings for the reviewer.

``duplicates``     responses or scores that another submission has too
``outputs``        the same answer to every question
``contamination``  the submitter's report on how much of the benchmark is in the training data
``judge``          averages recomputed from the judgments; flags that the judging itself raised
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_value
from harness.judging import JudgeSummary
from harness.schema import parse
from leaderboards.board.checks import Findings, summarise, within
from leaderboards.board.submissions import Outcome, Submission
from leaderboards.board.untrusted import read_lines, read_record
from leaderboards.scores import TOLERANCE

FEWEST = 20  # with fewer questions, equal scores are likely by chance


@dataclass(frozen=True)
class Origin:
    """What orders submissions, and connects them to those they supersede."""

    created: str
    submission_id: str
    supersedes: str | None


def check_integrity(findings: Findings) -> None:
    """Run the checks of honesty that need no other submission."""
    if findings.submission is None or not findings.tasks:
        return
    _outputs(findings)
    _contamination(findings)
    _judge(findings)


def fingerprints(findings: Findings) -> dict[str, str]:
    """Return what a copy would share: ``answers <suite>`` → hash over all responses, ``scores <suite>`` → over scores.

    Scores of few questions, or scores that are all equal, are left out: they agree by chance.
    """
    prints = {}
    for suite, tasks in findings.tasks.items():
        prints[f"answers {suite}"] = hash_value({task: samples.answers for task, samples in tasks.items()})
        vectors = findings.vectors.get(suite, {})
        varied = [v for v in vectors.values() if len(v) and v.min() < v.max()]
        if varied and sum(map(len, varied)) >= FEWEST:
            named = {f"{key.task} {key.metric} {key.filter}": v.tolist() for key, v in vectors.items()}
            prints[f"scores {suite}"] = hash_value(named)
    return prints


def find_duplicates(
    prints: Mapping[str, Mapping[str, str]], origins: Mapping[str, Origin]
) -> dict[str, tuple[Outcome, str]]:
    """Return verdict and detail of every submission that shares responses or scores with another.

    Of two with the same responses the later one fails. Which came first is what they state; the reviewer knows better.
    A submission may repeat the one that it supersedes.

    Args:
        prints: submission → :func:`fingerprints`.
        origins: submission → what orders them.
    """
    holders: dict[tuple[str, str], list[str]] = {}
    for label, own in prints.items():
        for kind, digest in own.items():
            holders.setdefault((kind, digest), []).append(label)
    verdicts: dict[str, tuple[Outcome, str]] = {}
    for (kind, _), labels in sorted(holders.items()):
        if len(labels) < 2:
            continue
        shared, suite = kind.split(" ", 1)
        ordered = sorted(labels, key=lambda label: (origins[label].created, label))
        for i, label in enumerate(ordered):
            others = [o for o in ordered if o != label and not _related(origins[label], origins[o])]
            earlier = [o for o in ordered[:i] if o in others]
            if shared == "answers" and earlier:
                verdicts[label] = ("fail", f"every response of {suite} is also in {_names(earlier)}")
            elif others:
                thing = "response" if shared == "answers" else "score"
                verdicts.setdefault(label, ("warn", f"every {thing} of {suite} is also in {_names(others)}"))
    return verdicts


def _related(one: Origin, other: Origin) -> bool:
    return one.supersedes == other.submission_id or other.supersedes == one.submission_id


def _names(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def _outputs(findings: Findings) -> None:
    constant = []
    for task, samples in (item for tasks in findings.tasks.values() for item in tasks.items()):
        targets = {target for _, target in samples.documents.values()}
        if len(samples.generated) >= FEWEST and len(set(samples.generated)) == 1 and len(targets) > 1:
            constant.append(f"{task}: the same answer to every question ({samples.generated[0][:40]!r})")
        elif not samples.generated and len(samples.numbers) >= FEWEST and _all_equal(samples.scores.values()):
            constant.append(f"{task}: every question has the same score")
    verdict: Outcome = "warn" if constant else "pass"
    findings.add("outputs", verdict, summarise(constant) or "answers differ between questions")


def _all_equal(vectors: Iterable[NDArray[np.float64]]) -> bool:
    return all(len(values) and values.min() == values.max() for values in vectors)


def _contamination(findings: Findings) -> None:
    report = findings.contamination
    if report is None:
        findings.add("contamination", "skip", "there is no contamination.json, so the submitter reports nothing")
        return
    tasks = {task: samples for held in findings.tasks.values() for task, samples in held.items()}
    unknown = [task for task in report.tasks if task not in tasks]
    unknown += [
        f"{task}: question {number}"
        for task, entry in report.tasks.items()
        for number in entry.found
        if task in tasks and number not in tasks[task].documents
    ]
    if unknown:
        findings.add("contamination", "fail", f"the report names what is not in the suite: {summarise(unknown)}")
        return
    marked = [f"{task}: {len(entry.found)} of {entry.questions}" for task, entry in report.tasks.items() if entry.found]
    missing = [task for task in tasks if task not in report.tasks]
    detail = f"{report.method[:200]}: {summarise(marked) or 'nothing found'}"
    detail += f"; not reported: {', '.join(missing[:3])}" if missing else ""
    findings.add("contamination", "warn" if marked or missing else "pass", detail)


def _judge(findings: Findings) -> None:
    """Check that judgments are of this checkpoint's answers and give the claimed average; report flags."""
    submission, folder = findings.known, findings.where.path
    faults, flags, benches = [], [], []
    try:
        for bench, summary in judgings(submission, folder):
            benches.append(bench)
            if summary.checkpoint_hash not in (None, submission.checkpoint_hash):
                faults.append(f"{bench}: the answers are of another checkpoint ({summary.checkpoint_hash[:12]})")
            problem = contradiction(summary, folder / "judge" / bench)
            faults += [f"{bench}: {problem}"] if problem else []
            flags += [f"{bench}: {name} in {len(held)} questions" for name, held in summary.flags.items() if held]
    except MoemixError as error:
        faults.append(within(error, folder))
    if benches or faults:
        verdict: Outcome = "fail" if faults else "warn" if flags else "pass"
        findings.add("judge", verdict, summarise(faults) or summarise(flags) or f"{', '.join(benches)}: no flag")


# --- judgings ---------------------------------------------------------------------------------------


def judgings(submission: Submission, folder: Path) -> Iterator[tuple[str, JudgeSummary]]:
    """Yield the bench and the summary of each finished judging.

    Raises:
        MoemixError: a summary that is not valid.
    """
    for path in sorted(submission.files):
        if path.startswith("judge/") and path.endswith("/summary.json"):
            yield path.split("/")[1], parse(JudgeSummary, read_record(folder / path), where=path)


@dataclass(frozen=True)
class RecomputedJudging:
    """The result of a judging, computed from its judgments.

    Attributes:
        average: mean over the turns of all questions, each the mean of its verdicts; nan without any.
        rows: number of turns that have a verdict.
        outcomes: number of pairs won, lost and tied; None for single answers.
    """

    average: float
    rows: int
    outcomes: tuple[int, int, int] | None = None

    @property
    def win_rate(self) -> float | None:
        """The share of pairs that were won, a tie counting half."""
        if self.outcomes is None or not sum(self.outcomes):
            return None
        win, _, tie = self.outcomes
        return (win + 0.5 * tie) / sum(self.outcomes)


def recompute(folder: Path, model: str, *, pairwise: bool) -> RecomputedJudging:
    """Recompute a model's result from the files ``judgments-<judge>.jsonl`` in ``judge/<bench>/``.

    Raises:
        MoemixError: with file and line, a judgment that is not valid.
    """
    value_of = _pair_value if pairwise else _single_value
    rows: dict[tuple[str, object], list[float]] = {}
    for path in sorted(folder.glob("judgments-*.jsonl")):
        for where, line in read_lines(path):
            value = value_of(line, model, where)
            if value is not None:
                rows.setdefault((str(line.get("question_id")), str(line.get("turn"))), []).append(value)
    means = [math.fsum(values) / len(values) for values in rows.values()]
    every = [value for values in rows.values() for value in values]
    outcomes = (every.count(1.0), every.count(0.0), every.count(0.5)) if pairwise else None
    return RecomputedJudging(math.fsum(means) / len(means) if means else math.nan, len(means), outcomes)


def _single_value(line: dict[str, object], model: str, where: str) -> float | None:
    """Return the score of a single answer, or None if the judgment failed or concerns another model."""
    if line.get("model") != model or line.get("reason"):
        return None
    score = line.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise MoemixError("the score of a verdict is not a number", where=where)
    return float(score)


def _pair_value(line: dict[str, object], model: str, where: str) -> float | None:
    """Return 1 for a pair won, 0 for one lost and ½ for a tie: what both games agree on, as FastChat counts them."""
    if model not in (line.get("model_1"), line.get("model_2")):
        return None
    games = [str(line.get("g1_winner")), str(line.get("g2_winner"))]
    for game in games:
        if game not in ("model_1", "model_2", "tie", "error"):
            raise MoemixError(f"the winner of a game is {game[:40]!r}, expected model_1, model_2, tie or error",
                              where=where)  # fmt: skip
    if "error" in games:
        return None
    if games[0] != games[1] or games[0] == "tie":
        return 0.5
    return 1.0 if line.get(games[0]) == model else 0.0


def contradiction(summary: JudgeSummary, folder: Path) -> str | None:
    """Return where a summary differs from its judgments, or None if it agrees with them."""
    result = recompute(folder, summary.model, pairwise=summary.request.mode == "pairwise")
    claimed = summary.average
    if result.rows != claimed.n:
        return f"there are {result.rows} judged turns, and the summary claims {claimed.n}"
    if result.rows and not _close(result.average, claimed.value):
        return f"the average is {result.average:.6g} by the judgments, {claimed.value or 0.0:.6g} as claimed"
    if result.outcomes is None:
        return None
    outcomes = (summary.win, summary.loss, summary.tie)
    if result.outcomes != outcomes:
        by_judgments, by_summary = ("/".join(map(str, counts)) for counts in (result.outcomes, outcomes))
        return f"pairs won/lost/tied are {by_judgments} by the judgments, {by_summary} as claimed"
    if result.win_rate is not None and not _close(result.win_rate, summary.adjusted_win_rate):
        rate = f"{summary.adjusted_win_rate or 0.0:.6g}"
        return f"the win rate is {result.win_rate:.6g} by the judgments, {rate} as claimed"
    return None


def _close(computed: float, claimed: float | None) -> bool:
    return math.isclose(computed, claimed or 0.0, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
