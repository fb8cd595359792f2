"""How hard a rule pulls, and where the weights settle, is known after one observation."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.mixing import MixtureState, Observation
from trainers.mixing.dynamic import Dynamic
from trainers.mixing.regime import PAPER_PULL, Regime
from trainers.mixing.simplex import even


def observed(spread: float) -> Observation:
    """Four sources, of which the last is routed unlike the others."""
    shares = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5 + spread, 0.5 - spread]])
    load = np.round(1e6 * shares[:, None, :]).astype(np.int64)
    none = np.zeros(4, dtype=np.int64)
    return Observation(10, ("a", "b", "c", "d"), none, none, gate_load=load)


@pytest.mark.parametrize(("eta", "corner"), [(10.0, True), (0.3, False)])
def test_the_weights_settle_where_many_updates_take_them(eta, corner):
    rule, seen = Dynamic(eta=eta), observed(0.2)
    first = MixtureState(even(4))
    after = rule.update(first, seen)
    regime = rule.regime(first, after)
    for _ in range(400):
        after = rule.update(after, seen)
    assert np.allclose(regime.settles, after.weights, atol=1e-6)
    assert regime.corner is corner
    assert Dynamic(eta=regime.eta_as_in_the_paper(eta)).regime(first, after).pull == pytest.approx(PAPER_PULL)


def test_the_pull_is_eta_times_the_spread_of_the_distances():
    regime = Regime(even(3), 10 * np.array([0.01, 0.014, 0.012]), 0.05)
    assert regime.pull == pytest.approx(0.04)
    assert not regime.corner


def test_gate_loads_that_are_equal_pull_nowhere():
    regime = Dynamic().regime(MixtureState(even(4)), Dynamic().update(MixtureState(even(4)), observed(0.0)))
    assert regime.pull == 0
    assert np.allclose(regime.settles, even(4))
