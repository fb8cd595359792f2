"""The environment of a training process: determinism, seeds, interrupts, memory."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

logger = logging.getLogger("moemix.training")


@contextmanager
def deterministic() -> Iterator[None]:
    """Use deterministic kernels where they exist; torch warns of an operation that has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings, filling = torch.utils.deterministic, "fill_uninitialized_memory"  # which costs time and hides nothing
    filled = getattr(settings, filling)
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(settings, filling, False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        setattr(settings, filling, filled)


def seed_forward(seed: int, step: int, number: int) -> None:
    """Seed dropout and gate noise of one forward pass, numbered over all ranks.

    So no generator's state has to be stored, and the noise is the same however many processes share the step.
    """
    digest = hashlib.sha256(f"{seed} {step} {number}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory so far, in bytes: of the GPU's allocator, or the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Interrupts:
    """While active, a first Ctrl-C or SIGTERM only sets ``pending``: the step is finished and a state is written.

    A second one interrupts at once. Outside the main thread, where signals cannot be caught, nothing changes.
    """

    def __init__(self) -> None:
        self.pending = False
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself returned

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
        logger.info("stopping after this step (once more to stop at once)")
