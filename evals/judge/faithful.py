"""The ``faithful`` protocol: FastChat's templates, parsing and averaging.

The templates are read from FastChat's own ``judge_prompts.jsonl``, which lies in a data root (``mt_bench/``) or is
given by the user: their text is not part of this project.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from evals.judge.prompts import Match, Prompt, Verdict
from harness.errors import MoemixError
from harness.files import hash_value, read_jsonl

# {single, pair} × {default, math} × {one turn, multi-turn}
NAMES = {
    (False, False): "single-v1",
    (False, True): "single-math-v1",
    (True, False): "pair-v2",
    (True, True): "pair-math-v1",
}
MULTI_TURN = "-multi-turn"
_RATING = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_WINNERS = (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"))


class Faithful:
    """FastChat's eight templates and the rules of its ``llm_judge``."""

    name = "faithful"

    def __init__(self, templates: Path) -> None:
        self.templates = read_templates(templates)

    @property
    def fingerprint(self) -> str:
        return hash_value(self.templates)

    def prompt(self, match: Match) -> Prompt:
        template = self.templates[self._name(match)]
        question, multi = match.question, match.turn == 2
        values: dict[str, str] = {}
        if match.guided:
            values |= {f"ref_answer_{i}": text for i, text in enumerate(question.reference[:2], 1)}
        sides = ("_a", "_b") if match.pairwise else ("",)
        for side, answer in zip(sides, match.answers, strict=True):
            if multi:
                values |= {f"answer{side}_{i}": text for i, text in enumerate(answer.turns[:2], 1)}
            else:
                values[f"answer{side}"] = answer.turns[0]
        if multi:
            values |= {f"question_{i}": text for i, text in enumerate(question.turns[:2], 1)}
        else:
            values["question"] = question.turns[0]
        return Prompt(template["name"], template["system_prompt"], template["prompt_template"].format(**values))

    def verdict(self, reply: str, match: Match) -> Verdict:
        if match.pairwise:
            winner = pair_winner(reply)
            return Verdict(winner=winner, reason="no_verdict" if winner == "error" else None)
        score = rating(reply)
        return Verdict(score=score, reason="no_verdict" if score == -1 else None)

    @staticmethod
    def _name(match: Match) -> str:
        return NAMES[match.pairwise, match.guided] + (MULTI_TURN if match.turn == 2 else "")


def rating(reply: str) -> float:
    """FastChat's score of a reply: its first ``[[number]]``, else its first ``[number]``, else −1.

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
    """FastChat's verdict of a reply: ``[[A]]`` anywhere, else ``[[B]]``, else ``[[C]]`` for a tie, else error."""
    return next((winner for mark, winner in _WINNERS if mark in reply), "error")


def read_templates(file: Path) -> dict[str, dict[str, Any]]:
    """The eight templates that judging uses, from FastChat's file.

    Raises:
        MoemixError: the file does not exist, or lacks a template or a key.
    """
    if not file.is_file():
        raise MoemixError("the judge templates do not exist", where=str(file))
    held = {}
    for number, row in enumerate(read_jsonl(file), 1):
        missing = {"name", "system_prompt", "prompt_template", "output_format"} - set(row)
        if missing:
            raise MoemixError(f"the template lacks {', '.join(sorted(missing))}", where=f"{file}:{number}")
        held[row["name"]] = row
    wanted = [name + ending for name in NAMES.values() for ending in ("", MULTI_TURN)]
    if absent := [name for name in wanted if name not in held]:
        raise MoemixError(f"templates are missing: {', '.join(absent)}", where=str(file))
    return {name: held[name] for name in wanted}
