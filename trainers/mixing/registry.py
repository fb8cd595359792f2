"""Strategies by name: built-in files of this package, then installed plug-ins, then ``path/to/file.py:ClassName``."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Iterator, Mapping, Set

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from harness.errors import MoemixError, nearest, unknown
from harness.files import hash_value
from harness.plugins import code_hash, file_reference, module_from
from trainers.mixing.base import MixingStrategy
from trainers.plugins import SIGNALS, PlugIns

StrategyClass = type[MixingStrategy]


def _lack(strategy: StrategyClass) -> tuple[str, str] | None:
    """Return what a class lacks of a strategy, and what to do; None if nothing."""
    if not dataclasses.is_dataclass(strategy):
        return "is not a dataclass", "decorate it with @dataclass(frozen=True)"
    if not isinstance(getattr(strategy, "name", None), str):
        return "has no name", 'add `name = "its_name"`'
    for field in ("signals", "at_start"):
        names = getattr(strategy, field)
        if not (isinstance(names, Set) and all(isinstance(name, str) for name in names)):
            return f"has {names!r} as `{field}`", f'write `{field} = frozenset({{"train_loss"}})`, a set of names'
    if strategy.updates and strategy.update is MixingStrategy.update:
        return "has no `update`", "define `update(self, state, seen)`, or say `updates = False`"
    return None


STRATEGIES: PlugIns[MixingStrategy] = PlugIns("strategy", "trainers.mixing", "MixingStrategy", "name", _lack)


@dataclasses.dataclass(frozen=True)
class StrategyCard:
    """The description of a strategy, read from its class.

    Attributes:
        defaults: option → default value.
        required: the options without a default.
        summary: the first line of the class's docstring.
        source: the paper, and the variant, that it follows.
        needs: the strategy whose finished run it starts from, if any.
        also: further names, with the options that they set.
        name, signals, at_start, scales, trains, updates: as in :class:`MixingStrategy`.
    """

    name: str
    signals: tuple[str, ...]
    defaults: dict[str, object]
    required: tuple[str, ...]
    summary: str
    source: str
    needs: str | None
    trains: bool
    updates: bool
    at_start: tuple[str, ...] = ()
    scales: str = "draws"
    also: tuple[str, ...] = ()


def load_strategy(name: str, /, **options: object) -> MixingStrategy:
    """Return the strategy of this name with these options.

    Besides built-in names it may be an entry point of ``moemix.strategies``, or ``path/to/file.py:ClassName``. A list
    is accepted for a tuple, and ``"1e-4"`` for a number.

    Raises:
        MoemixError: there is no such strategy or option, or an option does not accept the value.
    """
    strategy = _find(name)
    options = {**strategy.presets.get(name, {}), **options}
    fields, kinds = _options(strategy), typing.get_type_hints(strategy)
    for option in options:
        if option not in fields:
            raise unknown("option", option, fields, where=f"strategy {name}")
    values = {option: _convert(kinds[option], value, where=f"{name}.{option}") for option, value in options.items()}
    for option, default in fields.items():
        if default is dataclasses.MISSING and option not in values:
            raise MoemixError(f"the option `{option}` must be given", where=f"strategy {name}")
    return strategy(**values)


def strategy_cards() -> list[StrategyCard]:
    """Describe every strategy that has a name, sorted: the built-in ones, and those of plug-ins that load."""
    return [_card(name, strategy) for name, strategy in STRATEGIES.all().items()]


def strategy_names() -> list[str]:
    """Return every name that stands for a strategy, without importing plug-ins."""
    return sorted([*STRATEGIES.names(), *_presets()])


def plugin_faults() -> list[str]:
    """Say what is wrong with installed strategies and signals, one sentence each. The others can still be used."""
    return STRATEGIES.faults() + SIGNALS.faults()


def strategy_code(name: str) -> str | None:
    """Return the hash of the code of a strategy and of the signals that it needs; None if all of it is built in.

    The hash is part of a run's identity: an edited strategy, or signal, is another one.
    """
    own = STRATEGIES.code(name) or code_hash(name)
    if own is None:
        return None
    strategy = _find(name)
    signals = [SIGNALS.code(field) for field in sorted(strategy.signals | strategy.at_start)]
    return hash_value([own, *signals]) if any(signals) else own


@functools.cache
def _presets() -> dict[str, str]:
    """Return the strategy behind each further name."""
    return {preset: name for name, strategy in STRATEGIES.builtin.items() for preset in strategy.presets}


def _find(name: str) -> StrategyClass:
    name = _presets().get(name, name)
    if name not in STRATEGIES.builtin and name not in STRATEGIES.installed:
        if reference := file_reference(name):
            file, attribute = reference
            return STRATEGIES.checked(module_from(file, "strategy"), attribute, where=str(file))
        if name.endswith(".py"):
            raise MoemixError("the class in the file is not named", where=name, hint=f"write {name}:ClassName")
        raise unknown("strategy", name, strategy_names())
    return STRATEGIES.find(name)


# --- options --------------------------------------------------------------------------------------


def _options(strategy: StrategyClass) -> Mapping[str, object]:
    """Return each option with its default value, or with ``dataclasses.MISSING`` if it has none."""
    if not dataclasses.is_dataclass(strategy):
        raise TypeError(f"{strategy.__name__} is not a dataclass")
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(strategy)
        if field.init
    }


def _convert(kind: type[object], value: object, *, where: str) -> object:
    """Return the value in the type of its annotation (a tuple for a list, a float for ``"1e-4"``)."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except PydanticSchemaGenerationError:
        return value  # only the strategy itself understands the annotation, so its own checks decide
    except ValidationError as error:
        choices = [str(choice) for choice in _literals(kind)]
        hint = nearest(str(value), choices) if choices else None
        reason = error.errors(include_url=False)[-1]["msg"]
        raise MoemixError(f"{value!r} is not valid: {reason}", where=where, hint=hint) from None


def _literals(kind: object) -> Iterator[object]:
    for argument in typing.get_args(kind):
        if typing.get_origin(kind) is typing.Literal:
            yield argument
        else:
            yield from _literals(argument)


def _card(name: str, strategy: StrategyClass) -> StrategyCard:
    options = _options(strategy)
    return StrategyCard(
        name=name,
        signals=tuple(sorted(strategy.signals)),
        defaults={option: value for option, value in options.items() if value is not dataclasses.MISSING},
        required=tuple(option for option, value in options.items() if value is dataclasses.MISSING),
        summary=(inspect.getdoc(strategy) or "").partition("\n")[0],
        at_start=tuple(sorted(strategy.at_start)),
        also=tuple(
            name + (f" ({', '.join(f'{option} = {value}' for option, value in preset.items())})" if preset else "")
            for name, preset in strategy.presets.items()
        ),
        **{name: getattr(strategy, name) for name in ("source", "needs", "trains", "updates", "scales")},
    )
