"""Files that are complete or absent (temporary file, fsync, rename), and hashes of files and values."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from harness.errors import MoemixError, raise_all


def _fsync_dir(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file as a whole: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_dir(path.parent)


def parent_that_exists(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def write_text(path: Path, text: str) -> None:
    """Replace a file by UTF-8 text, as a whole."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    """Replace a file by JSON, as a whole."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file; an error names the file and line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MoemixError("the file does not exist", where=str(path)) from None
    except json.JSONDecodeError as error:
        raise MoemixError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    except UnicodeDecodeError as error:
        raise MoemixError(f"not UTF-8 text (byte {error.start})", where=str(path)) from None


class YamlLoader(yaml.SafeLoader):
    """YAML's safe loader, but a date is text: no key takes one, and a date that does not exist could not be read."""


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """Parse a YAML file; an error names the file and line. A key that is given twice is an error."""
    tree, _, repeated = parse_yaml(path)
    raise_all(repeated)
    return tree


def parse_yaml(path: Path, reader: type[YamlLoader] = YamlLoader) -> tuple[Any, yaml.Node | None, list[MoemixError]]:
    """Return the value of a YAML file, its nodes with their lines, and an error for each key that is given twice."""
    try:
        loader = reader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        repeated = list(_repeated_keys(node, path, set()))
        return loader.construct_document(node) if node is not None else None, node, repeated
    except FileNotFoundError:
        raise MoemixError("the file does not exist", where=str(path)) from None
    except OSError as error:
        raise MoemixError(f"the file cannot be read: {error.strerror}", where=str(path)) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise MoemixError(f"not valid YAML: {error.problem}", where=f"{path}:{line}") from None
    except UnicodeDecodeError as error:
        message = f"not valid YAML: not UTF-8 text (byte {error.start})"
        raise MoemixError(message, where=str(path), hint="save the file as UTF-8") from None
    except RecursionError:
        raise MoemixError("not valid YAML: nested too deeply", where=str(path)) from None
    except (yaml.YAMLError, ValueError) as error:  # the latter for a value that its tag does not fit
        raise MoemixError(f"not valid YAML: {error}", where=str(path)) from None


def yaml_value(text: str, *, where: str) -> Any:
    """Return the value of a text in YAML; an error names ``where`` it was given."""
    try:
        return yaml.load(text, YamlLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = getattr(error, "problem", None) or "it cannot be read"
        raise MoemixError(f"the value is not valid YAML: {reason}", where=where) from None


def _repeated_keys(node: yaml.Node | None, path: Path, seen: set[int]) -> Iterator[MoemixError]:
    if id(node) in seen:  # an anchor, which may stand for itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in lines:
                    message = f"the key `{key.value}` is given twice, first in line {lines[key.value]}"
                    yield MoemixError(message, where=f"{path}:{line}", hint="keep one of them")
                lines.setdefault(key.value, line)
            yield from _repeated_keys(value, path, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item, path, seen)


def append_jsonl(path: Path, record: Mapping[str, object]) -> None:
    """Append one line, and return when it is on disk."""
    line = json.dumps(record, ensure_ascii=False) + "\n"
    with open(path, "ab") as file:
        file.write(line.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file. An incomplete last line (a writer was killed) is skipped; others raise."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError:
                if not line.endswith(b"\n"):
                    return
                raise MoemixError("not valid JSON", where=f"{path}:{number}") from None


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, which replaces ``path`` (by fsync and rename) if the block succeeds.

    Leftovers of killed writers are removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            elif file.is_dir():
                _fsync_dir(file)
        _fsync_dir(temporary)
        if path.exists():
            old = _temporary(path)
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync_dir(path.parent)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tree(path: Path, pattern: str = "*") -> str:
    """Return the SHA-256 of the names and bytes of the files below ``path``, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob(pattern) if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def hash_value(value: object) -> str:
    """Return the SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
