"""What this process was launched for, in accelerate's own words, and whether it can be had.

``accelerate launch`` tells its processes what it was asked for in environment variables, and so does the recipe's
``launcher:``. On a machine without GPUs accelerate itself quietly falls back to DDP whatever it was asked for, so
what it made is compared with what was wanted before anything is trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch

from harness.errors import MoemixError
from harness.launch import is_first, process_count

Asked = Literal["ddp", "fsdp2"]

_LAUNCH = "accelerate launch"


def asked_for() -> Asked:
    """The strategy that this process was launched for; ``ddp`` where nothing else was said.

    Raises:
        MoemixError: a setting of the launcher's that training would not honour.
    """
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        raise MoemixError("DeepSpeed is not offered", where=_LAUNCH, hint="FSDP2 shards weights and gradients too")
    if _flag("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise MoemixError("FSDP's first version was asked for", where=_LAUNCH, hint="--fsdp_version 2")
        if _flag("FSDP_OFFLOAD_PARAMS"):
            raise MoemixError("offloading of parameters is not offered", where=_LAUNCH, hint="leave it out")
        return "fsdp2"
    for name in ("ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        if _flag(name):
            raise MoemixError(f"{name} asks for what training does not offer", where=_LAUNCH, hint="ddp or fsdp2")
    return "ddp"


def connect(dtype: str | None = None, **options: Any) -> Any:
    """accelerate's view of this process and its peers; on a machine without GPUs they talk through gloo.

    Args:
        dtype: the recipe's ``training.dtype``, to be held against what the launcher was told.
        options: of the ``Accelerator`` (trackers).

    Raises:
        MoemixError: the processes that were launched would not train together, or not as the launcher was told to.
    """
    from accelerate import Accelerator

    _compare_with_recipe(dtype)
    strategy, launched = asked_for(), process_count()
    if strategy != "ddp" and launched == 1:
        raise MoemixError(f"{strategy} was asked for with one process", hint="it takes two or more")
    on_cpu = not torch.accelerator.is_available()
    if launched == 1 and _flag("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ:
        raise MoemixError(
            "several processes were asked for, and `--cpu` started one",
            where=_LAUNCH,
            hint="--multi_gpu starts them on CPUs too; or `moemix train RECIPE --set launcher.processes=N`",
        )
    if strategy == "fsdp2":  # transformers would leave the weights of all but the first process empty
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    with _without("ACCELERATE_USE_FSDP"):  # sharding is torch's, the same on every device: see sharded.py
        made = Accelerator(cpu=on_cpu, mixed_precision="no", **options)
    if made.num_processes != launched:
        raise MoemixError(
            f"{launched} processes were launched, and accelerate sees {made.num_processes}",
            hint="`moemix train RECIPE --set launcher.processes=N` starts N processes, on CPUs too",
        )
    return made


def made_by_first(make: Callable[[], str]) -> str:
    """What the first process makes, on all of them, before they are connected: making it may take hours."""
    from torch.distributed.rendezvous import rendezvous

    store = next(rendezvous("env://"))[0]
    key = "moemix/made_by_first"
    if is_first():
        store.set(key, make())
    else:
        store.wait([key], timedelta(days=30))
    made: str = store.get(key).decode()
    return made


def _compare_with_recipe(dtype: str | None) -> None:
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if dtype and precision not in ("no", {"bfloat16": "bf16"}.get(dtype, "no")):
        raise MoemixError(
            f"mixed precision {precision} was asked for, and the recipe trains in {dtype}",
            where=_LAUNCH,
            hint="leave --mixed_precision out and set training.dtype",
        )
    if os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") not in ("1", "auto"):
        raise MoemixError(
            "gradient accumulation follows from batch_examples and rows_per_forward",
            where=_LAUNCH,
            hint="leave --gradient_accumulation_steps out",
        )


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """The environment without some variables, and with accelerate's precision left to the recipe."""
    held = {name: os.environ.pop(name) for name in (*names, "ACCELERATE_MIXED_PRECISION") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)
