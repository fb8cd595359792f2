"""The contract of a mixing strategy, as a check that anyone can run on their own class.

from trainers.mixing.contract import check_strategy
check_strategy(MyStrategy())          # an AssertionError says which clause is broken, and how
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import Literal, ParamSpec

import numpy as np

from harness.errors import MoemixError
from trainers.mixing.base import (
    Array,
    Floats,
    Ints,
    MixingStrategy,
    MixtureState,
    Observation,
    Reference,
    Sources,
    from_arrays,
    to_arrays,
)
from trainers.mixing.guard import StrategyError, guarded
from trainers.plugins import SIGNALS, random_streams, situation

P = ParamSpec("P")
Scenario = Literal["normal", "sparse", "missing", "extreme"]
SCENARIOS: tuple[Scenario, ...] = ("normal", "sparse", "missing", "extreme")


def check_strategy(
    strategy: MixingStrategy | type[MixingStrategy], *, sources: int = 5, updates: int = 4, seed: int = 0
) -> None:
    """Check a strategy against every clause of the contract, on made-up observations.

    The clauses:

    - After every update the weights are finite, positive (or not negative, if the class says ``may_vanish``) and sum
      to 1, also if some sources were not seen, if none was, or if signals are extreme.
    - The same input gives the same output bit for bit, and is left unchanged.
    - Reordering the sources reorders the weights and changes nothing else (unless the class says ``positional``).
    - A state that was stored and loaded continues as if it had not been.
    - A missing signal, or a missing reference run, is an error that names it.

    The strategy is an instance, or a class whose options all have defaults. The made-up mixture has ``sources``
    sources, and each scenario ``updates`` updates.

    Raises:
        AssertionError: a clause does not hold.
    """
    rule = strategy() if isinstance(strategy, type) else strategy
    _check_declaration(rule)
    for scenario in SCENARIOS:
        mixture = made_up_sources(sources, seed)
        _check_distribution(rule, _guarded(sources, rule.init, mixture).weights, "init")
        if not (rule.updates or rule.at_start):
            continue
        count = updates if rule.updates else 0
        seen = [observation(mixture, rule.signals, scenario, seed + i, step=10 * (i + 1)) for i in range(count)]
        if rule.at_start:
            seen.insert(0, observation(mixture, rule.at_start, scenario, seed, step=0))
        _check_updates(rule, mixture, seen, scenario)
        _check_round_trip(rule, mixture, seen)
        if not rule.positional:
            _check_order(rule, mixture, seen, np.random.default_rng(seed).permutation(sources))
        _check_missing(rule, mixture, seen)


def observation(
    sources: Sources, signals: frozenset[str], scenario: Scenario = "normal", seed: int = 0, *, step: int = 10
) -> Observation:
    """Return a made-up observation of the sources, which has these signals.

    In the scenario ``normal`` all sources were seen, in ``sparse`` some not, in ``missing`` none; ``extreme`` has huge
    and tiny values.
    """
    rng = np.random.default_rng([seed, SCENARIOS.index(scenario)])
    count = len(sources.names)
    unseen = {"sparse": rng.random(count) < 0.5, "missing": np.ones(count, bool)}.get(scenario, np.zeros(count, bool))
    scale = 10.0 ** rng.choice([-9, 0, 9], count) if scenario == "extreme" else np.ones(count)
    true = {name: rng.gamma(2.0, 1.0, count) for name in ("loss", "reference_loss", "progress")}
    true |= {"load": rng.dirichlet(np.full(8, 0.5), (count, 3)), "lengths": rng.gamma(4.0, 50.0, count)}
    true |= {"meaning": rng.normal(size=(count, 16)), "gradient": rng.normal(size=(count, 16))}
    aims, targets = np.random.default_rng([seed, 3]), len(sources.targets)
    true |= {"target_loss": aims.gamma(2.0, 1.0, targets), "target_gradient": aims.normal(size=(targets, 16))}
    values: dict[str, Array] = {}
    for field in sorted(signals):
        signal = SIGNALS.find(field)
        now = situation(*random_streams(field, seed), rng.integers(1, 100, count), held_out=100, noise=0.1, **true)
        value = signal.invent(now)
        for axis in signal.axes:
            shape = [1] * value.ndim
            shape[axis] = count
            value = np.where(unseen.reshape(shape), signal.unknown, value * scale.reshape(shape)).astype(value.dtype)
        values[field] = value
    tokens = np.where(unseen, 0, rng.integers(1, 100_000, count))
    return Observation(step, sources.names, (tokens + 99) // 100, tokens, sources.targets, **values)


def made_up_sources(count: int, seed: int) -> Sources:
    """Return sources with random sizes and a random reference run."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 1_000_000, count)
    weights, losses = rng.dirichlet(np.ones(count)) + 1e-9, rng.gamma(2.0, 1.0, count)
    reference = Reference(weights / weights.sum(), losses)
    names = tuple(f"source_{i:04}" for i in range(count))
    return Sources(names, sizes, 100, seed, reference, ("target_0", "target_1"))


# --- clauses --------------------------------------------------------------------------------------


def _require(holds: object, message: str) -> None:
    """Assert, also under ``python -O``."""
    if not holds:
        raise AssertionError(message)


