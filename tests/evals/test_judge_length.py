"""Length control against known true rates, with the coefficients that AlpacaEval published for 58 models."""

from __future__ import annotations

import numpy as np
from length_coefficients import COEFFICIENTS, simulated
from scipy.stats import spearmanr

from evals.judge import win_rates


def test_rates_at_equal_length_are_the_true_ones(monkeypatch):
    monkeypatch.setattr(win_rates, "_REFITS", 2)  # only the estimates matter here
    pairs, truth = simulated(COEFFICIENTS, 805)
    right = np.array([*truth.values()])
    found = {}
    for name, rate in (("plain", win_rates.win_rate), ("length-controlled", win_rates.length_controlled)):
        values = np.array([getattr(rate(pairs, model), "value", np.nan) for model in truth])
        found[name] = spearmanr(values, right)[0], 100 * np.abs(values - right).mean()
        print(f"{name}: Spearman {found[name][0]:.3f}, mean difference {found[name][1]:.1f} points")
    assert found["length-controlled"][0] > 0.95
    assert found["length-controlled"][1] < 1.5
