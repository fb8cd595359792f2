"""Which MoE architectures train on two processes of this machine as on one, under DDP and under FSDP2."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from harness.errors import MoemixError
from harness.files import append_jsonl, read_json, read_jsonl, write_json
from harness.launch import WANTED, free_port
from trainers.making.support import trained

STRATEGIES = ("ddp", "fsdp2")
Found = dict[str, dict[str, str]]
Course = list[tuple[float, float]]
"""The loss and the gradient's norm of each step."""

_ABORTED = "not (aborts)"


def check_on_two_processes(kinds: Sequence[str]) -> Found:
    """Try architectures; each gets ``right``, ``refused`` or ``not`` for each strategy, as in :func:`support.check`.

    It is right if losses and norms of gradients are those of one process, step by step, but for rounding.
    """
    found: Found = {kind: dict.fromkeys(STRATEGIES, _ABORTED) for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in kinds:
            write_json(folder / f"{kind}.json", _outcome(kind, folder / "alone" / kind)[1])
        for strategy in STRATEGIES:
            left = list(kinds)
            while left:  # an architecture that aborts the processes is not tried again; the rest go on in others
                done = folder / f"{strategy}-{len(left)}.jsonl"
                with suppress(ProcessExitedException):
                    start_processes(
                        _rank, (left, strategy, folder, done, str(free_port())), nprocs=2, start_method="spawn"
                    )
                records = list(read_jsonl(done)) if done.is_file() else []
                for record in records:
                    found[record["kind"]][strategy] = record["word"]
                left = left[len(records) + 1 :] if len(records) < len(left) else []
    return found


def _rank(rank: int, kinds: Sequence[str], strategy: str, folder: Path, done: Path, port: str) -> None:
    torch.set_num_threads(1)
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), **sizes, **WANTED[strategy]}
    for kind in kinds:
        word, course = _outcome(kind, folder / strategy / kind)
        torch.distributed.barrier()  # one process alone may have failed; then this ends both
        if rank == 0:
            expected = read_json(folder / f"{kind}.json")
            if word == "right" and not (expected and _alike(course, expected)):
                word = "not"
            append_jsonl(done, {"kind": kind, "word": word})


def _alike(course: Course, expected: Course) -> bool:
    """Whether losses are equal within 1e-3 and norms within 5 %: rounding grows from step to step."""
    return bool(np.all(np.abs(np.divide(course, expected) - 1) <= (1e-3, 0.05)))


def _outcome(kind: str, folder: Path) -> tuple[str, Course]:
    """Train an architecture, and return a word and the course of the training."""
    try:
        trained(kind, folder)
    except MoemixError:
        return "refused", []
    except Exception as error:  # whatever an architecture does wrong
        return f"not ({type(error).__name__})", []
    metrics = folder / "metrics.jsonl"  # the first process writes it
    lines = read_jsonl(metrics) if metrics.is_file() else ()
    return "right", [(line["loss"], line["grad_norm"]) for line in lines]
