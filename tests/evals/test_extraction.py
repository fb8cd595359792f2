"""The final answer is read from what a chat model writes around it."""

from __future__ import annotations

import pytest
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble

from evals.extraction import FILTERS


def read(name, text):
    """The answer that a filter finds in a text."""
    steps = [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in FILTERS[name]]
    request = Instance("generate_until", {}, ("", {}), 0, metadata=("t", 0, 1), resps=[text])
    build_filter_ensemble(name, [*steps, ("take_first", {})]).apply([request])
    return request.filtered_resps[name]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is $29.00.", "29"),
        ("The answer is 1,234.", "1,234"),
        ("So she has 18 dollars left. ...", "18"),
        ("The answer is 5. (Step 3 of 3)", "5"),
        ("The answer is 70%.", "70"),
        ("The answer is 12 eggs, or 1 dozen.", "12"),
        ("The answer is 10:30.", "10"),
        ("The answer is -5.", "-5"),
        ("The total is 8. Thank you, ...", "8"),
        ("It is \\boxed{42}, after 3 steps.", "42"),
    ],
)
def test_a_number_is_read_as_it_is_meant(text, number):
    assert read("number", text).lstrip("$") == number


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("stripped", " (A)\n", "(A)"),
        ("short-answer", "We think.\nSo the answer is **(Q)**.", "(Q)"),
        ("short-answer", "No", "No"),
        ("choice", "(A) and (B) look right. The answer is B.", "B"),
        ("choice", "I would say (C).", "C"),
        ("code", "Here:\n\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("code", "Sure.\ndef f():\n    return 1", "def f():\n    return 1"),
    ],
)
def test_an_answer_is_read_from_the_text_around_it(name, text, answer):
    assert read(name, text) == answer
