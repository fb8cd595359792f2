"""The contract of a mixing strategy as a check that anyone can run on their own class.

from trainers.mixing.contract import check_strategy
check_strategy(MyStrategy())          # AssertionError says which clause is broken, and how
"""

from __future__ import annotations

import dataclasses
import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Reference, Sources
from trainers.mixing.state import from_arrays, to_arrays

_ALWAYS = {"step", "names", "examples_seen", "tokens_seen"}
SIGNALS = frozenset(field.name for field in dataclasses.fields(Observation)) - _ALWAYS
Weather = Literal["fair", "sparse", "blank", "extreme"]
WEATHER: tuple[Weather, ...] = ("fair", "sparse", "blank", "extreme")


def check_strategy(
    strategy: MixingStrategy | type[MixingStrategy], *, sources: int = 5, updates: int = 4, seed: int = 0
) -> None:
    """Check a strategy against every clause of the contract on made-up observations.

    The clauses: weights are positive (or at least not negative, if the class says ``may_vanish``), finite and sum to
    1 after every update, also when sources were not seen, when none was, or when signals are extreme; the same input
    gives the same output bit for bit and is left unchanged; reordering the sources reorders the weights and changes
    nothing else (unless the class says ``positional``); a state that was stored and read back goes on as if it had not
    been; a missing signal, or a missing reference run, is an error that names it.

    Args:
        strategy: an instance, or a class whose options all have defaults.
        sources: how many sources K the made-up mixture has.
        seed: of the observations.

    Raises:
        AssertionError: the clause that does not hold.
    """
    rule = strategy() if isinstance(strategy, type) else strategy
    _check_declaration(rule)
    for weather in WEATHER:
        mixture = _sources(sources, seed)
        _check_distribution(rule, rule.init(mixture).weights, sources, "init")
        if not (rule.updates or rule.at_start):
            continue
        count = updates if rule.updates else 0
        seen = [observation(mixture, rule.signals, weather, seed + i, step=10 * (i + 1)) for i in range(count)]
        if rule.at_start:
            seen.insert(0, observation(mixture, rule.at_start, weather, seed, step=0))
        _check_updates(rule, mixture, seen, weather)
        _check_round_trip(rule, mixture, seen)
        if not rule.positional:
            _check_order(rule, mixture, seen, np.random.default_rng(seed).permutation(sources))
        _check_missing(rule, mixture, seen)


