"""Check the honesty of a submission, which no hash can show. Oddities are warnings for the reviewer.

``outputs``        the same answer to every question
``contamination``  the submitter's report on how much of the benchmark is in the training data
``judge``          averages recomputed from the judgments; flags that the judging itself raised
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import hash_value
from leaderboards.board.checks import Findings, summarise, within
from leaderboards.board.judgings import check_judging, judgings
from leaderboards.board.submissions import Outcome, Rules

FEWEST = 20  # with fewer questions, equal scores are likely by chance


def check_integrity(findings: Findings, rules: Rules) -> None:
    """Run the checks of honesty that need no other submission."""
    if findings.submission is None or not findings.tasks:
        return
    _outputs(findings)
    _contamination(findings)
    _judge(findings, rules)


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


def marks(findings: Findings) -> dict[str, NDArray[np.uint32]]:
    """Return hashes of single answers by which a copy of a part is found, 0 where an answer tells nothing.

    Log-likelihoods never agree by chance to two decimals in all choices. Of texts only wrong ones count: right ones
    are the same by nature.
    """
    found: dict[str, NDArray[np.uint32]] = {}
    for suite, tasks in findings.tasks.items():
        for kind, text in (("likelihoods", False), ("text", True)):
            held = [samples.marks for _, samples in sorted(tasks.items()) if bool(samples.generated) == text]
            if held:
                found[f"{kind} {suite}"] = np.concatenate(held).astype("<u4")
    return found


def _outputs(findings: Findings) -> None:
    constant = []
    for task, samples in (item for tasks in findings.tasks.values() for item in tasks.items()):
        targets = {target for _, target in samples.documents.values()}
        if len(samples.generated) >= FEWEST and len(set(samples.generated)) == 1 and len(targets) > 1:
            constant.append(f"{task}: the same answer to every question ({samples.generated[0][:40]!r})")
        elif (
            not samples.generated
            and len(samples.numbers) >= FEWEST
            and all(len(values) and np.ptp(values) == 0 for values in samples.scores.values())
        ):
            constant.append(f"{task}: every question has the same score")
    verdict: Outcome = "warn" if constant else "pass"
    findings.add("outputs", verdict, summarise(constant) or "answers differ between questions")


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


def _judge(findings: Findings, rules: Rules) -> None:
    """Check that judgments are of this checkpoint's answers and give the claimed average; report flags."""
    submission, folder = findings.known, findings.where.path
    faults, flags, benches, unknown = [], [], [], []
    try:
        for bench, summary in judgings(submission, folder):
            benches.append(bench)
            problems, shown = check_judging(rules, submission, bench, summary, folder / "judge" / bench)
            faults += [f"{bench}: {problem}" for problem in problems]
            flags += [f"{bench}: {name} in {len(held)} questions" for name, held in summary.flags.items() if held]
            if shown is not None:
                findings.judged[bench] = shown
            elif not problems:
                unknown.append(bench)
    except MoemixError as error:
        faults.append(within(error, folder))
    if faults:
        findings.add("judge", "fail", summarise(faults))
    elif flags:
        findings.add("judge", "warn", summarise(flags))
    elif unknown:
        findings.add("judge", "skip", f"{', '.join(unknown)}: not shown, because the board does not pin this judging")
    elif benches:
        findings.add("judge", "pass", f"{', '.join(benches)}: the scores follow from the judgments; no flag")