def _check_declaration(rule: MixingStrategy) -> None:
    kind = type(rule)
    _require(dataclasses.is_dataclass(kind), f"{kind.__name__} must be a dataclass: @dataclass(frozen=True)")
    frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    _require(frozen, f"{kind.__name__} must be frozen, because its options are part of a run's identity")
    _require(isinstance(getattr(rule, "name", None), str), f"{kind.__name__} must have a name")
    foreign = sorted((rule.signals | rule.at_start) - set(SIGNALS.names()))
    _require(not foreign, f"{rule.name} requests signals that do not exist: {foreign}; valid: {SIGNALS.names()}")
    _require(rule.updates or not rule.signals, f"{rule.name} never updates, so it must not request signals")


def _check_distribution(rule: MixingStrategy, weights: Floats, after: str) -> None:
    """Check what the guard of a training run lets pass."""
    subject = f"{rule.name}: after {after} the weights"
    kind = getattr(weights, "dtype", type(weights).__name__)
    _require(kind == np.float64, f"{subject} must be an array of float64, not {kind}")
    if not rule.may_vanish:
        advice = "if that is intended, set `may_vanish = True`"
        _require((weights > 0).all(), f"{subject} are not all positive: {weights}; {advice}")
    _require(abs(weights.sum() - 1) < 1e-9, f"{subject} sum to {weights.sum()!r}")


def _guarded(count: int, function: Callable[P, MixtureState], *args: P.args, **kwargs: P.kwargs) -> MixtureState:
    """Call a strategy's function under the guard of a training run."""
    try:
        return guarded(count, function, *args, **kwargs)
    except StrategyError as error:
        raise AssertionError(str(error)) from error


def _next(rule: MixingStrategy, state: MixtureState, seen: Observation) -> MixtureState:
    return _guarded(len(seen.names), rule.update if seen.step else rule.start, state, seen)


def _check_updates(rule: MixingStrategy, sources: Sources, seen: list[Observation], scenario: Scenario) -> None:
    state = rule.init(sources)
    for i, each in enumerate(seen):
        arrays = {"examples_seen": each.examples_seen, "tokens_seen": each.tokens_seen, **each.signals}
        inputs = {**to_arrays(state), **arrays}
        copies = {name: array.copy() for name, array in inputs.items()}
        new, again = _next(rule, state, each), _next(rule, state, each)
        for name, array in inputs.items():
            unchanged = array.tobytes() == copies[name].tobytes()
            _require(unchanged, f"{rule.name}: update changed its input `{name}` in place")
        _require(_same(new, again), f"{rule.name}: the same input gave different outputs")
        _check_distribution(rule, new.weights, f"update {i + 1} ({scenario} signals)")
        state = new


def _check_round_trip(rule: MixingStrategy, sources: Sources, seen: list[Observation]) -> None:
    kept = stored = rule.init(sources)
    for each in seen:
        kept, stored = _next(rule, kept, each), _next(rule, _stored(stored), each)
        _require(_same(kept, stored), f"{rule.name}: a state that was stored and loaded continues differently")


def _stored(state: MixtureState) -> MixtureState:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **to_arrays(state))
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as arrays:
        return from_arrays(dict(arrays))


def _check_order(rule: MixingStrategy, sources: Sources, seen: list[Observation], order: Ints) -> None:
    reference = sources.reference
    if reference is not None:
        reference = Reference(reference.weights[order], reference.losses[order])
    reordered = dataclasses.replace(sources, sizes=sources.sizes[order], reference=reference)
    state, shuffled = rule.init(sources), rule.init(reordered)
    for each in seen:
        moved = _observation(each, {field: _reordered(field, array, order) for field, array in each.signals.items()})
        moved.examples_seen, moved.tokens_seen = each.examples_seen[order], each.tokens_seen[order]
        state, shuffled = _next(rule, state, each), _next(rule, shuffled, moved)
        _require(
            np.allclose(shuffled.weights, state.weights[order], rtol=1e-6, atol=0),
            f"{rule.name}: reordering the sources changed more than the order of the weights",
        )


def _check_missing(rule: MixingStrategy, sources: Sources, seen: list[Observation]) -> None:
    state = rule.init(sources)
    for each in (seen[0], seen[-1]):
        for signal in rule.signals if each.step else rule.at_start:
            without = _observation(each, {**each.signals, signal: None})
            try:
                _next(rule, state, without)
            except MoemixError as error:
                _require(signal in str(error), f"{rule.name}: the error for a missing `{signal}` does not name it")
            else:
                raise AssertionError(f"{rule.name}: a missing `{signal}` was passed over in silence; use `seen.need`")
        state = _next(rule, state, each)
    if rule.needs:
        try:
            rule.init(dataclasses.replace(sources, reference=None))
        except MoemixError:
            return
        raise AssertionError(f"{rule.name}: it needs a {rule.needs} run and starts without one; use `need_reference`")


def _observation(like: Observation, signals: Mapping[str, Array | None]) -> Observation:
    return Observation(like.step, like.names, like.examples_seen, like.tokens_seen, like.targets, **signals)


def _reordered(field: str, array: Array, order: Ints) -> Array:
    for axis in SIGNALS.find(field).axes:
        array = np.take(array, order, axis)
    return array


def _same(one: MixtureState, other: MixtureState) -> bool:
    a, b = to_arrays(one), to_arrays(other)
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)
