"""Checks of honesty: what no hash can show. Copies of another submission fail, oddities are for the reviewer's eyes.

``duplicates``     responses or scores that another submission has too
``outputs``        a constant answer to every question
``contamination``  the submitter's report on what the training data holds of the benchmark
``judge``          averages again from the judgments; flags that the judging itself raised
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import MoemixError
from harness.files import hash_value
from harness.submissions import Outcome
from leaderboards.board.checks import Findings, few
from leaderboards.board.judging import contradiction, judgings

FEWEST = 20  # questions, below which equal scores may well be chance


@dataclass(frozen=True)
class Fact:
    """What orders submissions, and ties them to those they supersede."""

    created: str
    submission_id: str
    supersedes: str | None


def check_integrity(found: Findings) -> None:
    """The checks that need no other submission."""
    if found.submission is None or not found.tasks:
        return
    _outputs(found)
    _contamination(found)
    _judge(found)


def fingerprints(found: Findings) -> dict[str, str]:
    """What a copy would share: ``answers <suite>`` → hash over all responses, ``scores <suite>`` → over all scores.

    Scores of few questions, or all alike, are left out: they agree by chance.
    """
    prints = {}
    for suite, tasks in found.tasks.items():
        prints[f"answers {suite}"] = hash_value({task: samples.answers for task, samples in tasks.items()})
        vectors = found.vectors.get(suite, {})
        varied = [v for v in vectors.values() if len(v) and v.min() < v.max()]
        if varied and sum(map(len, varied)) >= FEWEST:
            named = {f"{key.task} {key.metric} {key.filter}": v.tolist() for key, v in vectors.items()}
            prints[f"scores {suite}"] = hash_value(named)
    return prints


def find_duplicates(prints: Mapping[str, Mapping[str, str]], facts: Mapping[str, Fact]) -> dict[str, tuple[str, str]]:
    """Submission → verdict and detail, of every submission that shares responses or scores with another.

    Of two with the same responses the later fails; which came first is what they say, and the reviewer knows better. A
    submission may repeat the one that it supersedes.

    Args:
        prints: submission → :func:`fingerprints`.
        facts: submission → what orders them.
    """
    holders: dict[tuple[str, str], list[str]] = {}
    for label, found in prints.items():
        for kind, digest in found.items():
            holders.setdefault((kind, digest), []).append(label)
    said: dict[str, tuple[str, str]] = {}
    for (kind, _), labels in sorted(holders.items()):
        if len(labels) < 2:
            continue
        what, suite = kind.split(" ", 1)
        ordered = sorted(labels, key=lambda label: (facts[label].created, label))
        for i, label in enumerate(ordered):
            others = [o for o in ordered if o != label and not _related(label, o, facts)]
            earlier = [o for o in ordered[:i] if o in others]
            if what == "answers" and earlier:
                said[label] = ("fail", f"every response of {suite} is that of {_few_names(earlier)}")
            elif others and said.get(label, ("", ""))[0] != "fail":
                what_of = "response" if what == "answers" else "score"
                said.setdefault(label, ("warn", f"every {what_of} of {suite} is that of {_few_names(others)} too"))
    return said


def _related(one: str, other: str, facts: Mapping[str, Fact]) -> bool:
    a, b = facts[one], facts[other]
    return a.supersedes == b.submission_id or b.supersedes == a.submission_id


def _few_names(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def _outputs(found: Findings) -> None:
    constant = []
    tasks = [(task, samples) for held in found.tasks.values() for task, samples in held.items()]
    for task, samples in tasks:
        targets = {target for _, target in samples.documents.values()}
        if len(samples.generated) >= FEWEST and len(set(samples.generated)) == 1 and len(targets) > 1:
            constant.append(f"{task}: the same answer to every question ({samples.generated[0][:40]!r})")
        elif len(samples.numbers) >= FEWEST and not samples.generated and _one_score(samples.scores):
            constant.append(f"{task}: every question has the same score")
    found.say("outputs", "warn" if constant else "pass", few(constant) or "answers differ from question to question")


def _one_score(scores: Mapping[Any, Any]) -> bool:
    return all(len(values) and values.min() == values.max() for values in scores.values())


def _contamination(found: Findings) -> None:
    report = found.contamination
    if report is None:
        found.say("contamination", "skip", "no contamination.json: the submitter reports nothing")
        return
    tasks = {task: samples for held in found.tasks.values() for task, samples in held.items()}
    strange = [task for task in report.tasks if task not in tasks]
    strange += [
        f"{task}: question {number}"
        for task, entry in report.tasks.items()
        for number in entry.found
        if task in tasks and number not in tasks[task].documents
    ]
    if strange:
        found.say("contamination", "fail", f"the report speaks of what is not in the suite: {few(strange)}")
        return
    marked = [f"{task}: {len(entry.found)} of {entry.questions}" for task, entry in report.tasks.items() if entry.found]
    unsaid = [task for task in tasks if task not in report.tasks]
    detail = f"{report.method[:200]}: {few(marked) or 'nothing found'}"
    detail += f"; nothing said of {', '.join(unsaid[:3])}" if unsaid else ""
    found.say("contamination", "warn" if marked or unsaid else "pass", detail)


def _judge(found: Findings) -> None:
    """Judgments of this checkpoint's answers, whose average is the one claimed; and the flags that judging raised."""
    submission = found.submission
    assert submission is not None
    faults, flags, benches = [], [], []
    try:
        for bench, summary in judgings(submission, found.where.path):
            benches.append(bench)
            if summary.checkpoint_hash not in (None, submission.checkpoint_hash):
                faults.append(f"{bench}: the answers are another checkpoint's ({summary.checkpoint_hash[:12]})")
            problem = contradiction(summary, found.where.path / "judge" / bench)
            faults += [f"{bench}: {problem}"] if problem else []
            flags += [f"{bench}: {name} in {len(held)} questions" for name, held in summary.flags.items() if held]
    except MoemixError as error:
        faults.append(str(error).replace(f"{found.where.path}/", ""))
    if benches or faults:
        verdict: Outcome = "fail" if faults else "warn" if flags else "pass"
        found.say("judge", verdict, few(faults) or few(flags) or f"{', '.join(benches)}: no flag")
