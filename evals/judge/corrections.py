"""MT-Bench's reference answers where they are wrong, worked out anew and in our own words.

Thirteen of the thirty published references (GPT-4's) have a wrong turn; ``corrections.jsonl`` has the right answers to
those eighteen turns. They are found by the question's text, so they touch no other bench.
"""

from __future__ import annotations

import functools
from pathlib import Path

from evals.judge.questions import Question
from harness.files import hash_value, read_jsonl

FILE = Path(__file__).with_name("corrections.jsonl")


def corrected(question: Question, turn: int) -> str:
    """The reference answer to a turn (0 or 1), ours where the published one is wrong."""
    return _corrections().get((hash_value(list(question.turns))[:12], turn), question.reference[turn])


@functools.cache
def _corrections() -> dict[tuple[str, int], str]:
    return {(row["question"], row["turn"] - 1): row["reference"] for row in read_jsonl(FILE)}
