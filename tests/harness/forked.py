"""Processes as forks of one that has the libraries loaded: a second each instead of ten.

For tests that need a process of its own (an exit status, an environment, a rank, something to kill), not a new
interpreter; what a new interpreter does is shown by ``test_cli.py``, ``test_outside.py`` and ``test_end_to_end.py``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.cli import main
from harness.launch import free_port

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("trainers.making.stage", "trainers.training.run", "transformers.models.mixtral.modeling_mixtral"),
        *("evals.runner", "evals.continuous", "evals.judge.run"),
    ]
)


class Forked:
    """A process of one thread that runs a function, with the part of ``Popen``'s interface that tests need."""

    def __init__(self, target: Callable[..., Any], *arguments: Any, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()  # goes with this object
        surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        started = (Path(self._folder.name), surroundings, os.getcwd(), target, arguments)
        self._process = PROCESSES.Process(target=_run, args=started)
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end; a negative status stands for a signal."""
        self._process.join()
        assert self._process.exitcode is not None
        out, err = (path.read_text() for path in _outputs(Path(self._folder.name)))
        return subprocess.CompletedProcess((), self._process.exitcode, out, err)


def start(*words: object, **environment: str) -> Forked:
    """Start a ``moemix`` command."""
    return Forked(_command, list(map(str, words)), **environment)


def moemix(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a ``moemix`` command to its end."""
    return start(*words, **environment).wait()


def run_ranks(target: Callable[..., Any], *arguments: Any, processes: int = 2, **environment: str) -> None:
    """Run a function on several processes that find each other, as torch's launcher would start them."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = [
        Forked(target, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **sizes, **meeting, **environment)
        for rank in range(processes)
    ]
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() for rank in ranks):  # the others would wait for it
            for rank in ranks:
                rank.send_signal(9)
        time.sleep(0.02)
    ended = [rank.wait() for rank in ranks]
    assert all(one.returncode == 0 for one in ended), "\n".join(one.stderr[-4000:] for one in ended)


def _command(words: list[str]) -> None:
    sys.argv = ["moemix", *words]
    main(words)


def _outputs(folder: Path) -> tuple[Path, Path]:
    return folder / "stdout", folder / "stderr"


def _run(
    scratch: Path, surroundings: Mapping[str, str], here: str, target: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    for descriptor, path in enumerate(_outputs(scratch), start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(here)
    os.environ.clear()
    os.environ.update(surroundings)
    import torch

    torch.set_num_threads(int(surroundings["OMP_NUM_THREADS"]))  # read when it was loaded, which was before
    target(*arguments)
