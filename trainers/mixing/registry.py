"""Strategies by name: built-in files of this package, then installed plug-ins, then ``path/to/file.py:ClassName``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

import trainers.mixing as package
from harness.errors import MoemixError, nearest, unknown
from harness.files import hash_file
from harness.plugins import code_hash, file_reference, module_from
from trainers.mixing.base import MixingStrategy

ENTRY_POINTS = "moemix.strategies"
StrategyClass = type[MixingStrategy]


@dataclasses.dataclass(frozen=True)
class StrategyCard:
    """What a strategy says of itself.

    Attributes:
        defaults: option → default value.
        required: options without one.
        summary: the first line of its docstring.
        source: the paper (and variant) it follows.
        needs: the strategy whose finished run it starts from, if any.
        at_start, scales, trains, updates: as in :class:`MixingStrategy`.
    """

    name: str
    signals: tuple[str, ...]
    defaults: dict[str, Any]
    required: tuple[str, ...]
    summary: str
    source: str
    needs: str | None
    trains: bool
    updates: bool
    at_start: tuple[str, ...] = ()
    scales: str = "draws"


def load_strategy(name: str, /, **options: Any) -> MixingStrategy:
    """The strategy of this name with these options.

    Args:
        name: a built-in strategy, an entry point of ``moemix.strategies``, or ``path/to/file.py:ClassName``.

    Raises:
        MoemixError: no such strategy, no such option, or a value that the option cannot take.
    """
    return _configured(_find(name), name, options)


def strategy_cards() -> list[StrategyCard]:
    """Every strategy that can be named without a path, by name: ours and those of installed plug-ins that load."""
    classes = dict(_builtin())
    for name in _plugins().keys() - classes.keys():
        with contextlib.suppress(MoemixError):  # told by plugin_faults
            classes[name] = _plugin(name)
    return [_card(name, classes[name]) for name in sorted(classes)]


def strategy_names() -> list[str]:
    """Every name that stands for a strategy, without importing plug-ins."""
    return sorted(_builtin().keys() | _plugins().keys())


def plugin_faults() -> list[str]:
    """What is wrong with installed plug-ins, one sentence each; no fault of one keeps the others from being used."""
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
    """Hash of the file that a strategy comes from, unless it is built in: edited, it is another strategy."""
    if name in _builtin() or name not in _plugins():
        return code_hash(name)
    file = inspect.getsourcefile(_plugin(name))
    return hash_file(Path(file)) if file else None


# --- finding --------------------------------------------------------------------------------------


def _find(name: str) -> StrategyClass:
    if name in _builtin():
        return _builtin()[name]
    if name in _plugins():
        return _plugin(name)
    if reference := file_reference(name):
        file, attribute = reference
        return _strategy_class(module_from(file, "strategy"), attribute, where=str(file))
    if name.endswith(".py"):
        raise MoemixError("which class of the file?", where=name, hint=f"write {name}:ClassName")
    raise unknown("strategy", name, [*_builtin(), *_plugins()])


@functools.cache
def _builtin() -> dict[str, StrategyClass]:
    found: dict[str, StrategyClass] = {}
    for entry in pkgutil.iter_modules(package.__path__):
        for strategy in _defined_in(importlib.import_module(f"{package.__name__}.{entry.name}")):
            if strategy.name in found:
                raise RuntimeError(f"two built-in strategies are called {strategy.name!r}")
            found[strategy.name] = strategy
    return found


@functools.cache
def _plugins() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def _plugin(name: str) -> StrategyClass:
    point, where = _plugins()[name], _where(name)
    if not point.attr:
        raise MoemixError("which class of the module?", where=where, hint=f"write {point.module}:ClassName")
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
    value = getattr(module, attribute, None)
    if value is None:
        raise unknown("class", attribute, [strategy.__name__ for strategy in _defined_in(module)], where=where)
    if not (inspect.isclass(value) and issubclass(value, MixingStrategy)):
        raise MoemixError(
            f"{attribute} is not a MixingStrategy", where=where, hint="subclass trainers.mixing.MixingStrategy"
        )
    if not dataclasses.is_dataclass(value):
        raise MoemixError(
            f"{attribute} is not a dataclass", where=where, hint="decorate it with @dataclass(frozen=True)"
        )
    return value


# --- options --------------------------------------------------------------------------------------


def _configured(strategy: StrategyClass, name: str, options: dict[str, Any]) -> MixingStrategy:
    fields = {field.name: field for field in dataclasses.fields(strategy) if field.init}  # type: ignore[arg-type]
    kinds = typing.get_type_hints(strategy)
    for option in options:
        if option not in fields:
            raise unknown("option", option, fields, where=f"strategy {name}")
    values = {option: _value(kinds[option], value, where=f"{name}.{option}") for option, value in options.items()}
    absent = [f.name for f in fields.values() if f.name not in values and _default(f) is dataclasses.MISSING]
    if absent:
        raise MoemixError(f"the option `{absent[0]}` must be given", where=f"strategy {name}")
    return strategy(**values)


def _value(kind: Any, value: Any, *, where: str) -> Any:
    """The value as its annotation wants it (a list for a tuple, ``"1e-4"`` for a float), or the reason why not."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except PydanticSchemaGenerationError:
        return value  # an annotation that only the strategy itself understands: its own checks decide
    except ValidationError as error:
        choices = [str(choice) for choice in _literals(kind)]
        hint = nearest(str(value), choices) if choices else None
        reason = error.errors(include_url=False)[-1]["msg"]
        raise MoemixError(f"{value!r} is not valid: {reason}", where=where, hint=hint) from None


def _literals(kind: Any) -> Iterator[Any]:
    for argument in typing.get_args(kind):
        if typing.get_origin(kind) is typing.Literal:
            yield argument
        else:
            yield from _literals(argument)


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _card(name: str, strategy: StrategyClass) -> StrategyCard:
    defaults = {field.name: _default(field) for field in dataclasses.fields(strategy) if field.init}  # type: ignore[arg-type]
    return StrategyCard(
        name=name,
        signals=tuple(sorted(strategy.signals)),
        defaults={option: value for option, value in defaults.items() if value is not dataclasses.MISSING},
        required=tuple(option for option, value in defaults.items() if value is dataclasses.MISSING),
        summary=(inspect.getdoc(strategy) or "").partition("\n")[0],
        source=strategy.source,
        needs=strategy.needs,
        trains=strategy.trains,
        updates=strategy.updates,
        at_start=tuple(sorted(strategy.at_start)),
        scales=strategy.scales,
    )
