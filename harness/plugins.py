"""Loading user-supplied code: by reference (``path/to/file.py:name``) and by entry points."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import linecache
import sys
import textwrap
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import FunctionType, ModuleType

from harness.errors import MoemixError, nearest
from harness.files import hash_file, hash_value, write_text


def file_reference(reference: str) -> tuple[Path, str] | None:
    """Return the file and the name in it, if ``reference`` is of that form."""
    file, colon, name = reference.rpartition(":")
    return (Path(file), name) if colon and file.endswith(".py") else None


def code_hash(reference: str, group: str = "") -> str | None:
    """Return the hash of the file behind a reference or an entry point of a group; None for a built-in name."""
    found = file_reference(reference)
    if found is None and reference in plugin_names(group):
        file = inspect.getsourcefile(sys.modules[plugin(group, reference).__module__])
        return hash_file(Path(file)) if file else None
    return hash_file(found[0]) if found and found[0].is_file() else None


def plugin_names(group: str) -> list[str]:
    """Return the names of the entry points of a group, in installed packages."""
    return sorted(metadata.entry_points(group=group).names) if group else []


def plugin(group: str, name: str) -> object:
    """Load the entry point of this name.

    Raises:
        MoemixError: it cannot be imported.
    """
    (point,) = metadata.entry_points(group=group, name=name)
    try:
        return point.load()
    except Exception as error:
        message = f"the plug-in cannot be imported: {type(error).__name__}: {error}"
        raise MoemixError(message, where=f"entry point {group}:{name} ({point.value})") from error


def module_from(path: Path, kind: str) -> ModuleType:
    """Run a file as a module and return it; the same contents are run once. ``kind`` names the file in errors.

    Raises:
        MoemixError: there is no such file, or it does not run.
    """
    if not path.is_file():
        siblings = [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise MoemixError(f"the {kind} file does not exist", where=str(path), hint=nearest(path.name, siblings))
    name = f"moemix_{kind}_{path.stem}_{hash_file(path)[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        message = f"the {kind} file does not run: {type(error).__name__}: {error}"
        raise MoemixError(message, where=str(path)) from error
    return module


def register_architectures() -> None:
    """Register all installed model code with transformers, before a checkpoint is loaded.

    Each entry point of the group ``moemix.architectures`` is a function without arguments that registers its classes
    with transformers' Auto classes, and may be called again.
    """
    for entry in metadata.entry_points(group="moemix.architectures"):
        entry.load()()


def write_source(definition: type, folder: Path) -> Path:
    """Write the source of a class that a notebook or script defines to a file, and return it.

    The file is named by the hash of what is in it, and also has what the class uses: imports, functions and classes
    beside it, and constants.

    Raises:
        MoemixError: the source cannot be found, or it uses a value that cannot be written as source code.
    """
    parts: dict[str, str] = {}
    _collect(definition.__name__, definition, vars(sys.modules[definition.__module__]), parts)
    imports = sorted(text for text in parts.values() if text.startswith(("import ", "from ")))
    others = [text for text in parts.values() if text not in imports]
    text = "\n".join(["from __future__ import annotations\n", *imports]) + "\n\n\n" + "\n\n\n".join(others) + "\n"
    path = folder / f"{definition.__name__}-{hash_value(text)[:12]}.py"
    if not path.is_file():
        write_text(path, text)
    return path


def _collect(name: str, value: object, scope: Mapping[str, object], parts: dict[str, str]) -> None:
    """Add the source of a name to ``parts``, after the source of everything that it uses."""
    origin = getattr(value, "__module__", None)
    if inspect.ismodule(value):
        parts[name] = f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
    elif isinstance(value, type | FunctionType) and origin == scope["__name__"]:
        source = _source(value)
        parts[name] = ""  # it may use itself
        for node in ast.walk(ast.parse(source)):
            used = node.id if isinstance(node, ast.Name) else ""
            if used in scope and used not in parts:
                _collect(used, scope[used], scope, parts)
        del parts[name]
        parts[name] = source
    elif origin is not None and hasattr(value, "__name__") and origin != scope["__name__"]:
        original = value.__name__
        parts[name] = f"from {origin} import {original}" + ("" if original == name else f" as {name}")
    else:
        text = repr(value)
        try:
            same = ast.literal_eval(text) == value
        except (ValueError, SyntaxError):
            same = False
        if not same:
            raise MoemixError(
                f"the class uses {name!r}, a value that cannot be written as source code",
                hint="make it an option of the strategy, or put the class into a file and name it file.py:ClassName",
            )
        parts[name] = f"{name} = {text}"


def _source(definition: type | FunctionType) -> str:
    """Return the source of a class or function, also of one that a notebook's cell defines."""
    functions = [definition] if isinstance(definition, FunctionType) else vars(definition).values()
    files = [function.__code__.co_filename for function in functions if isinstance(function, FunctionType)]
    for lines in map(linecache.getlines, dict.fromkeys(files)):
        for node in reversed(list(ast.walk(ast.parse("".join(lines))))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == definition.__name__:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).rstrip()
    raise MoemixError(
        f"the source of {definition.__name__} cannot be found",
        hint="put the class into a file and name it file.py:ClassName",
    )
