"""What docs/paper.md says of the released weights follows from them by inverting the update."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import fsolve

from trainers.mixing.simplex import reweigh

PAGE = (Path(__file__).parents[2] / "docs" / "paper.md").read_text(encoding="utf-8")
FIRST = np.array([0.24664808, 0.31725317, 0.22705123, 0.20904752])  # code, math, orca, sharegpt: gate_load.json
LAST = np.array([0.28506630, 0.32022977, 0.21494599, 0.17975794])  # llama_moe_dynamic_final.json
MOLM = np.array([0.93482143, 0.02252052, 0.02292703, 0.01973102])  # moduleformer_dynamic_final.json
EVEN = np.full(4, 0.25)


def after(delta: np.ndarray, updates: int, c: float = 0.05) -> np.ndarray:
    weights = EVEN
    for _ in range(updates):
        weights = reweigh(weights, 10 * delta, c)
    return weights


def constant_distances(last: np.ndarray, updates: int, c: float = 0.05) -> np.ndarray:
    def missed(free: np.ndarray) -> np.ndarray:
        return (after(np.append(free, -free.sum()), updates, c) - last)[:3]

    free = fsolve(missed, np.zeros(3), xtol=1e-12)
    return np.append(free, -free.sum())


def test_the_spread_of_distances_shrank_ninefold():
    first, last = constant_distances(FIRST, 1), constant_distances(LAST, 20)
    assert np.ptp(first) == pytest.approx(0.044, abs=5e-4)
    assert np.ptp(last) == pytest.approx(0.005, abs=5e-4)
    assert np.ptp(first) / np.ptp(last) == pytest.approx(9, abs=0.2)
    assert after(first, 20)[1] == pytest.approx(0.87, abs=5e-3)
    assert "0.044" in PAGE
    assert "ninefold" in PAGE


def test_molm_at_the_small_c_is_near_the_corner():
    assert MOLM[0] > 0.97 * (1 - 0.05 * 3 / 4), "c leaves at most 0.9625"
    assert "93.5 %" in PAGE
