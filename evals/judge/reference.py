"""The reference grader: grades answers that can be checked right or wrong by a fixed rule, without a judge.

A score is the share of right answers. It says nothing about writing, so no table gives it the name of a judged bench.

The ``checks`` of a question have one entry for each turn:

    {"kind": "text", "value": "In reverse: c b a."}    the first line, ignoring case, spaces and a final full stop
    {"kind": "number", "value": 7}                     the number after the last "####", else the last number
    {"kind": "contains", "value": ["red", "blue"]}     the answer contains all of these words, in any order
    {"kind": "program", "tests": ["assert f(2) == 4"]} the answer's code passes the tests, run in the sandbox
    {"kind": "none"}                                   this turn cannot be checked
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping

from evals.judge.records import Match, Prompt, Reply, Verdict
from evals.sandbox import available, run_program
from harness.errors import MoemixError, unknown
from harness.files import hash_value

NAME = "reference grader"
KINDS = {"text": "value", "number": "value", "contains": "value", "program": "tests", "none": None}
VERSION = 1
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_BLOCK = re.compile(r"```(?:\w+)?\n(.*?)(?:```|\Z)", re.DOTALL)

Check = Mapping[str, object]


class ReferenceGrader:
    """Compares an answer with what its question expects; the score is 1 or 0."""

    name = "reference"

    @property
    def fingerprint(self) -> str:
        """Hash of the version of the rules."""
        return hash_value(["reference grader", VERSION])

    def prompt(self, match: Match) -> Prompt:
        """Return a record of what is compared; nobody is asked."""
        check, answer = _check_and_answer(match)
        return Prompt(f"check-{check['kind']}", "", f"{check}\n\n{answer}")

    def verdict(self, reply: str, match: Match) -> Verdict:
        """Return 1 for ``right`` and 0 for anything else."""
        return Verdict(score=float(reply.startswith("right")))

    def grade(self, match: Match) -> Reply:
        """Grade an answer: ``right``, ``wrong: …``, or a reason why it cannot be checked on this machine."""
        started = time.monotonic()
        check, answer = _check_and_answer(match)
        if check["kind"] == "program" and (missing := available()):
            return Reply(reason="no_sandbox", detail=missing, attempts=0)
        wrong = find_error(check, answer)
        return Reply(f"wrong: {wrong}" if wrong else "right", attempts=0, seconds=time.monotonic() - started)


def validate_checks(checks: Iterable[Check], where: str) -> None:
    """Raise an error for a check of an unknown kind, or without the value that it compares with."""
    for check in checks:
        kind = str(check["kind"])
        if kind not in KINDS:
            raise unknown("check", kind, KINDS, where=where)
        needed = KINDS[kind]
        if needed and needed not in check:
            raise MoemixError(f"a check of kind {kind} needs `{needed}`", where=where)


def _check_and_answer(match: Match) -> tuple[Check, str]:
    return match.question.checks[match.turn - 1], match.answers[0][match.turn - 1]


def find_error(check: Check, answer: str) -> str:
    """Return why an answer is wrong; an empty text if it is right."""
    value = check.get("value")
    if check["kind"] == "text":
        first = next((line for line in answer.splitlines() if line.strip()), "")
        return "" if _plain(first) == _plain(str(value)) else f"expected {value!r}"
    if check["kind"] == "number":
        numbers = _NUMBER.findall(answer.rsplit("####", 1)[-1]) or _NUMBER.findall(answer)
        given = numbers[0 if "####" in answer else -1] if numbers else None
        right = given is not None and float(given.replace(",", "")) == float(str(value))
        return "" if right else f"expected {value}, found {given or 'no number'}"
    if check["kind"] == "contains":
        words = set(re.findall(r"\w+", answer.lower()))
        absent = [word for word in _strings(value) if word.lower() not in words]
        return f"without {', '.join(absent)}" if absent else ""
    blocks = _BLOCK.findall(answer)
    verdict = run_program("\n".join([blocks[0] if blocks else answer, *_strings(check["tests"])]))
    return "" if verdict.passed else verdict.reason


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, Iterable) else []


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
