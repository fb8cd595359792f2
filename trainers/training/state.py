"""Training states on disk: written whole, hashed, checked when read, the newest valid ones kept.

    state/step-00000200/
        model.safetensors      parameters and buffers by name
        optimizer.safetensors  moments by parameter name
        arrays.npz             mixture, signals, sums over sources
        facts.json             step, history of weights, lengths of the run's JSONL files, …
        manifest.json          SHA-256 of the four above, written last

A state appears under its name by a rename, so a process killed while writing leaves the older states as they were.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError, StageFailed
from harness.files import hash_file, read_json, whole_directory, write_json

if TYPE_CHECKING:
    from torch import Tensor

MODEL, OPTIMIZER, ARRAYS, FACTS, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "arrays.npz",
    "facts.json",
    "manifest.json",
)


@dataclass(frozen=True)
class State:
    """All that a run needs to go on as if it had never stopped.

    Attributes:
        step: optimizer steps finished.
        model: parameters and persistent buffers by name.
        optimizer: ``<parameter>/<field>`` of the optimizer.
        arrays: everything else that is an array.
        facts: everything else, as JSON; floats survive exactly.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    arrays: Mapping[str, NDArray]
    facts: dict[str, Any]


class States:
    """The states of one run.

    Args:
        folder: ``state/`` of the run.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """The steps of the states on disk, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def save(self, state: State) -> None:
        """Write a state, then drop those that are older than the newest ``keep``.

        Raises:
            StageFailed: the disk is full or gone; the states before this one are untouched.
        """
        from safetensors.torch import save_file

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
        """The newest state that is whole; damaged ones are named on stderr and removed. None if there is none."""
        for leftover in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                return self._read(step)
            except (MoemixError, OSError, ValueError, KeyError) as damage:
                print(f"warning: the state {path} is damaged and not used: {damage}", file=sys.stderr, flush=True)
                shutil.rmtree(path, ignore_errors=True)
        return None

    def clear(self) -> None:
        """Remove every state."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _read(self, step: int) -> State:
        from safetensors.torch import load_file

        path = self._path(step)
        for name, expected in read_json(path / MANIFEST).items():
            if hash_file(path / name) != expected:
                raise MoemixError("its bytes are not those that were written", where=name)
        facts = read_json(path / FACTS)
        for name, size in facts["files"].items():
            if (self.folder.parent / name).stat().st_size < size:
                raise MoemixError(f"it has lost lines since the state of step {step}", where=name)
        with np.load(path / ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return State(step, load_file(path / MODEL), load_file(path / OPTIMIZER), arrays, facts)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failed write below ``folder`` into a sentence about the disk.

    Raises:
        StageFailed: the disk is full, read-only, or gone.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StageFailed(
            f"cannot write: {getattr(error, 'strerror', None) or error}",
            where=str(folder),
            hint="make room, then start the same command again: it goes on from the last state",
        ) from error


def prefixed(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a": x}`` → ``{"prefix/a": x}``."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def below(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`prefixed`: what lies below ``prefix``."""
    return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}
