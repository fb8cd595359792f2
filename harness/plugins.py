"""Code that the project is told of: by reference, ``path/to/file.py:name``, and by entry points."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

from harness.errors import MoemixError, nearest
from harness.files import hash_file


def file_reference(reference: str) -> tuple[Path, str] | None:
    """The file and the name in it, if ``reference`` is of that form."""
    file, colon, name = reference.rpartition(":")
    return (Path(file), name) if colon and file.endswith(".py") else None


def code_hash(reference: str) -> str | None:
    """Hash of the file that a reference names: edited, it is other code. None if it names no file that exists."""
    found = file_reference(reference)
    return hash_file(found[0]) if found and found[0].is_file() else None


def module_from(path: Path, kind: str) -> ModuleType:
    """Run a file as a module. Its name is made from its contents, so the same file is run once.

    Args:
        kind: what the file is, for errors (``strategy``, ``adapter``).

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
    except Exception as error:
        del sys.modules[name]
        message = f"the {kind} file does not run: {type(error).__name__}: {error}"
        raise MoemixError(message, where=str(path)) from error
    return module


def register_architectures() -> None:
    """Make transformers know all model code that is installed: the entry points of the group ``moemix.architectures``.

    Called before a checkpoint is loaded. Each entry point is a function without arguments that registers its
    configurations and models with transformers' Auto classes, and may be called again.
    """
    for entry in metadata.entry_points(group="moemix.architectures"):
        entry.load()()
