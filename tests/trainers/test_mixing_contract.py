"""Every built-in strategy keeps the contract, and the contract catches those that do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import MoemixError
from trainers.mixing import MixingStrategy, MixtureState, load_strategy, strategy_cards
from trainers.mixing.base import from_arrays, to_arrays, weights_hash
from trainers.mixing.contract import check_strategy
from trainers.mixing.static import Uniform

QUICKER = {"balanced": {"steps": 50}}
VARIANTS = [(card.name, QUICKER.get(card.name, {})) for card in strategy_cards()] + [
    ("dynamic", {"distance": distance, "aggregate": aggregate, "layers": layers, "c": c})
    for distance, aggregate, layers, c in [
        ("cos", "mean", "last", 0.8),
        ("cos", "min", "all", 0.0),
        ("l2", "max", [0, -1], 1.0),
        ("l2", "min", "all", 0.05),
    ]
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@settings(max_examples=15, deadline=None)
@given(sources=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_built_in_strategies_keep_the_contract(name: str, options: dict, sources: int, seed: int):
    check_strategy(load_strategy(name, **options), sources=sources, seed=seed)


def test_the_contract_holds_where_distances_come_from_inner_products():
    check_strategy(load_strategy("dynamic"), sources=300)


@dataclass(frozen=True)
class Follower(Uniform):
    """Weights in proportion to the training loss; the correct base of the broken ones below."""

    name = "follower"
    signals = frozenset({"train_loss"})
    updates = True

    def update(self, state, seen):
        loss = seen.need("train_loss")
        loss = np.where(np.isfinite(loss), loss, 0.0) + 1e-6
        return MixtureState(loss / loss.sum())


def broken(update, **members):
    return dataclass(frozen=True)(type("Broken", (Follower,), {"name": "broken", "update": update, **members}))()


def swallow_nan(self, state, seen):
    loss = seen.need("train_loss")
    return MixtureState(loss / loss.sum())


def unnormalised(self, state, seen):
    return MixtureState(Follower.update(self, state, seen).weights * 1.001)


def collapsing(self, state, seen):
    loss = np.nan_to_num(seen.need("train_loss"))
    return MixtureState(np.eye(len(loss))[loss.argmax()])


def mutating(self, state, seen):
    np.nan_to_num(seen.need("train_loss"), copy=False)
    seen.train_loss[:] += 1
    return Follower.update(self, state, seen)


def random(self, state, seen):
    return MixtureState(np.random.default_rng().dirichlet(np.ones(len(seen.names))))


def favouring_the_first(self, state, seen):
    weights = Follower.update(self, state, seen).weights * np.arange(len(seen.names), 0, -1)
    return MixtureState(weights / weights.sum())


def silent(self, state, seen):
    return state if seen.train_loss is None else Follower.update(self, state, seen)


def remembering_a_number(self, state, seen):
    return MixtureState(Follower.update(self, state, seen).weights, {"updates": 3})


def hiding_state(self, state, seen):
    weights = Follower.update(self, state, seen).weights
    return MixtureState(weights, {"seen": np.array([object()])})


@pytest.mark.parametrize(
    ("update", "complaint"),
    [
        (swallow_nan, "not finite"),
        (unnormalised, "sum to"),
        (collapsing, "not all positive"),
        (mutating, "in place"),
        (random, "different outputs"),
        (favouring_the_first, "reordering"),
        (silent, "passed over in silence"),
    ],
)
def test_the_contract_catches_a_strategy_that(update, complaint: str):
    check_strategy(Follower())
    with pytest.raises(AssertionError, match=complaint):
        check_strategy(broken(update))


def test_memory_that_is_not_numbers_in_arrays_is_refused_where_it_is_made():
    with pytest.raises(MoemixError, match="`seen` is an array of objects"):
        check_strategy(broken(hiding_state))
    with pytest.raises(MoemixError, match=r"`updates` is int\n.*numpy.array"):
        check_strategy(broken(remembering_a_number))


def test_the_contract_refuses_options_that_can_change_and_unknown_signals():
    @dataclass
    class Mutable(MixingStrategy):
        name = "mutable"

    with pytest.raises(AssertionError, match="frozen"):
        check_strategy(Mutable())
    with pytest.raises(AssertionError, match="do not exist"):
        check_strategy(broken(Follower.update, signals=frozenset({"vibes"})))


def test_a_state_survives_storage_and_its_hash_tells_weights_apart():
    state = MixtureState(np.array([0.1, 0.9]), {"gate_load": np.arange(12).reshape(2, 2, 3)})
    again = from_arrays(to_arrays(state))
    assert again.weights.tobytes() == state.weights.tobytes()
    assert np.array_equal(again.memory["gate_load"], state.memory["gate_load"])
    assert weights_hash(state.weights) == weights_hash(again.weights)
    assert weights_hash(state.weights) != weights_hash(np.nextafter(state.weights, 1))
