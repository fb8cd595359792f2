"""Strategies by name: built-in files of this package, then installed plug-ins, then ``path/to/file.py:ClassName``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from harness.errors import MoemixError, nearest, unknown
from harness.files import hash_file
from harness.plugins import code_hash, file_reference, module_from
from trainers.mixing.base import MixingStrategy

ENTRY_POINTS = "moemix.strategies"
StrategyClass = type[MixingStrategy]


@dataclasses.dataclass(frozen=True)
class StrategyCard:
    """The description of a strategy, read from its class.

    Attributes:
        defaults: option → default value.
        required: the options without a default.
        summary: the first line of the class's docstring.
        source: the paper, and the variant, that it follows.
        needs: the strategy whose finished run it starts from, if any.
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


def load_strategy(name: str, /, **options: object) -> MixingStrategy:
    """Return the strategy of this name with these options.

    Args:
        name: a built-in strategy, an entry point of ``moemix.strategies``, or ``path/to/file.py:ClassName``.
        **options: values of the strategy's fields; a list is accepted for a tuple, and ``"1e-4"`` for a number.

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
    classes = dict(_builtin())
    for name in _plugins().keys() - classes.keys():
        with contextlib.suppress(MoemixError):  # plugin_faults reports it
            classes[name] = _plugin(name)
    return [_card(name, classes[name]) for name in sorted(classes)]


def strategy_names() -> list[str]:
    """Return every name that stands for a strategy, without importing plug-ins."""
    return sorted(_builtin().keys() | _plugins().keys())


def plugin_faults() -> list[str]:
    """Say what is wrong with installed plug-ins, one sentence each. The others can still be used."""
    faults = []
    for name in sorted(_plugins()):
        if name in _builtin():
            faults.append(f"{_where(name)}: {name!r} is a built-in strategy; the plug-in of that name is not used")
            continue
        try:
            _plugin(name)
        except MoemixError as error:
            faults.append(str(error))
    return faults


def strategy_code(name: str) -> str | None:
    """Return the hash of the file that defines a strategy, or None for a built-in one.

    The hash is part of a run's identity: an edited strategy is another strategy.
    """
    if name in _builtin() or name not in _plugins():
        return code_hash(name)
    file = inspect.getsourcefile(_plugin(name))
    return hash_file(Path(file)) if file else None


# --- search ---------------------------------------------------------------------------------------


def _find(name: str) -> StrategyClass:
    if name in _presets():
        name = _presets()[name]
    if name in _builtin():
        return _builtin()[name]
    if name in _plugins():
        return _plugin(name)
    if reference := file_reference(name):
        file, attribute = reference
        return _strategy_class(module_from(file, "strategy"), attribute, where=str(file))
    if name.endswith(".py"):
        raise MoemixError("the class in the file is not named", where=name, hint=f"write {name}:ClassName")
    raise unknown("strategy", name, [*_builtin(), *_plugins()])


@functools.cache
def _builtin() -> dict[str, StrategyClass]:
    found: dict[str, StrategyClass] = {}
    for entry in pkgutil.iter_modules([str(Path(__file__).parent)]):
        for strategy in _defined_in(importlib.import_module(f"{__package__}.{entry.name}")):
            if strategy.name in found:
                raise RuntimeError(f"two built-in strategies are called {strategy.name!r}")
            found[strategy.name] = strategy
    return found


@functools.cache
def _presets() -> dict[str, str]:
    """Return the strategy behind each further name."""
    return {preset: name for name, strategy in _builtin().items() for preset in strategy.presets}


@functools.cache
def _plugins() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def _plugin(name: str) -> StrategyClass:
    point, where = _plugins()[name], _where(name)
    if not point.attr:
        raise MoemixError("the class in the module is not named", where=where, hint=f"write {point.module}:ClassName")
    try:
        module = importlib.import_module(point.module)
    except Exception as error:
        raise MoemixError(f"the plug-in cannot be imported: {type(error).__name__}: {error}", where=where) from error
    return _strategy_class(module, point.attr, where=where)


def _where(name: str) -> str:
    point = _plugins()[name]
    package = f" of {point.dist.name}" if point.dist else ""
    return f"entry point {ENTRY_POINTS}:{name} ({point.value}){package}"


def _defined_in(module: ModuleType) -> Iterator[StrategyClass]:
    for _, value in inspect.getmembers(module, inspect.isclass):
        if issubclass(value, MixingStrategy) and value.__module__ == module.__name__ and "name" in vars(value):
            yield value


def _strategy_class(module: ModuleType, attribute: str, *, where: str) -> StrategyClass:
    value: object = getattr(module, attribute, None)
    if value is None:
        raise unknown("class", attribute, [strategy.__name__ for strategy in _defined_in(module)], where=where)
    if not (inspect.isclass(value) and issubclass(value, MixingStrategy)):
        hint = "subclass trainers.mixing.MixingStrategy"
        raise MoemixError(f"{attribute} is not a MixingStrategy", where=where, hint=hint)
    if not dataclasses.is_dataclass(value):
        hint = "decorate it with @dataclass(frozen=True)"
        raise MoemixError(f"{attribute} is not a dataclass", where=where, hint=hint)
    return value


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
        **{name: getattr(strategy, name) for name in ("source", "needs", "trains", "updates", "scales")},
    )
