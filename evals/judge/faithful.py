"""The ``faithful`` protocol: FastChat's templates, parsing and averaging.

The text of the templates is not part of this project: they are read from FastChat's own ``judge_prompts.jsonl``, in
the data root (``mt_bench/``) or given by the user.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from evals.judge.records import Match, Prompt, Verdict
from harness.errors import MoemixError
from harness.files import hash_value, read_jsonl

# (pairwise, with a reference answer) → template; the template of a second turn has MULTI_TURN behind its name
NAMES = {
    (False, False): "single-v1",
    (False, True): "single-math-v1",
    (True, False): "pair-v2",
    (True, True): "pair-math-v1",
}
MULTI_TURN = "-multi-turn"
_KEYS = ("name", "system_prompt", "prompt_template", "output_format")
_RATING = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_WINNERS = (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"))


class Faithful:
    """FastChat's eight templates and the rules of its ``llm_judge``.

    Args:
        templates: FastChat's ``judge_prompts.jsonl``.
    """

    name = "faithful"

    def __init__(self, templates: Path) -> None:
        self.templates = read_templates(templates)

    @property
    def fingerprint(self) -> str:
        """Hash of the templates."""
        return hash_value(self.templates)

    def prompt(self, match: Match) -> Prompt:
        """Fill in FastChat's template for a match."""
        question, multi = match.question, match.turn == 2
        template = self.templates[NAMES[match.pairwise, match.guided] + (MULTI_TURN if multi else "")]
        values: dict[str, str] = {}
        if match.guided:
            values |= _numbered("ref_answer", question.reference)
        sides = ("_a", "_b") if match.pairwise else ("",)
        for side, answer in zip(sides, match.answers, strict=True):
            values |= _numbered(f"answer{side}", answer) if multi else {f"answer{side}": answer[0]}
        values |= _numbered("question", question.turns) if multi else {"question": question.turns[0]}
        return Prompt(template["name"], template["system_prompt"], template["prompt_template"].format(**values))

    def verdict(self, reply: str, match: Match) -> Verdict:
        """Parse a reply as FastChat does."""
        if match.pairwise:
            winner = pair_winner(reply)
            return Verdict(winner=winner, reason="no_verdict" if winner == "error" else None)
        score = rating(reply)
        return Verdict(score=score, reason="no_verdict" if score == -1 else None)


def _numbered(field: str, texts: tuple[str, ...]) -> dict[str, str]:
    return {f"{field}_{number}": text for number, text in enumerate(texts[:2], 1)}


def rating(reply: str) -> float:
    """Return FastChat's score of a reply: its first ``[[number]]``, else its first ``[number]``, else −1.

    A number with a leading zero (``[[07]]``), on which FastChat stops with a syntax error, is −1.
    """
    found = next((match for pattern in _RATING if (match := pattern.search(reply))), None)
    if found is None:
        return -1
    try:
        value: float = ast.literal_eval(found.group(1))
    except SyntaxError:
        return -1
    return value


def pair_winner(reply: str) -> str:
    """Return FastChat's verdict: ``[[A]]`` anywhere, else ``[[B]]``, else ``[[C]]`` for a tie, else ``error``."""
    return next((winner for mark, winner in _WINNERS if mark in reply), "error")


def read_templates(file: Path) -> dict[str, dict[str, str]]:
    """Read the eight templates that judging uses from FastChat's file.

    Raises:
        MoemixError: the file does not exist, or lacks a template or a key.
    """
    if not file.is_file():
        raise MoemixError("the file of judge templates does not exist", where=str(file))
    templates = {}
    for number, row in enumerate(read_jsonl(file), 1):
        if missing := sorted(set(_KEYS) - set(row)):
            raise MoemixError(f"the template has no {', '.join(missing)}", where=f"{file}:{number}")
        templates[row["name"]] = row
    names = [name + ending for name in NAMES.values() for ending in ("", MULTI_TURN)]
    if absent := [name for name in names if name not in templates]:
        raise MoemixError(f"templates are missing: {', '.join(absent)}", where=str(file),
                          hint="expected FastChat's judge_prompts.jsonl")  # fmt: skip
    return {name: templates[name] for name in names}
