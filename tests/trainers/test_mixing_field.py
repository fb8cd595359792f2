"""The field's strategies, against numbers computed by hand and worlds whose answer is known."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from test_mixing_strategies import some_sources

from harness.errors import MoemixError
from trainers.mixing import MixtureState, Observation, Reference, Sources, load_strategy, strategy_cards
from trainers.mixing.ado import fit_laws
from trainers.mixing.contract import observation

NAN = math.nan


def sources_of(count: int, steps: int = 0) -> Sources:
    reference = Reference(np.full(count, 1 / count), np.ones(count))
    return Sources(some_sources(count).names, np.ones(count, np.int64), steps, reference=reference)


def seen(step: int = 1, examples: np.ndarray | None = None, **signals: list | np.ndarray) -> Observation:
    arrays = {name: np.asarray(values) for name, values in signals.items()}
    count = len(next(iter(arrays.values())))
    zeros = np.zeros(count, dtype=np.int64)
    return Observation(step, some_sources(count).names, zeros if examples is None else examples, zeros, **arrays)


def at(state: MixtureState, weights: list[float]) -> MixtureState:
    return MixtureState(np.array(weights), state.memory)


def test_temperature_two_is_the_square_root_of_the_sizes():
    sources = Sources(("a", "b", "c"), np.array([100, 400, 900]))
    np.testing.assert_allclose(load_strategy("temperature").init(sources).weights, [1 / 6, 2 / 6, 3 / 6], rtol=1e-14)
    flat = load_strategy("temperature", temperature=1e9).init(sources).weights
    np.testing.assert_allclose(flat, 1 / 3, rtol=1e-6)


def test_doremi_is_a_multiplicative_step_on_the_excess_loss_and_reports_its_time_average():
    rule = load_strategy("doremi", eta=1.0, epsilon=0.1)
    state = rule.init(sources_of(3))
    first = rule.update(state, seen(excess_loss=[math.log(2), 0.0, math.log(3)]))
    np.testing.assert_allclose(first.weights, [0.9 * 2 / 6 + 0.1 / 3, 0.9 / 6 + 0.1 / 3, 0.9 * 3 / 6 + 0.1 / 3])
    second = rule.update(first, seen(excess_loss=[0.0, 0.0, 0.0]))
    np.testing.assert_allclose(second.weights, 0.9 * first.weights + 0.1 / 3)
    np.testing.assert_allclose(rule.average(second), (first.weights + second.weights) / 2)
    assert (rule.scales, rule.needs) == ("loss", "uniform")


def test_doge_scores_the_agreement_of_clipped_gradients():
    gradient = np.array([[3.0, 4.0], [0.6, 0.8], [0.0, -1.0]], dtype=np.float32)  # norms 5, 1, 1; the first is clipped
    rule = load_strategy("doge", mu=0.1, rate=0.1, clip=1.0)
    new = rule.update(rule.init(sources_of(3)), seen(gradient=gradient))
    gain = np.exp([1.2, 1.2, 0.0])  # with Σ g = (1.2, 0.6); the third disagrees, −0.6, and is clipped at zero
    np.testing.assert_allclose(new.weights, gain / gain.sum(), rtol=1e-5)
    alone = load_strategy("doge", mu=0.1, rate=0.1, clip=1.0, own=False)
    gain = np.exp([0.2, 0.2, 0.0])  # less ‖g‖² = 1 each
    np.testing.assert_allclose(
        alone.update(rule.init(sources_of(3)), seen(gradient=gradient)).weights, gain / gain.sum(), rtol=1e-5
    )
    assert rule.scales == "loss"


def test_odm_takes_a_loss_whose_exponential_no_float_can_hold():
    rule = load_strategy("odm")
    state = rule.init(sources_of(3))
    for step in range(1, 51):
        state = rule.update(state, seen(step, train_loss=[2000.0, 1.0, 1.0]))
    assert state.weights[0] > 0.8


def test_skill_it_weighs_the_losses_of_a_window_by_the_graph():
    rule = load_strategy("skill_it", eta=0.5, window=2, graph=[[1, 1], [0, 1]])
    state = rule.init(sources_of(2))
    for losses in ([9.0, 9.0], [1.0, 2.0], [0.5, NAN]):
        state = rule.update(state, seen(probe_loss=losses))
    total = np.array([1.0 + 0.5, 2.0 + 2.0])  # the first update has left the window; what was not seen stays
    power = np.exp(0.5 * np.array([total.sum(), total[1]]))
    np.testing.assert_allclose(state.weights, power / power.sum(), rtol=1e-12)
    plain = load_strategy("skill_it")
    power = np.exp(0.2 * np.array([1.0, 2.0]))
    np.testing.assert_allclose(
        plain.update(plain.init(sources_of(2)), seen(probe_loss=[1.0, 2.0])).weights, power / power.sum()
    )
    with pytest.raises(MoemixError, match="not 3 × 3"):
        rule.init(sources_of(3))


def test_aioli_finds_out_who_helps_whom_and_follows():
    graph = np.array([[0.3, 0.0, 0.1], [0.0, 0.2, 0.0], [0.1, 0.0, 0.5]])  # A_ij: the fall of i by an interval on j
    first, second = graph / graph.sum(), np.eye(3) / 3
    rule = load_strategy("aioli", hold=2, ema=0.5)
    loss = np.array([5.0, 5.0, 5.0])
    state = rule.start(rule.init(sources_of(3)), seen(0, probe_loss=loss))
    probes = []
    for step in range(1, 19):
        probes.append(state.weights)
        loss = loss - graph @ state.weights
        state = rule.update(state, seen(step, probe_loss=loss))
        if step == 3:
            np.testing.assert_allclose(state.memory["graph"], first, atol=1e-12)
            power = np.exp(first.sum(axis=0))
            np.testing.assert_allclose(state.weights, power / power.sum(), rtol=1e-12)
        if step == 9:
            graph = second
    np.testing.assert_allclose(state.memory["graph"], (first + second) / 2, atol=1e-12)
    assert [int(weights.argmax()) for weights in probes[:3]] == [int(w.argmax()) for w in probes[9:12]] == [0, 1, 2]
    assert np.ptp(probes[3:9], axis=0).max() == 0, "twice as long as it probed, the weights stay"
    assert rule.interval(sources_of(3, steps=180)) == 10


def test_ado_recovers_scaling_laws_and_prefers_what_still_falls():
    n = np.cumsum(np.full(20, 3200.0))
    laws = np.array([[1.0, 8.0, 0.3], [2.0, 3.0, 0.5], [0.5, 2.0, 0.1]]).T  # ε, β, α of three sources
    losses = (laws[0] + laws[1] * n[:, None] ** -laws[2]).copy()
    fitted = fit_laws(n, losses)
    predicted = fitted[0] + fitted[1] * n[:, None] ** -fitted[2]
    np.testing.assert_allclose(predicted, losses, rtol=2e-3)
    slope, true_slope = (law[1] * law[2] * n[-1] ** -law[2] for law in (fitted, laws))
    np.testing.assert_allclose(slope / slope.sum(), true_slope / true_slope.sum(), atol=0.05)

    rule = load_strategy("ado", prior="even", warmup=4)
    state = rule.init(sources_of(3))
    for step in range(1, 21):
        examples = np.rint(np.full(3, n[step - 1] / 3)).astype(np.int64)
        state = rule.update(state, seen(step, examples, train_loss=losses[step - 1]))
        if step < 4:
            np.testing.assert_array_equal(state.weights, 1 / 3)
    assert (np.argsort(state.weights) == np.argsort(true_slope)).all()
    assert state.weights.max() < 1 / 3 + (true_slope / true_slope.sum()).max(), "smoothed, not jumped to"


def test_ado_is_not_disturbed_by_sources_without_a_law():
    n = np.array([100.0, 200.0, 300.0, 400.0])
    losses = np.array([[3.0, NAN, 2.0], [2.5, NAN, 2.0], [2.3, NAN, 2.0], [2.2, 1.0, 2.0]])
    law = fit_laws(n, losses)
    assert law[1, 0] > 0
    assert law[1, 1] == 0
    assert np.isfinite(law).all()


def test_loss_softmax_keeps_the_last_known_loss():
    rule = load_strategy("loss_softmax", temperature=2.0)
    state = rule.update(rule.init(sources_of(2)), seen(train_loss=[1.0, 2.0]))
    later = rule.update(state, seen(train_loss=[NAN, 4.0]))
    power = np.exp(np.array([1.0, 4.0]) / 2)
    np.testing.assert_allclose(later.weights, power / power.sum(), rtol=1e-12)


@pytest.mark.parametrize("card", [card for card in strategy_cards() if card.updates], ids=lambda card: card.name)
def test_many_updates_neither_overflow_nor_leave_the_simplex(card):
    rule = load_strategy(card.name)
    sources = Sources(some_sources(4).names, np.array([10, 20, 30, 40]), 100_000, reference=sources_of(4).reference)
    state = rule.init(sources)
    if rule.at_start:
        state = rule.start(state, observation(sources, rule.at_start, step=0))
    shown = [observation(sources, rule.signals, seed=seed) for seed in range(16)]
    shown += [observation(sources, rule.signals, "sparse", seed=99), observation(sources, rule.signals, "extreme")]
    one = np.ones(4, dtype=np.int64)
    for step in range(1, 100_001 if "MOEMIX_ALL_TESTS" in os.environ else 10_001):
        old = shown[step % 18]
        arrays = {name: getattr(old, name) for name in rule.signals}
        state = rule.update(state, Observation(step, old.names, 128 * step * one, 9999 * step * one, **arrays))
        if step % 1000 == 0:
            assert (state.weights > 0).all()
            assert abs(state.weights.sum() - 1) < 1e-9
    assert sum(array.nbytes for array in state.memory.values()) < 10_000, "memory does not grow with updates"