def observation(
    sources: Sources, signals: frozenset[str], weather: Weather = "fair", seed: int = 0, *, step: int = 10
) -> Observation:
    """A made-up observation with these signals.

    Args:
        weather: ``fair`` (all sources seen), ``sparse`` (some not), ``blank`` (none), ``extreme`` (huge and tiny).
    """
    rng = np.random.default_rng([seed, WEATHER.index(weather)])
    count = len(sources.names)
    unseen_K = {"sparse": rng.random(count) < 0.5, "blank": np.ones(count, bool)}.get(weather, np.zeros(count, bool))
    scale_K = 10.0 ** rng.choice([-9, 0, 9], count) if weather == "extreme" else np.ones(count)
    load_KLE = (rng.gamma(0.5, 1000.0, (count, 3, 8)) * scale_K[:, None, None]).astype(np.int64) + 1
    load_KLE[unseen_K] = 0
    loss_4K = rng.gamma(2.0, 1.0, (4, count)) * scale_K
    loss_4K[:, unseen_K] = np.nan
    made: dict[str, NDArray] = {
        "gate_load": load_KLE,
        "train_loss": loss_4K[0],
        "probe_loss": loss_4K[1],
        "reference_loss": loss_4K[2],
        "excess_loss": loss_4K[3],
        "embedding": _vectors(rng, scale_K, unseen_K),
        "gradient": _vectors(rng, scale_K, unseen_K),
    }
    tokens_K = np.where(unseen_K, 0, rng.integers(1, 100_000, count))
    fields = {name: array for name, array in made.items() if name in signals}
    return Observation(step, sources.names, (tokens_K + 99) // 100, tokens_K, **fields)


def _vectors(rng: np.random.Generator, scale_K: Floats, unseen_K: NDArray[np.bool_]) -> NDArray[np.float32]:
    vectors_KD = rng.normal(size=(len(scale_K), 16)) * scale_K[:, None]
    vectors_KD[unseen_K] = 0.0
    return vectors_KD.astype(np.float32)


def _sources(count: int, seed: int) -> Sources:
    rng = np.random.default_rng(seed)
    sizes_K = rng.integers(1, 1_000_000, count)
    reference = Reference(rng.dirichlet(np.ones(count)) + 1e-9, rng.gamma(2.0, 1.0, count))
    reference = Reference(reference.weights / reference.weights.sum(), reference.losses)
    return Sources(tuple(f"source_{i:04}" for i in range(count)), sizes_K, 100, seed, reference)


def _reordered(sources: Sources, order_K: NDArray) -> Sources:
    """The same sources under each other's names."""
    reference = sources.reference
    if reference is not None:
        reference = Reference(reference.weights[order_K], reference.losses[order_K])
    return dataclasses.replace(sources, sizes=sources.sizes[order_K], reference=reference)


# --- clauses --------------------------------------------------------------------------------------


def _require(holds: object, message: str) -> None:
    """An assertion that also holds under ``python -O``."""
    if not holds:
        raise AssertionError(message)


def _check_declaration(rule: MixingStrategy) -> None:
    kind = type(rule)
    _require(dataclasses.is_dataclass(kind), f"{kind.__name__} must be a dataclass: @dataclass(frozen=True)")
    frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    _require(frozen, f"{kind.__name__} must be frozen: its options are what identifies a run")
    _require(isinstance(getattr(rule, "name", None), str), f"{kind.__name__} must have a name")
    foreign = sorted((rule.signals | rule.at_start) - SIGNALS)
    _require(not foreign, f"{rule.name} asks for signals that do not exist: {foreign}; there are {sorted(SIGNALS)}")
    _require(rule.updates or not rule.signals, f"{rule.name} never updates, so it must not ask for signals")


def _check_distribution(rule: MixingStrategy, weights_K: Floats, count: int, after: str) -> None:
    told = f"{rule.name}: after {after} the weights"
    _require(weights_K.dtype == np.float64, f"{told} must be float64, not {weights_K.dtype}")
    _require(weights_K.shape == (count,), f"{told} have shape {weights_K.shape}, not ({count},)")
    _require(np.isfinite(weights_K).all(), f"{told} are not finite: {weights_K}")
    if rule.may_vanish:
        _require((weights_K >= 0).all(), f"{told} are negative: {weights_K}")
    else:
        _require((weights_K > 0).all(), f"{told} are not all positive: {weights_K}; if it is meant, say `may_vanish`")
    _require(abs(weights_K.sum() - 1) < 1e-9, f"{told} sum to {weights_K.sum()!r}")


def _next(rule: MixingStrategy, state: MixtureState, seen: Observation) -> MixtureState:
    return rule.update(state, seen) if seen.step else rule.start(state, seen)


def _check_updates(rule: MixingStrategy, sources: Sources, seen: list[Observation], weather: Weather) -> None:
    state = rule.init(sources)
    for i, shown in enumerate(seen):
        given = {**to_arrays(state), **_arrays(shown)}
        copies = {name: array.copy() for name, array in given.items()}
        new, again = _next(rule, state, shown), _next(rule, state, shown)
        for name, array in given.items():
            _require(
                array.tobytes() == copies[name].tobytes(), f"{rule.name}: update changed its input `{name}` in place"
            )
        _require(_same(new, again), f"{rule.name}: the same input gave different outputs")
        _check_distribution(rule, new.weights, len(sources.names), f"update {i + 1} ({weather} signals)")
        state = new


def _check_round_trip(rule: MixingStrategy, sources: Sources, seen: list[Observation]) -> None:
    kept = stored = rule.init(sources)
    for shown in seen:
        kept, stored = _next(rule, kept, shown), _next(rule, _stored(stored), shown)
        _require(_same(kept, stored), f"{rule.name}: a state that was stored and read back goes on differently")


def _stored(state: MixtureState) -> MixtureState:
    buffer = io.BytesIO()
    np.savez(buffer, **to_arrays(state))  # type: ignore[arg-type]
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as arrays:
        return from_arrays(dict(arrays))


def _check_order(rule: MixingStrategy, sources: Sources, seen: list[Observation], order_K: NDArray) -> None:
    state = rule.init(sources)
    shuffled = rule.init(_reordered(sources, order_K))
    for shown in seen:
        moved = {name: array[order_K] for name, array in _arrays(shown).items()}
        state, shuffled = _next(rule, state, shown), _next(rule, shuffled, dataclasses.replace(shown, **moved))  # type: ignore[arg-type]
        _require(
            np.allclose(shuffled.weights, state.weights[order_K], rtol=1e-6, atol=0),
            f"{rule.name}: reordering the sources changed more than the order of the weights",
        )


def _check_missing(rule: MixingStrategy, sources: Sources, seen: list[Observation]) -> None:
    state = rule.init(sources)
    for shown in (seen[0], seen[-1]):
        for signal in rule.signals if shown.step else rule.at_start:
            try:
                _next(rule, state, dataclasses.replace(shown, **{signal: None}))  # type: ignore[arg-type]
            except MoemixError as error:
                _require(signal in str(error), f"{rule.name}: the error for a missing `{signal}` does not name it")
            else:
                raise AssertionError(f"{rule.name}: a missing `{signal}` was passed over in silence; use `seen.need`")
        state = _next(rule, state, shown)
    if rule.needs:
        try:
            rule.init(dataclasses.replace(sources, reference=None))
        except MoemixError:
            return
        raise AssertionError(f"{rule.name}: needs a {rule.needs} run and begins without one; use `need_reference`")


def _arrays(shown: Observation) -> dict[str, NDArray]:
    values = {field.name: getattr(shown, field.name) for field in dataclasses.fields(shown)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def _same(one: MixtureState, other: MixtureState) -> bool:
    a, b = to_arrays(one), to_arrays(other)
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)
