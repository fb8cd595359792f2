"""Length control against the length-controlled win rates that AlpacaEval 2 published for 58 models."""

from __future__ import annotations

import numpy as np
from length_coefficients import MODELS, expected, simulated
from scipy.stats import spearmanr

from evals.judge import win_rates

PUBLISHED = np.array([model.controlled for model in MODELS])


def test_the_published_coefficients_give_the_published_rates():
    rates = np.array([expected(model) for model in MODELS])
    assert np.abs(rates - PUBLISHED).max() < 0.6
    assert spearmanr(rates, PUBLISHED)[0] > 0.998


def test_rates_at_equal_length_are_the_published_ones(monkeypatch):
    monkeypatch.setattr(win_rates, "_REFITS", 2)  # only the estimates matter here
    pairs = simulated(MODELS, 805)
    names = [f"m{number}" for number in range(len(MODELS))]
    plain = np.array([100 * win_rates.win_rate(pairs, name).value for name in names])
    controlled = np.array([100 * win_rates.length_controlled(pairs, name).value for name in names])
    for label, rates in (("plain", plain), ("length-controlled", controlled)):
        print(f"{label}: Spearman {spearmanr(rates, PUBLISHED)[0]:.3f}, "
              f"mean difference {np.abs(rates - PUBLISHED).mean():.1f} points")  # fmt: skip
    # the judgments are like those that were published, or this would show nothing
    assert np.abs(plain - [model.plain for model in MODELS]).mean() < 2.5
    assert spearmanr(controlled, PUBLISHED)[0] >= 0.98
    assert np.abs(controlled - PUBLISHED).mean() <= 1.5
