"""Check the honesty of a submission, which no hash can show. Copies fail; oddities are warnings for the reviewer.

``duplicates``     responses or scores that another submission has too
``outputs``        the same answer to every question
``contamination``  the submitter's report on how much of the benchmark is in the training data
``judge``          averages recomputed from the judgments; flags that the judging itself raised
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_value
from harness.submissions import Outcome
from leaderboards.board.checks import Findings, summarise, within
from leaderboards.board.judging import contradiction, judgings

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
