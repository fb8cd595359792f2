"""Length control against the length-controlled win rates that AlpacaEval 2 published for 58 models."""

from __future__ import annotations

import numpy as np
import pytest
from length_coefficients import GAMED, MODELS, expected, simulated
from scipy.stats import spearmanr

from evals.judge import win_rates

PUBLISHED = np.array([model.controlled for model in MODELS])


def test_the_published_coefficients_give_the_published_rates():
    rates = np.array([expected(model) for model in MODELS])
    assert np.abs(rates - PUBLISHED).max() < 0.6
    assert spearmanr(rates, PUBLISHED)[0] > 0.998


@pytest.mark.parametrize(("chance", "order", "difference"), [(False, 0.98, 1.5), (True, 0.96, 1.5)])
def test_rates_at_equal_length_are_the_published_ones(monkeypatch, chance, order, difference):
    """With chance, no estimate from 805 questions is exact: the true difficulties without a penalty give 0.97, too."""
    monkeypatch.setattr(win_rates, "_REFITS", 2)  # only the estimates matter here
    pairs = simulated([*MODELS, GAMED], 805, chance=chance)
    names = [f"m{number}" for number in range(len(MODELS))]
    found = {name: np.array([100 * getattr(win_rates, name)(pairs, model).value for model in names])
             for name in ("win_rate", "length_controlled")}  # fmt: skip
    for name, rates in found.items():
        correlation, apart = spearmanr(rates, PUBLISHED)[0], np.abs(rates - PUBLISHED).mean()
        print(f"{name}, chance {chance}: Spearman {correlation:.3f}, mean difference {apart:.1f} points")
    # judgments unlike the published ones would show nothing
    assert np.abs(found["win_rate"] - [model.plain for model in MODELS]).mean() < 2.5
    assert correlation >= order
    assert apart <= difference
    gamed = 100 * win_rates.length_controlled(pairs, f"m{len(MODELS)}").value
    print(f"answers of {GAMED.characters} characters: {gamed:.1f}, published {GAMED.controlled}")
    assert 2.0 < gamed < 15.0  # its own pairs alone, all shorter than the baseline's, would give 37 with chance
