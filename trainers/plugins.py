"""Classes by name: those of one of this project's packages, then installed plug-ins.

Strategies and signals are found in this way. A plug-in is an entry point; one that cannot be loaded harms no other, and
:meth:`PlugIns.faults` says what is wrong with it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

import numpy as np

from harness.errors import MoemixError, unknown
from harness.files import hash_file

T = TypeVar("T")


class PlugIns(Generic[T]):
    """Classes of one kind.

    Args:
        kind: what they are, for errors (``strategy``, ``signal``).
        package: where the built-in ones are defined; its module ``base`` defines their base class.
        base: the name of the base class.
        key: the class attribute with the name.
        check: says what a class lacks, as (reason, hint); None if it is all right.
    """

    def __init__(
        self, kind: str, package: str, base: str, key: str, check: Callable[[type], tuple[str, str] | None]
    ) -> None:
        self.kind, self._package, self._base, self._key, self._check = kind, package, base, key, check
        self.group = f"moemix.{'strategies' if kind == 'strategy' else kind + 's'}"

    @functools.cached_property
    def builtin(self) -> dict[str, type[T]]:
        """The classes of the package by name."""
        found: dict[str, type[T]] = {}
        package = importlib.import_module(self._package)
        for entry in pkgutil.iter_modules(package.__path__):
            for each in self.defined_in(importlib.import_module(f"{self._package}.{entry.name}")):
                name = getattr(each, self._key)
                if name in found:
                    raise RuntimeError(f"two built-in {self.group} are called {name!r}")
                found[name] = each
        return found

    @functools.cached_property
    def installed(self) -> dict[str, metadata.EntryPoint]:
        """The entry points by name, not loaded."""
        return {point.name: point for point in metadata.entry_points(group=self.group)}

    def names(self) -> list[str]:
        """Return every name, without importing plug-ins."""
        return sorted(self.builtin.keys() | self.installed.keys())

    def find(self, name: str) -> type[T]:
        """Return the class of this name.

        Raises:
            MoemixError: there is none, or its plug-in cannot be loaded.
        """
        if name in self.builtin:
            return self.builtin[name]
        if name not in self.installed:
            raise unknown(self.kind, name, self.names())
        point, where = self.installed[name], self._where(name)
        if not point.attr:
            hint = f"write {point.module}:ClassName"
            raise MoemixError("the class in the module is not named", where=where, hint=hint)
        try:
            module = importlib.import_module(point.module)
        except Exception as error:
            raise MoemixError(
                f"the plug-in cannot be imported: {type(error).__name__}: {error}", where=where
            ) from error
        return self.checked(module, point.attr, where=where)

    def all(self) -> dict[str, type[T]]:
        """Return the classes that can be loaded, sorted by name."""
        found = {}
        for name in self.names():
            with contextlib.suppress(MoemixError):  # `faults` reports it
                found[name] = self.find(name)
        return found

    def faults(self) -> list[str]:
        """Say what is wrong with installed plug-ins, one sentence each. The others can still be used."""
        found = []
        for name in sorted(self.installed):
            if name in self.builtin:
                text = f"{name!r} is a built-in {self.kind}; the plug-in of that name is not used"
                found.append(f"{self._where(name)}: {text}")
                continue
            try:
                self.find(name)
            except MoemixError as error:
                found.append(str(error))
        return found

    def code(self, name: str) -> str | None:
        """Return the hash of the file that defines a plug-in; None for a built-in class and for an unknown name."""
        if name in self.builtin or name not in self.installed:
            return None
        file = inspect.getsourcefile(self.find(name))
        return hash_file(Path(file)) if file else None

    def defined_in(self, module: ModuleType) -> Iterator[type[T]]:
        """Yield the classes that a module defines and names."""
        for _, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, self._root) and value.__module__ == module.__name__ and self._key in vars(value):
                yield cast("type[T]", value)

    def checked(self, module: ModuleType, attribute: str, *, where: str) -> type[T]:
        """Return a class of a module.

        Raises:
            MoemixError: there is none of this name, or it is not of this kind.
        """
        value: Any = getattr(module, attribute, None)
        if value is None:
            raise unknown("class", attribute, [each.__name__ for each in self.defined_in(module)], where=where)
        if not (inspect.isclass(value) and issubclass(value, self._root)):
            hint = f"subclass {self._package}.{self._base}"
            raise MoemixError(f"{attribute} is not a {self._base}", where=where, hint=hint)
        if lack := self._check(value):
            raise MoemixError(f"{attribute} {lack[0]}", where=where, hint=lack[1])
        return cast("type[T]", value)

    @functools.cached_property
    def _root(self) -> type:
        root: type = getattr(importlib.import_module(f"{self._package}.base"), self._base)
        return root

    def _where(self, name: str) -> str:
        point = self.installed[name]
        package = f" of {point.dist.name}" if point.dist else ""
        return f"entry point {self.group}:{name} ({point.value}){package}"


def _lacks_field(signal: type) -> tuple[str, str] | None:
    return None if isinstance(getattr(signal, "field", None), str) else ("has no field", 'add `field = "its_name"`')


SIGNALS: PlugIns[Any] = PlugIns("signal", "trainers.signals", "Signal", "field", _lacks_field)


def random_streams(field: str, *seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Return the random numbers of a signal's noise, and those of what stays the same whenever it is measured."""
    noise, constant = (np.random.default_rng([*seed, part, *field.encode()]) for part in (1, 2))
    return noise, constant


def situation(*arguments: Any, **fields: Any) -> Any:
    """Return a :class:`trainers.signals.Situation`; code that measures nothing makes it here, without torch."""
    return importlib.import_module("trainers.signals.base").Situation(*arguments, **fields)
