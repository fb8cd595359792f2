"""Training states on disk: written whole, hashed, and checked when they are read; the newest valid ones are kept.

    state/step-00000200/
        model.safetensors      parameters and buffers by name
        optimizer.safetensors  moments by parameter name
        arrays.npz             mixture, signals, sums over sources
        facts.json             step, history of weights, lengths of the run's JSONL files, …
        manifest.json          SHA-256 of the four files above, written last

A state gets its name by a rename, so a process that is killed while writing leaves the older states intact.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.errors import MoemixError, StageError
from harness.files import hash_file, read_json, whole_directory, write_json

logger = logging.getLogger("moemix.training")
Value = TypeVar("Value")

MODEL, OPTIMIZER, ARRAYS, FACTS, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "arrays.npz",
    "facts.json",
    "manifest.json",
)


@dataclass(frozen=True)
class State:
    """All that a run needs to resume as if it had never stopped.

    Attributes:
        step: the number of finished optimizer steps.
        model: parameters and persistent buffers by name.
        optimizer: the optimizer's state as ``<parameter>/<field>``.
        arrays: all other arrays.
        facts: everything else, as JSON, which keeps floats exactly.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    arrays: Mapping[str, np.ndarray]
    facts: dict[str, Any]


class States:
    """The states of one run.

    Args:
        folder: ``state/`` of the run.
        keep: the number of newest states to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Return the steps of the states on disk, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def save(self, state: State) -> None:
        """Write a state, then drop those that are older than the newest ``keep``.

        Raises:
            StageError: the disk is full or gone; the states before this one are intact.
        """
        with writing(self.folder), whole_directory(self._path(state.step)) as folder:
            save_file(dict(state.model), folder / MODEL)
            save_file(dict(state.optimizer), folder / OPTIMIZER)
            with open(folder / ARRAYS, "wb") as file:
                np.savez(file, allow_pickle=False, **state.arrays)
            write_json(folder / FACTS, {**state.facts, "step": state.step})
            hashes = {name: hash_file(folder / name) for name in (MODEL, OPTIMIZER, ARRAYS, FACTS)}
            write_json(folder / MANIFEST, hashes)
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self._path(step), ignore_errors=True)

    def newest(self) -> State | None:
        """Return the newest valid state, or None. Damaged ones are reported and removed."""
        for leftover in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                return self._read(step)
            except (MoemixError, OSError, ValueError, KeyError) as damage:
                logger.warning("warning: the state %s is damaged and not used: %s", path, damage)
                shutil.rmtree(path, ignore_errors=True)
        return None

    def clear(self) -> None:
        """Remove every state."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _read(self, step: int) -> State:
        path = self._path(step)
        for name, expected in read_json(path / MANIFEST).items():
            if hash_file(path / name) != expected:
                raise MoemixError("the file has changed since it was written", where=name)
        facts = read_json(path / FACTS)
        for name, size in facts["files"].items():
            if (self.folder.parent / name).stat().st_size < size:
                raise MoemixError(f"the file is shorter than when the state of step {step} was saved", where=name)
        with np.load(path / ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return State(step, load_file(path / MODEL), load_file(path / OPTIMIZER), arrays, facts)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failed write below ``folder`` into an error that says what to do.

    Raises:
        StageError: the disk is full, read-only, or gone.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StageError(
            f"cannot write: {getattr(error, 'strerror', None) or error}",
            where=str(folder),
            hint="make room, then start the same command again: it resumes from the last state",
        ) from error


def prefixed(prefix: str, arrays: Mapping[str, Value]) -> dict[str, Value]:
    """Put a prefix before names: ``{"a": x}`` → ``{"prefix/a": x}``."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def below(prefix: str, arrays: Mapping[str, Value]) -> dict[str, Value]:
    """Return what has a prefix, without it: the inverse of :func:`prefixed`."""
    return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}
