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

Asked = Literal["ddp", "fsdp2", "zero1"]

_LAUNCH = "accelerate launch"


def asked_for() -> Asked:
    """The strategy that this process was launched for; ``ddp`` where nothing else was said.

    Raises:
        MoemixError: a setting of the launcher's that training would not honour.
    """
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        return _asked_of_deepspeed()
    if _flag("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise MoemixError("FSDP's first version was asked for", where=_LAUNCH, hint="--fsdp_version 2")
        if _flag("FSDP_OFFLOAD_PARAMS"):
            raise MoemixError("offloading of parameters is not offered", where=_LAUNCH, hint="leave it out")
        return "fsdp2"
    for name in ("ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        if _flag(name):
            raise MoemixError(f"{name} asks for what is not offered", where=_LAUNCH, hint="ddp, fsdp2 or zero1")
    return "ddp"


def _asked_of_deepspeed() -> Asked:
    if os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        raise MoemixError(
            "a configuration file of DeepSpeed's was given, and the recipe says all of it",
            where=_LAUNCH,
            hint="--use_deepspeed --zero_stage 1, without a file",
        )
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")  # accelerate's own default
    if stage != "1":
        raise MoemixError(
            f"stage {stage} of DeepSpeed's ZeRO was asked for, and 1 is offered",
            where=_LAUNCH,
            hint="--zero_stage 1; FSDP2 shards weights and gradients too",
        )
    for what in ("OPTIMIZER", "PARAM"):
        if os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE", "none") != "none":
            raise MoemixError("DeepSpeed's offloading is not offered", where=_LAUNCH, hint="leave it out")
    return "zero1"


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
        if strategy == "zero1":
            made = Accelerator(**_with_deepspeed(on_cpu), **options)
        else:
            made = Accelerator(cpu=on_cpu, mixed_precision="no", **options)
    if made.num_processes != launched:
        raise MoemixError(
            f"{launched} processes were launched, and accelerate sees {made.num_processes}",
            hint="`moemix train RECIPE --set launcher.processes=N` starts N processes, on CPUs too",
        )
    if strategy == "zero1" and str(made.distributed_type) != "DistributedType.DEEPSPEED":
        raise MoemixError(f"DeepSpeed was asked for, and accelerate gave {made.distributed_type}", where=_LAUNCH)
    return made


def _with_deepspeed(on_cpu: bool) -> dict[str, Any]:
    """What makes accelerate take DeepSpeed, on CPUs too: there it has to be told of gloo, and not of ``cpu``, at which
    it would quietly train replicas.

    Raises:
        MoemixError: DeepSpeed is not installed.
    """
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise MoemixError(
            f"DeepSpeed was asked for and is not installed ({error})",
            where="launcher.strategy=zero1",
            hint="pip install moemix[deepspeed]; fsdp2 needs nothing more",
        ) from error
    # On CPUs it would compile a kernel on the spot, for sums in shared memory in place of gloo's; a process that is
    # killed meanwhile leaves a lock behind that every later one waits for, for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    from accelerate import DeepSpeedPlugin
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    if AcceleratorState().initialized if AcceleratorState._shared_state else False:
        return {}  # the first one's holds for all of this process
    plugin = DeepSpeedPlugin(
        hf_ds_config={
            "train_micro_batch_size_per_gpu": 1,  # of no meaning here: see Zero1.backward
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,  # the recipe's, in Zero1.prepare
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 1 << 60,
        }
    )
    handlers = [InitProcessGroupKwargs(backend="gloo")] if on_cpu else []
    return {"deepspeed_plugin": plugin, "mixed_precision": "no", "kwargs_handlers": handlers}


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
