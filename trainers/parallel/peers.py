"""How this process was launched, and the connection to its peers by accelerate.

``accelerate launch`` describes its settings to its processes in environment variables, and so does the recipe's
``launcher:``. On a machine without GPUs accelerate falls back to DDP without an error, so what it sets up is compared
with what was launched before anything is trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from harness.errors import MoemixError
from harness.launch import is_first, process_count

Strategy = Literal["ddp", "fsdp2", "zero1"]

_LAUNCH = "accelerate launch"
_OFFLOADING = "offloading is not supported", "leave it out"

# Settings of a launcher that training would not follow: (variable, its default, accepted values, what is wrong, what to
# do). Variables that are missing have their default.
_Setting = tuple[str, str, tuple[str, ...], str, str]
_ACCUMULATION: _Setting = (
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "1",
    ("1", "auto"),
    "gradient accumulation follows from batch_examples and rows_per_forward",
    "leave --gradient_accumulation_steps out",
)
_FSDP: tuple[_Setting, ...] = (
    ("FSDP_VERSION", "1", ("2",), "the first version of FSDP is not supported", "--fsdp_version 2"),
    ("FSDP_OFFLOAD_PARAMS", "false", ("false", "0", "no", ""), *_OFFLOADING),
)
_DEEPSPEED: tuple[_Setting, ...] = (
    (
        "ACCELERATE_DEEPSPEED_CONFIG_FILE",
        "",
        ("",),
        "DeepSpeed configuration files are not supported; set options in the recipe",
        "--use_deepspeed --zero_stage 1, without a file",
    ),
    (
        "ACCELERATE_DEEPSPEED_ZERO_STAGE",
        "2",  # accelerate's own default
        ("1",),
        "ZeRO stage {} of DeepSpeed is not supported; use stage 1",
        "--zero_stage 1; FSDP2 shards weights and gradients too",
    ),
    ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none", ("none",), *_OFFLOADING),
    ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none", ("none",), *_OFFLOADING),
)


def launched_strategy() -> Strategy:
    """Return the strategy for which this process was launched; ``ddp`` where no launcher says otherwise.

    Raises:
        MoemixError: the launcher has a setting that training would not follow.
    """
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        _check(_DEEPSPEED)
        return "zero1"
    if _flag("ACCELERATE_USE_FSDP"):
        _check(_FSDP)
        return "fsdp2"
    for name in ("ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        if _flag(name):
            raise MoemixError(f"{name} is not supported", where=_LAUNCH, hint="use ddp, fsdp2 or zero1")
    return "ddp"


def connect(dtype: str | None = None, trackers: Sequence[GeneralTracker] = ()) -> Accelerator:
    """Connect this process with its peers, through gloo on a machine without GPUs.

    Raises:
        MoemixError: the launched processes would not train together, or not as the launcher says; or the recipe's
            ``training.dtype`` contradicts the launcher's setting.
    """
    _check_against_recipe(dtype)
    strategy, launched = launched_strategy(), process_count()
    if strategy != "ddp" and launched == 1:
        raise MoemixError(f"{strategy} was launched with one process", hint="it needs two or more")
    on_cpu = not torch.accelerator.is_available()
    if launched == 1 and _flag("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ:
        raise MoemixError(
            "`--cpu` started one process",
            where=_LAUNCH,
            hint="--multi_gpu starts several on CPUs too; or `moemix train RECIPE --set launcher.processes=N`",
        )
    if strategy == "fsdp2":  # transformers would leave the weights of all but the first process empty
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    with _without("ACCELERATE_USE_FSDP"):  # sharding is torch's, the same on every device: see sharded.py
        if strategy == "zero1":
            accelerator = Accelerator(**_deepspeed_options(on_cpu), log_with=list(trackers) or None)
        else:
            accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", log_with=list(trackers) or None)
    if accelerator.num_processes != launched:
        raise MoemixError(
            f"{launched} processes were launched, but accelerate connects {accelerator.num_processes}",
            hint="`moemix train RECIPE --set launcher.processes=N` starts N processes, on CPUs too",
        )
    if strategy == "zero1" and str(accelerator.distributed_type) != "DistributedType.DEEPSPEED":
        raise MoemixError(f"accelerate set up {accelerator.distributed_type} instead of DeepSpeed", where=_LAUNCH)
    return accelerator


def _deepspeed_options(on_cpu: bool) -> dict[str, object]:
    """Return the options that make accelerate use DeepSpeed.

    On CPUs it needs the gloo backend, and no ``cpu`` option, with which it would train replicas without an error.

    Raises:
        MoemixError: DeepSpeed is not installed.
    """
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise MoemixError(
            f"DeepSpeed is not installed ({error})",
            where="launcher.strategy=zero1",
            hint="pip install moemix[deepspeed]; fsdp2 needs nothing more",
        ) from error
    # On CPUs it would compile a kernel on the spot, for sums in shared memory instead of gloo's. A process that is
    # killed meanwhile leaves a lock behind, for which every later one waits without end.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    from accelerate import DeepSpeedPlugin
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    if AcceleratorState().initialized if AcceleratorState._shared_state else False:
        return {}  # the first plugin serves all of this process
    plugin = DeepSpeedPlugin(
        hf_ds_config={
            "train_micro_batch_size_per_gpu": 1,  # without effect here: see Zero1.backward
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,  # set from the recipe in Zero1.prepare
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 1 << 60,
        }
    )
    handlers = [InitProcessGroupKwargs(backend="gloo")] if on_cpu else []
    return {"deepspeed_plugin": plugin, "mixed_precision": "no", "kwargs_handlers": handlers}


def made_by_first(make: Callable[[], str]) -> str:
    """Let the first process make something, and return it on all of them.

    This works before the processes are connected: making it may take hours.
    """
    from torch.distributed.rendezvous import rendezvous

    store = next(rendezvous("env://"))[0]
    key = "moemix/made_by_first"
    if is_first():
        store.set(key, make())
    else:
        store.wait([key], timedelta(days=30))
    return str(store.get(key).decode())


def _check(settings: tuple[_Setting, ...]) -> None:
    for name, default, accepted, wrong, hint in settings:
        value = os.environ.get(name, default)
        if value.lower() not in accepted:
            raise MoemixError(wrong.format(value), where=_LAUNCH, hint=hint)


def _check_against_recipe(dtype: str | None) -> None:
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if dtype and precision not in ("no", {"bfloat16": "bf16"}.get(dtype, "no")):
        raise MoemixError(
            f"the launcher sets mixed precision {precision}, but the recipe trains in {dtype}",
            where=_LAUNCH,
            hint="leave --mixed_precision out and set training.dtype",
        )
    _check((_ACCUMULATION,))


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide some environment variables for a while, and accelerate's precision, which the recipe decides."""
    hidden = {name: os.environ.pop(name) for name in (*names, "ACCELERATE_MIXED_PRECISION") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
