"""The paper's other strategies, against its published numbers and its definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_mixing_strategies import observed, some_sources

from harness.errors import MoemixError
from trainers.mixing import Observation, Reference, Sources, load_strategy
from trainers.mixing.distances import dissimilarity, pairwise
from trainers.mixing.dynamic import imbalance

LOAD = np.array([[70, 20, 10, 0], [60, 25, 15, 0], [10, 10, 40, 40], [25, 25, 25, 25]])


@pytest.fixture(scope="module")
def tables(published: Path) -> dict:
    return json.loads((published.parent / "paper" / "tables.json").read_text())


def seen(step: int = 100, **signals: np.ndarray) -> Observation:
    count = len(next(iter(signals.values()))) if signals else 4
    zeros = np.zeros(count, dtype=np.int64)
    return Observation(step, some_sources(count).names, zeros, zeros, **signals)


def test_ref_loss_reproduces_every_published_update(published):
    cases = [c for c in json.loads((published / "mixing_updates.json").read_text())["cases"] if c["kind"] == "ref_loss"]
    assert len(cases) == 2
    for case in cases:
        count = len(case["ref"])
        reference = Reference(np.full(count, 1 / count), np.array(case["ref"]))
        sources = Sources(some_sources(count).names, np.ones(count, np.int64), reference=reference)
        rule = load_strategy("ref_loss", eta=case["eta"], c=case["c"])
        state = rule.init(sources)
        state = rule.start(state, seen(reference_loss=np.array(case["ref"])))
        state = type(state)(np.array(case["weights"]), state.memory)
        new = rule.update(state, seen(probe_loss=np.array(case["loss"])))
        assert np.abs(new.weights - case["new"]).max() < 1e-12


def test_ref_loss_keeps_the_last_known_loss_of_a_source_that_was_not_seen():
    reference = Reference(np.full(3, 1 / 3), np.array([1.0, 1.0, 1.0]))
    rule = load_strategy("ref_loss")
    state = rule.init(Sources(("a", "b", "c"), np.ones(3, np.int64), reference=reference))
    state = rule.start(state, seen(reference_loss=np.ones(3)))
    state = rule.update(state, seen(probe_loss=np.array([2.0, 1.0, 1.5])))
    unseen = rule.update(state, seen(probe_loss=np.array([np.nan, 1.0, 1.5])))
    assert np.array_equal(unseen.weights, rule.update(state, seen(probe_loss=np.array([2.0, 1.0, 1.5]))).weights)


def test_inverse_gives_the_kth_smallest_distance_to_the_source_with_the_kth_largest():
    shares = LOAD / LOAD.sum(axis=1, keepdims=True)
    delta = dissimilarity(shares[None], "l2", "mean")
    expected = np.empty(4)
    expected[np.argsort(delta)] = np.sort(delta)[::-1]
    rule = load_strategy("inverse")
    alpha = 0.25 * np.exp(10 * expected)
    alpha /= alpha.sum()
    new = rule.update(rule.init(some_sources(4)), observed(LOAD)).weights
    np.testing.assert_allclose(new, 0.95 * alpha + 0.05 / 4, rtol=1e-12)
    dynamic = load_strategy("dynamic").update(rule.init(some_sources(4)), observed(LOAD)).weights
    assert (np.argsort(new) == np.argsort(dynamic)[::-1]).all()


def test_sources_that_are_equally_far_get_the_same_from_inverse():
    rule = load_strategy("inverse")
    load = np.array([[50, 50, 0], [50, 50, 0], [0, 0, 100]])
    new = rule.update(rule.init(some_sources(3)), observed(load)).weights
    assert new[0] == pytest.approx(new[1], rel=1e-12)
    assert new[2] < new[0]


def test_random_weights_are_uniform_noise_that_depends_on_seed_and_step_alone():
    rule = load_strategy("random")
    sources = Sources(some_sources(4).names, np.ones(4, np.int64), 2000, seed=3)
    first, other = rule.init(sources), rule.init(Sources(sources.names, sources.sizes, 2000, seed=4))
    np.testing.assert_array_equal(first.weights, 0.25)
    at_100 = rule.update(first, seen(100)).weights
    assert np.array_equal(rule.update(rule.update(first, seen(50)), seen(100)).weights, at_100)
    assert not np.allclose(rule.update(first, seen(200)).weights, at_100)
    assert not np.allclose(rule.update(other, seen(100)).weights, at_100)
    drawn = np.array([rule.update(first, seen(step)).weights for step in range(1, 4001)])
    ratio = (drawn[:, 0] / drawn[:, 1]).clip(max=1)
    assert np.mean(drawn, axis=0) == pytest.approx(np.full(4, 0.25), abs=0.01)
    assert np.mean(ratio) == pytest.approx(0.75, abs=0.02), "E min(u/v, 1) for two uniform numbers"


def test_sequential_rotates_as_published():
    rule = load_strategy("sequential")
    sources = Sources(some_sources(4).names, np.ones(4, np.int64), steps=2000)
    assert rule.interval(sources) == 500
    state = rule.init(sources)
    for turn in range(4):
        assert state.weights.argmax() == turn
        np.testing.assert_allclose(np.delete(state.weights, turn), 1e-5, rtol=1e-4)
        state = rule.update(state, seen(500 * (turn + 1)))
    uneven = Sources(sources.names, sources.sizes, steps=10)
    assert [rule.update(rule.init(uneven), seen(step)).weights.argmax() for step in (3, 6, 9)] == [1, 2, 3]


def test_final_static_takes_the_published_final_weights_of_dynamic(tables):
    final = tables["initial_weights_published"]["llama_moe_dynamic_final"]
    names = tuple(sorted(final))
    weights = np.array([final[name] for name in names])
    reference = Reference(weights / weights.sum(), np.ones(4))
    state = load_strategy("final_static").init(Sources(names, np.ones(4, np.int64), reference=reference))
    np.testing.assert_allclose(state.weights, weights, rtol=1e-7)
    percent = dict(zip(tables["table8"]["columns"], tables["table8"]["llama_moe"], strict=True))
    assert state.weights[names.index("math")] == pytest.approx(percent["math_instruct"] / 100, abs=5e-5)
    with pytest.raises(MoemixError, match="starts from a finished run"):
        load_strategy("final_static").init(Sources(names, np.ones(4, np.int64)))


def test_datasize_gives_the_published_shares(tables):
    published = tables["initial_weights_published"]["datasize"]
    names = tuple(sorted(published))
    sizes = np.rint(np.array([published[name] for name in names]) * 1e8).astype(np.int64)
    np.testing.assert_allclose(
        load_strategy("datasize").init(Sources(names, sizes)).weights, [published[n] for n in names], rtol=1e-7
    )


@pytest.mark.parametrize("given", ["by name", "in order"])
def test_dynamic_starts_from_any_weights(tables, given):
    published = tables["initial_weights_published"]["sentence_embedding"]
    names = tuple(sorted(published))
    initial = published if given == "by name" else [published[name] for name in names]
    rule = load_strategy("dynamic", initial=initial)
    state = rule.init(Sources(names, np.ones(4, np.int64)))
    np.testing.assert_allclose(state.weights, [published[name] for name in names], rtol=1e-6)
    moved = rule.update(
        state, Observation(1, names, np.zeros(4, np.int64), np.zeros(4, np.int64), gate_load=LOAD[:, None])
    )
    plain = load_strategy("dynamic").update(state, observed(LOAD))
    assert np.array_equal(moved.weights, plain.weights)


@pytest.mark.parametrize(
    ("initial", "complaint"),
    [
        ({"s00000": 1.0, "s00001": 1.0, "s00003": 1.0}, "unknown source 's00003'.*did you mean"),
        ({"s00000": 1.0, "s00001": 1.0}, "no weight for source s00002"),
        ([1.0, 1.0], "2 weights for 3 sources"),
        ([1.0, 0.0, 1.0], "positive number"),
    ],
)
def test_initial_weights_that_do_not_fit_are_refused(initial, complaint):
    with pytest.raises(MoemixError, match=rf"(?s)dynamic.initial: .*{complaint}"):
        load_strategy("dynamic", initial=initial).init(some_sources(3))


def test_gate_load_static_is_one_dynamic_update_of_the_untrained_model():
    static, dynamic = load_strategy("gate_load_static"), load_strategy("dynamic")
    assert (static.updates, static.at_start, static.signals) == (False, {"gate_load"}, frozenset())
    start = static.start(static.init(some_sources(4)), observed(LOAD, step=0))
    assert np.array_equal(start.weights, dynamic.update(dynamic.init(some_sources(4)), observed(LOAD)).weights)


def test_sentence_embeddings_take_the_place_of_gate_loads():
    embedding = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
    known = embedding[:3].astype(np.float64)
    delta = np.linalg.norm(known[:, None] - known[None], axis=-1).mean(axis=1)
    delta = np.append(delta, delta.mean())  # of the last source nothing is known
    alpha = np.exp(10 * delta) / np.exp(10 * delta).sum()
    static, moving = load_strategy("sentence_embedding"), load_strategy("dynamic_from_sentence_embedding")
    start = static.start(static.init(some_sources(4)), seen(0, embedding=embedding))
    np.testing.assert_allclose(start.weights, 0.95 * alpha + 0.05 / 4, rtol=1e-12)
    begun = moving.start(moving.init(some_sources(4)), seen(0, embedding=embedding))
    assert np.array_equal(begun.weights, start.weights)
    assert np.array_equal(
        moving.update(begun, observed(LOAD)).weights, load_strategy("dynamic").update(start, observed(LOAD)).weights
    )


@pytest.mark.parametrize("seed", range(4))
def test_balanced_reaches_a_lower_objective_than_uniform_on_the_same_loads(seed):
    load = np.random.default_rng(seed).integers(0, 1000, (3 + 3 * seed, 8))
    rule = load_strategy("balanced")
    state = rule.init(some_sources(len(load)))
    found = rule.start(state, observed(load, step=0)).weights
    distances = pairwise((load / load.sum(axis=1, keepdims=True))[None], "l2")
    assert imbalance(distances, found) < 0.6 * imbalance(distances, state.weights)


def test_balanced_equalises_published_loads_and_gives_more_to_what_is_apart(published):
    entry = json.loads((published / "mixing_updates.json").read_text())["trace"][0]
    names = sorted(entry["name2load"])
    load = np.rint(np.array([entry["name2load"][name] for name in names]) * 2**15).astype(np.int64)
    found = load_strategy("balanced").start(load_strategy("balanced").init(some_sources(4)), observed(load, step=0))
    distances = pairwise((load / load.sum(axis=1, keepdims=True))[None], "l2")
    assert imbalance(distances, found.weights) < 1e-20 < 1e-4 < imbalance(distances, np.full(4, 0.25))
    assert (np.argsort(found.weights) == np.argsort(distances.sum(axis=1))).all()


def test_a_source_without_a_known_load_keeps_its_even_share_of_balanced():
    load = np.vstack([LOAD, [0, 0, 0, 0]])
    rule = load_strategy("balanced")
    found = rule.start(rule.init(some_sources(5)), observed(load, step=0)).weights
    assert found[4] == pytest.approx(0.2)
    alone = rule.start(rule.init(some_sources(4)), observed(LOAD, step=0)).weights
    np.testing.assert_allclose(found[:4], 0.8 * alone, rtol=1e-9)
