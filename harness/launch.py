"""Starting a stage on several processes, and what such a process knows of the others.

What is wanted of them is said in accelerate's words: ``accelerate launch`` sets the same variables for the processes
that it starts, so a stage reads one language, whoever started it.
"""

from __future__ import annotations

import os

from harness.execution import Launcher

WANTED: dict[str, dict[str, str]] = {
    "ddp": {},
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "zero1": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"},
}

_ONE_OF_MANY = frozenset("RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split())
_PREFIXES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "GROUP_", "ROLE_")


def launch_command(launcher: Launcher, command: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments of ``python`` that run a ``moemix`` command."""
    if launcher.processes == 1:
        return ("-m", "harness.cli", *command)
    return ("-m", "trainers.parallel.launch", str(launcher.processes), *command)


def launch_environment(launcher: Launcher) -> dict[str, str]:
    """The environment to run it in.

    On CPUs each process gets its share of the cores, unless ``OMP_NUM_THREADS`` is set: together they have no more
    than one alone. If this process was itself launched with others, a job it starts is not one of them.
    """
    environment = dict(os.environ)
    if process_count() > 1:
        environment = {
            name: value
            for name, value in environment.items()
            if name not in _ONE_OF_MANY and not name.startswith(_PREFIXES)
        }
    if launcher.processes > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launcher.processes)))
        environment |= WANTED[launcher.strategy]
    return environment


def process_count() -> int:
    """How many processes a launcher started together with this one, itself included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the first of them."""
    return os.environ.get("RANK", "0") == "0"
