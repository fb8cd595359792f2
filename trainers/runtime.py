"""What a training process does about its surroundings: peers, determinism, interrupts, memory."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from harness.errors import MoemixError


def accelerator() -> Any:
    """accelerate's view of this process and its peers; on a machine without GPUs they talk through gloo.

    Raises:
        MoemixError: the launcher started several processes that would not train together.
    """
    from accelerate import Accelerator

    made = Accelerator(cpu=not torch.accelerator.is_available())
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if made.num_processes != launched:
        raise MoemixError(f"{launched} processes were launched, and accelerate sees {made.num_processes}")
    return made


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels wherever there are any; torch warns of an operation that has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, hides nothing
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed dropout and gate noise of one step on one rank, so that no generator's state has to be stored."""
    digest = hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def peak_memory(device: torch.device) -> int:
    """Bytes, at most so far: of the GPU's allocator, or the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Interrupts:
    """While active, a first Ctrl-C or SIGTERM only sets ``pending``: the step is finished and a state written.

    A second one interrupts at once. Outside the main thread, where signals cannot be caught, nothing is changed.
    """

    def __init__(self) -> None:
        self.pending = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
        print("stopping after this step (once more to stop at once)", file=sys.stderr, flush=True)
