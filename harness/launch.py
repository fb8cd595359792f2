"""Starting ``moemix`` in other processes, and what a process knows of those that were launched with it.

How several processes share their work is said in accelerate's environment variables: ``accelerate launch`` sets the
same ones, so a stage reads one language, whoever started it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys

from harness.execution import Launcher

WANTED: dict[str, dict[str, str]] = {
    "ddp": {},
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "zero1": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"},
}
"""Variables that ask accelerate for each ``launcher.strategy``."""

_ONE_OF_MANY = frozenset("RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split())
_SET_PARENT_DEATH_SIGNAL = 1  # an option of Linux's prctl
_PREFIXES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "GROUP_", "ROLE_")


def moemix_command(*words: str) -> tuple[str, ...]:
    """Return the command line that runs ``moemix`` in a new process.

    The working directory is not on its import path (``-P``), whatever packages the user has there.
    """
    return (sys.executable, "-P", "-m", "harness.cli", *words)


def free_port() -> int:
    """Return a port of this machine's own address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_moemix(*words: str) -> int:
    """Run a ``moemix`` command in a new process, show its output as diagnostics, and return its exit status."""
    return subprocess.run(moemix_command(*words), stdout=sys.stderr, env=job_environment(), check=False).returncode


def job_environment() -> dict[str, str]:
    """Return the environment of a new job: this one, without what a launcher said to this process alone.

    No Python process below it imports from the working directory, whatever packages the user has there.
    """
    several = process_count() > 1
    kept = {
        n: value for n, value in os.environ.items() if not (several and (n in _ONE_OF_MANY or n.startswith(_PREFIXES)))
    }
    return {**kept, "PYTHONSAFEPATH": "1"}


def launch_environment(launcher: Launcher) -> dict[str, str]:
    """Return the variables to set before several processes are launched.

    On CPUs each process gets its share of the cores, unless ``OMP_NUM_THREADS`` is set: together they use no more
    than one alone.
    """
    threads = str(max(1, core_count() // launcher.processes))
    threads = os.environ.get("OMP_NUM_THREADS", threads)
    return {"OMP_NUM_THREADS": threads, "PYTHONSAFEPATH": "1", **WANTED[launcher.strategy]}


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def set_death_signal() -> None:
    """Make this process, a job's, end when the one that started it dies, and ignore what schedulers send to all.

    On Linux it is sent SIGTERM, so no stray process works on a run. Schedulers send SIGUSR2 to every process of a job,
    which would end this one.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def process_count() -> int:
    """Return how many processes a launcher started together with this one, itself included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this is the first of them."""
    return os.environ.get("RANK", "0") == "0"
