"""The continuous forms of tasks: probabilities of right choices, bits per byte of gold answers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from evals.continuous import continuous_scores


class Halving:
    """Gives each byte of a continuation the probability one half."""

    def loglikelihood(self, requests):
        return [(-math.log(2) * len(request.args[1].encode()), False) for request in requests]


def task(kind, **metadata):
    config = SimpleNamespace(target_delimiter=" ", metadata=metadata, metric_list=[])
    return SimpleNamespace(OUTPUT_TYPE=kind, config=config)


def sample(number, **fields):
    return {"doc_id": number, "doc_hash": str(number), "doc": {}, "arguments": [("prompt", {})], **fields}


def test_the_right_choice_has_its_share_of_the_probability():
    answers = [[(math.log(0.1), False)], [(math.log(0.3), False)]]
    samples = {"t": [sample(0, target=1, resps=answers), sample(1, target="0", resps=answers)]}
    (found,) = continuous_scores(Halving(), {"t": task("multiple_choice")}, samples, chat_template=False)
    assert found.measure == "choice_probability"
    assert found.values == pytest.approx((0.75, 0.25))


def test_a_gold_answer_costs_bits_by_its_bytes_and_each_question_is_asked_once():
    samples = {"t": [sample(0, target="wörds", resps=[]), sample(0, target="wörds", resps=[]), sample(1, target=["a"])]}
    (found,) = continuous_scores(Halving(), {"t": task("generate_until")}, samples, chat_template=False)
    assert found.doc_ids == (0,)
    assert found.values == pytest.approx((1.0,))


def test_the_gold_answer_of_a_program_is_its_reference_solution_and_never_its_tests():
    samples = {"t": [sample(0, target="assert f(1)", doc={"gold": "def f(x):"}), sample(1, target="assert f(1)")]}
    (found,) = continuous_scores(Halving(), {"t": task("generate_until", sandbox=True)}, samples, chat_template=True)
    assert found.doc_ids == (0,)


def test_tasks_without_a_continuous_form_are_left_out():
    samples = {"t": [sample(0, target="a")]}
    assert continuous_scores(Halving(), {"t": task("loglikelihood_rolling")}, samples, chat_template=True) == []
