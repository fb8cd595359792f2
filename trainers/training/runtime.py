"""What a training process does about its surroundings: peers, determinism, interrupts, memory."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch


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


def seed_forward(seed: int, step: int, number: int) -> None:
    """Seed dropout and gate noise of one forward pass, counted over all ranks: no generator's state has to be stored,
    and the noise is the same however many processes share the step."""
    digest = hashlib.sha256(f"{seed} {step} {number}".encode()).digest()
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
        with suppress(OSError):  # who would have read this may be gone
            print("stopping after this step (once more to stop at once)", file=sys.stderr, flush=True)
