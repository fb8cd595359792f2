"""What the built-in strategies promise: the paper's numbers, and sense where the paper says nothing."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import MoemixError
from trainers.mixing import MixtureState, Observation, Sources, load_strategy
from trainers.mixing.distances import dissimilarity
from trainers.mixing.dynamic import Dynamic, reweigh

SHARED = Path(__file__).parents[2].parent / "shared"
FIXTURE = SHARED / "fixtures" / "mixing_updates.json"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_file(), reason=f"the published updates are not at {FIXTURE}")


def some_sources(count: int) -> Sources:
    return Sources(tuple(f"s{i:05}" for i in range(count)), np.ones(count, dtype=np.int64))


def observed(load: np.ndarray, step: int = 1) -> Observation:
    """An observation of gate load [K, E] (one layer) or [K, L, E]."""
    load_KLE = load[:, None] if load.ndim == 2 else load
    zeros = np.zeros(len(load), dtype=np.int64)
    return Observation(step, some_sources(len(load)).names, zeros, zeros, gate_load=load_KLE)


@needs_fixture
def test_dynamic_reproduces_every_published_update():
    cases = [case for case in json.loads(FIXTURE.read_text())["cases"] if case["kind"] == "load"]
    assert len(cases) == 16
    for case in cases:
        rule = load_strategy("dynamic", eta=case["eta"], c=case["c"], distance=case["sim"], aggregate=case["criterion"])
        state = rule.update(MixtureState(np.array(case["weights"])), observed(np.array(case["counts"])))
        assert np.abs(state.weights - case["new"]).max() < 1e-12


@needs_fixture
def test_dynamic_reproduces_the_published_trace_step_after_step():
    trace = json.loads(FIXTURE.read_text())["trace"]
    names = sorted(trace[0]["name2load"])
    rule = load_strategy("dynamic")
    state = rule.init(some_sources(len(names)))
    for entry in trace:
        shares = np.array([entry["name2load"][name] for name in names])
        counts = np.rint(shares * 2**15)
        assert (counts == shares * 2**15).all(), "the trace holds shares of a power-of-two token count"
        assert np.abs(state.weights - [entry["old_prob_map"][name] for name in names]).max() < 1e-12
        state = rule.update(state, observed(counts.astype(np.int64), entry["step"]))
        assert np.abs(state.weights - [entry["new_prob_map"][name] for name in names]).max() < 1e-12


def test_the_source_that_uses_other_experts_gains_and_redundant_ones_lose():
    load = np.array([[90, 10, 0, 0], [88, 12, 0, 0], [91, 9, 0, 0], [0, 0, 50, 50]])
    rule = load_strategy("dynamic")
    state = rule.init(some_sources(4))
    for _ in range(5):
        state = rule.update(state, observed(load))
    assert state.weights[3] > 0.9
    assert state.weights[:3].max() < 0.05


def test_cosine_and_aggregates_are_what_their_formulas_say():
    rng = np.random.default_rng(0)
    shares_LKE = rng.dirichlet(np.ones(6), size=(2, 5))
    unit = shares_LKE / np.linalg.norm(shares_LKE, axis=-1, keepdims=True)
    cosine = np.einsum("lie,lje->lij", unit, unit).mean(axis=0)
    l2 = np.linalg.norm(shares_LKE[:, :, None] - shares_LKE[:, None], axis=-1).mean(axis=0)
    for name in ("mean", "min", "max"):
        aggregate = getattr(np, name)
        np.testing.assert_allclose(dissimilarity(shares_LKE, "cos", name), 1 - aggregate(cosine, axis=1), atol=1e-14)
        np.testing.assert_allclose(dissimilarity(shares_LKE, "l2", name), aggregate(l2, axis=1), atol=1e-14)


def test_distances_of_many_sources_equal_those_taken_one_by_one():
    rng = np.random.default_rng(1)
    shares_LKE = rng.dirichlet(np.full(16, 0.3), size=(2, 700))
    shares_LKE[:, 5] = shares_LKE[:, 699]  # duplicates, where inner products are least exact
    one_by_one = np.array(
        [np.linalg.norm(shares_LKE - shares_LKE[:, i : i + 1], axis=2).mean(axis=0) for i in range(700)]
    )
    for name in ("mean", "min", "max"):
        expected = getattr(np, name)(one_by_one, axis=1)
        np.testing.assert_allclose(dissimilarity(shares_LKE, "l2", name), expected, rtol=1e-9, atol=1e-12)


def test_ten_thousand_sources_update_in_seconds_without_a_matrix_of_pairs():
    count = 10_000
    load = np.random.default_rng(2).integers(0, 1000, (count, 256))
    rule = load_strategy("dynamic")
    state, seen = rule.init(some_sources(count)), observed(load)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    rule.update(state, seen)
    assert time.process_time() - started < 8.0, "processor time; alone on two cores the wall time is about a second"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown * 1024 < 0.6e9, "a K×K matrix of distances alone would be 0.8 GB"


def test_a_source_without_tokens_keeps_its_last_known_load():
    load = np.array([[70, 20, 10], [10, 80, 10], [30, 30, 40]])
    missing = load.copy()
    missing[1] = 0
    rule = load_strategy("dynamic")
    known = rule.update(rule.init(some_sources(3)), observed(load))
    assert np.array_equal(rule.update(known, observed(missing)).weights, rule.update(known, observed(load)).weights)


def test_a_source_never_seen_is_neither_favoured_nor_punished():
    load = np.array([[70, 20, 10], [10, 80, 10], [30, 30, 40], [0, 0, 0]])
    rule = load_strategy("dynamic", c=0.0)
    new = rule.update(rule.init(some_sources(4)), observed(load)).weights
    others = load_strategy("dynamic", c=0.0).update(rule.init(some_sources(3)), observed(load[:3])).weights
    np.testing.assert_allclose(new[:3] / new[:3].sum(), others, rtol=1e-12)
    assert new[:3].min() < new[3] < new[:3].max()


def test_layers_choose_what_is_compared():
    same, apart = np.array([[50, 50]] * 3), np.array([[100, 0], [0, 100], [60, 40]])
    load = np.stack([apart, same], axis=1)  # [K, L, E]
    state = Dynamic().init(some_sources(3))

    def weights(layers: object) -> np.ndarray:
        return load_strategy("dynamic", layers=layers).update(state, observed(load)).weights

    np.testing.assert_allclose(weights("last"), 1 / 3, rtol=1e-12)
    assert weights([0])[2] < 0.3
    assert weights([0])[2] < weights("all")[2] < 1 / 3
    assert np.array_equal(weights([-2]), weights([0]))
    with pytest.raises(MoemixError, match="no MoE layer 2"):
        weights([2])


def test_two_sources_get_advice_and_three_do_not():
    rule = load_strategy("dynamic")
    assert "three" in (rule.advice(some_sources(2)) or "")
    assert rule.advice(some_sources(3)) is None
    assert load_strategy("uniform").advice(some_sources(2)) is None
    seen = observed(np.array([[90, 10], [20, 80]]))
    np.testing.assert_allclose(rule.update(rule.init(some_sources(2)), seen).weights, 0.5, rtol=1e-12)


@given(st.integers(2, 30), st.floats(0, 1e6), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_reweighing_stays_on_the_simplex_above_its_floor(count: int, eta: float, c: float, seed: int):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(count))
    for _ in range(3):
        weights = reweigh(weights, eta * rng.random(count), c)
        assert (weights > 0).all()
        assert abs(weights.sum() - 1) < 1e-12
        assert weights.min() >= c / count * (1 - 1e-9)


def test_a_hundred_thousand_updates_neither_overflow_nor_leave_the_simplex():
    gain = 10 * np.array([0.9, 0.5, 0.1, 0.0])
    weights = np.full(4, 0.25)
    for _ in range(100_000):
        weights = reweigh(weights, gain, 0.0)
    assert (weights > 0).all()
    assert abs(weights.sum() - 1) < 1e-12
    assert reweigh(weights, -1000 * gain, 0.0)[0] < 1e-300, "what fell can come back"


def test_static_strategies_give_their_shares():
    sources = Sources(("a", "b", "c"), np.array([10, 30, 60]))
    np.testing.assert_allclose(load_strategy("uniform").init(sources).weights, 1 / 3)
    np.testing.assert_allclose(load_strategy("datasize").init(sources).weights, [0.1, 0.3, 0.6])
    assert not load_strategy("none").trains
    assert not load_strategy("datasize").updates
    with pytest.raises(MoemixError, match="source b"):
        load_strategy("datasize").init(Sources(("a", "b"), np.array([1, 0])))
