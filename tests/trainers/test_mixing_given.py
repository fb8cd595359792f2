"""``static`` takes the weights that a recipe gives, and says what is wrong with others."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import MoemixError
from trainers.mixing import Sources, load_strategy
from trainers.mixing.contract import check_strategy

SOURCES = Sources(("chat", "code", "math"), np.array([10, 20, 30]))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, [1 / 3, 1 / 3, 1 / 3]),
        ({"math": 0.5}, [0.25, 0.25, 0.5]),
        ({"math": 1}, [0, 0, 1]),
        ({"chat": 0, "code": 0.25, "math": 0.75}, [0, 0.25, 0.75]),
        ({"chat": 0.333, "code": 0.333, "math": 0.3335}, [0.333 / 0.9995, 0.333 / 0.9995, 0.3335 / 0.9995]),
    ],
)
def test_given_weights_are_the_weights_and_the_rest_share_what_is_left(weights, expected):
    state = load_strategy("static", weights=weights).init(SOURCES)
    assert state.weights.tolist() == pytest.approx(expected, abs=1e-12)
    assert abs(state.weights.sum() - 1) < 1e-12


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"maths": 0.5}, "did you mean 'math'"),
        ({"chat": 0.7, "math": 0.5}, "the weights sum to 1.2"),
        ({"chat": 0.2, "code": 0.2, "math": 0.2}, "must sum to 1 if every source is named"),
        ({"chat": -0.1}, "static.weights.chat: weight must be finite and >= 0, got -0.1"),
        ({"chat": float("nan")}, "must be finite and >= 0, got nan"),
        ({"chat": "half"}, "static.weights: "),
    ],
)
def test_weights_that_are_none_are_told(weights, message):
    with pytest.raises(MoemixError, match=message):
        load_strategy("static", weights=weights).init(SOURCES)


def test_it_keeps_the_contract():
    check_strategy(load_strategy("static"))
