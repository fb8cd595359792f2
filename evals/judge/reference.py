"""The reference grader: no judge, only answers that can be checked, right or wrong by a fixed rule.

It stands in where there is no judge model. Its scores are the share of right answers; they say nothing about writing,
and no table calls them by the name of a judged bench.

A question's ``checks`` has an entry for each turn:

    {"kind": "text", "value": "In reverse: c b a."}    the answer's first line, but for case, spaces and a final stop
    {"kind": "number", "value": 7}                     the number after the answer's last "####", else its last number
    {"kind": "contains", "value": ["red", "blue"]}     every one of these, as words, in any order
    {"kind": "program", "tests": ["assert f(2) == 4"]} the answer's code, followed by the tests, runs in the sandbox
    {"kind": "none"}                                   this turn cannot be checked
"""

from __future__ import annotations

import re
import time
from typing import Any

from evals.judge.endpoint import Reply
from evals.judge.prompts import Match, Prompt, Verdict
from evals.sandbox import available, run_program
from harness.errors import MoemixError
from harness.files import hash_value

NAME = "reference grader"
KINDS = {"text": "value", "number": "value", "contains": "value", "program": "tests", "none": None}
VERSION = 1
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_BLOCK = re.compile(r"```(?:\w+)?\n(.*?)(?:```|\Z)", re.DOTALL)


class ReferenceGrader:
    """Compares an answer with what its question expects; the score is 1 or 0."""

    name = "reference"

    @property
    def fingerprint(self) -> str:
        return hash_value(["reference grader", VERSION])

    def prompt(self, match: Match) -> Prompt:
        """The record of what is compared: nobody is asked."""
        check = match.question.checks[match.turn - 1]
        return Prompt(f"check-{check['kind']}", "", f"{check}\n\n{match.answers[0].turns[match.turn - 1]}")

    def verdict(self, reply: str, match: Match) -> Verdict:
        return Verdict(score=float(reply.startswith("right")))

    def grade(self, match: Match) -> Reply:
        """``right`` or ``wrong: …``; a reason where the answer cannot be checked here."""
        started = time.monotonic()
        check = match.question.checks[match.turn - 1]
        answer = match.answers[0].turns[match.turn - 1]
        if check["kind"] == "program" and (missing := available()):
            return Reply(reason="no_sandbox", detail=missing, attempts=0)
        wrong = _wrong(check, answer)
        text = f"wrong: {wrong}" if wrong else "right"
        return Reply(text, attempts=0, seconds=time.monotonic() - started)


def check_checks(checks: tuple[dict[str, Any], ...], where: str) -> None:
    """Refuse checks of an unknown kind, or without what they compare with."""
    for check in checks:
        if check["kind"] not in KINDS:
            raise MoemixError(
                f"unknown check {check['kind']!r}", where=where, hint=f"valid: {', '.join(sorted(KINDS))}"
            )
        needed = KINDS[check["kind"]]
        if needed and needed not in check:
            raise MoemixError(f"a check of kind {check['kind']} needs `{needed}`", where=where)


def _wrong(check: dict[str, Any], answer: str) -> str:
    """Why an answer is wrong; empty if it is right."""
    if check["kind"] == "text":
        first = next((line for line in answer.splitlines() if line.strip()), "")
        return "" if _plain(first) == _plain(str(check["value"])) else f"expected {check['value']!r}"
    if check["kind"] == "number":
        numbers = _NUMBER.findall(answer.rsplit("####", 1)[-1]) or _NUMBER.findall(answer)
        given = numbers[0 if "####" in answer else -1] if numbers else None
        right = given is not None and float(given.replace(",", "")) == float(check["value"])
        return "" if right else f"expected {check['value']}, found {given or 'no number'}"
    if check["kind"] == "contains":
        words = set(re.findall(r"\w+", answer.lower()))
        absent = [word for word in check["value"] if word.lower() not in words]
        return f"without {', '.join(absent)}" if absent else ""
    blocks = _BLOCK.findall(answer)
    verdict = run_program("\n".join([blocks[0] if blocks else answer, *check["tests"]]))
    return "" if verdict.passed else verdict.reason


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
