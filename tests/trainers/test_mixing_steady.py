"""Our own rules keep the size of their step, settle, tell two sources apart, and do not follow counting errors."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.mixing import MixtureState, Observation, Sources, load_strategy

NAMES = ("a", "b", "c", "d")
LOAD = np.array([[70, 20, 10, 0], [68, 22, 9, 1], [30, 30, 20, 20], [5, 5, 10, 80]])


def seen(load: np.ndarray, **more: np.ndarray) -> Observation:
    names, zeros = NAMES[: len(load)], np.zeros(len(load), np.int64)
    return Observation(1, names, zeros, zeros, gate_load=load[:, None], **more)


def run(rule, load: np.ndarray, updates: int, **more) -> list[np.ndarray]:
    state = rule.init(Sources(NAMES[: len(load)], np.ones(len(load), np.int64)))
    found = [state.weights]
    for _ in range(updates):
        state = rule.update(state, seen(load, **more))
        found.append(state.weights)
    return found


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_the_step_is_the_stated_one_whatever_the_scale_of_the_distances(spread):
    load = np.rint(1e9 * (25 + spread * (LOAD - 25))).astype(np.int64)
    first, second = run(load_strategy("steady", step=0.3, c=0.0), load, 1)
    gain = np.log(second) - np.log(first)
    assert 0.3 <= np.ptp(gain) <= 2 * 0.3 + 1e-9
    assert second.argmax() == 3
    at_full_spread = run(load_strategy("steady", step=0.3, c=0.0), LOAD * 10**9, 1)[1]
    np.testing.assert_allclose(second, at_full_spread, rtol=0.01)


def test_weights_settle_where_no_source_is_much_further_from_the_mixture():
    steady = run(load_strategy("steady"), LOAD * 10**6, 400)
    dynamic = run(load_strategy("dynamic"), LOAD * 10**6, 400)
    assert np.abs(steady[-1] - steady[-40:]).max() < 0.1
    assert steady[-1].max() < 0.75 < 0.9 < dynamic[-1].max()


def test_two_sources_are_drawn_to_a_balance_from_anywhere():
    rule, load = load_strategy("steady", c=0.0), LOAD[[0, 3]] * 10**6
    state = MixtureState(np.array([0.9, 0.1]))
    for _ in range(200):
        state = rule.update(state, seen(load))
    np.testing.assert_allclose(state.weights, 0.5, atol=0.06)


def test_loads_that_differ_by_counting_alone_move_little():
    rng = np.random.default_rng(0)
    moves = []
    for tokens in (300, 300_000):
        for seed in range(20):
            load = np.random.default_rng(seed).multinomial(tokens, [0.4, 0.3, 0.2, 0.1], 4)
            moves.append(np.abs(run(load_strategy("steady", step=1.0), load, 1)[1] - 0.25).max())
    apart = np.abs(run(load_strategy("steady", step=1.0), rng.permutation(LOAD) * 100, 1)[1] - 0.25).max()
    assert np.mean(moves) < 0.5 * apart


def test_progress_moves_weight_to_what_still_falls():
    same = np.tile(LOAD[:1] * 10**6, (4, 1))
    weights = run(load_strategy("steady_progress"), same, 5, learning_progress=np.array([0.0, 0.0, 0.1, 0.0]))[-1]
    assert weights.argmax() == 2


def test_probabilities_are_compared_as_loads_are():
    share = LOAD / LOAD.sum(axis=1, keepdims=True)
    rule = load_strategy("steady_probability")
    state = rule.init(Sources(NAMES, np.ones(4, np.int64)))
    zeros = np.zeros(4, np.int64)
    new = rule.update(state, Observation(1, NAMES, zeros, zeros, router_probability=share[:, None])).weights
    np.testing.assert_allclose(new, run(load_strategy("steady"), LOAD * 10**12, 1)[1], rtol=1e-4)
