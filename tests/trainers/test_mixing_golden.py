"""Every strategy gives the weights that it gave when its row was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trainers.mixing import MixtureState, load_strategy
from trainers.mixing.contract import made_up_sources, observation
from trainers.mixing.registry import STRATEGIES

LINES = (Path(__file__).parent / "golden" / "strategy_weights.jsonl").read_text().splitlines()
ROWS = [json.loads(line) for line in LINES]
"""Strategy, options, scenario, and the weights after the observation at the start and twelve updates."""


def last_state(row: dict) -> MixtureState:
    """The state after twelve updates; every third observation is a normal one."""
    rule, sources = load_strategy(row["strategy"], **row["options"]), made_up_sources(5, 3)
    state = rule.init(sources)
    if rule.at_start:
        state = rule.start(state, observation(sources, rule.at_start, row["scenario"], 7, step=0))
    for i in range(12 if rule.updates else 0):
        scenario = row["scenario"] if i % 3 else "normal"
        state = rule.update(state, observation(sources, rule.signals, scenario, 11 + i, step=10 * (i + 1)))
    return state


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['strategy']} {row['options']} {row['scenario']}")
def test_weights_are_those_of_the_file(row: dict):
    # other machines round exp and log otherwise; a changed rule is off by far more
    np.testing.assert_allclose(last_state(row).weights, row["weights"], rtol=1e-9, atol=1e-300)


def test_every_built_in_strategy_is_among_them():
    assert {row["strategy"] for row in ROWS} == set(STRATEGIES.builtin)
