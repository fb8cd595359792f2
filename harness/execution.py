"""Where and how the jobs of a recipe run, and which trackers log them: what determines no result.

None of it is part of a run's identity: a run that was started in one way can go on in another.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from harness.schema import Strict

# --- on how many processes ------------------------------------------------------------------------


class Launcher(Strict):
    """How many processes train a run, and how they share its work.

    A run that was started on two processes goes on, with the same draws, on one.
    """

    processes: int = Field(1, ge=1, description="on this machine; one for each GPU, as a rule")
    strategy: Literal["ddp", "fsdp2", "zero1"] = Field(
        "ddp",
        description="ddp: whole replicas; fsdp2: weights, gradients and optimizer state in shards; zero1: the optimizer"
        " state alone, by DeepSpeed",
    )

    @model_validator(mode="after")
    def _something_to_share(self) -> Launcher:
        if self.strategy != "ddp" and self.processes == 1:
            raise ValueError(f"strategy {self.strategy} divides its work among processes, and `processes` is 1")
        return self


# --- on which machine -----------------------------------------------------------------------------


class LocalExecutor(Strict):
    """Jobs as processes of this machine, several at once if there are slots."""

    kind: Literal["local"] = "local"
    jobs: int | None = Field(
        None,
        ge=1,
        description="slots: so many jobs at once, if each takes one; null: one for each core if all models are tiny,"
        " else one",
    )
    slots: dict[str, int] = Field(default_factory=dict, description="slots that a job of a kind takes (`train: 2`); 1")
    devices: tuple[str, ...] = Field((), description="GPUs, one a slot, dealt out in CUDA_VISIBLE_DEVICES")
    threads: int | None = Field(
        None,
        ge=1,
        description="OMP_NUM_THREADS of each job; null: the environment's, or the cores divided by the slots",
    )

    @model_validator(mode="after")
    def _a_slot_is_a_device(self) -> LocalExecutor:
        if self.devices and self.jobs not in (None, 1, len(self.devices)):
            raise ValueError(f"`jobs` is {self.jobs} and there are {len(self.devices)} devices: each is one slot")
        return self


class SlurmResources(Strict):
    """Resources that a job of one kind requests from Slurm."""

    minutes: int = Field(24 * 60, ge=1, description="time limit")
    cpus: int = Field(1, ge=1)
    memory_gb: float | None = Field(None, gt=0)
    gpus: int = Field(0, ge=0, description="on its node")


class SlurmExecutor(Strict):
    """The same jobs on a Slurm cluster, through submitit."""

    kind: Literal["slurm"]
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    resources: dict[str, SlurmResources] = Field(default_factory=dict, description="by kind: model, train, eval, …")
    at_once: int = Field(64, ge=1, description="most jobs of one array that run at the same time")
    warning_seconds: int = Field(120, ge=1, description="how long before its limit a job is warned, to write a state")
    continuations: int = Field(3, ge=0, description="how often a job that hit its time limit is requeued to go on")
    retries: int = Field(1, ge=0, description="how often a job that a node or a signal ended is submitted again")
    poll_seconds: float = Field(10.0, gt=0)
    setup: tuple[str, ...] = Field((), description="shell lines before each job (`module load …`)")
    options: dict[str, object] = Field(default_factory=dict, description="further sbatch options, without dashes")


def _kind_by_name(value: object) -> object:
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "local", **value} if isinstance(value, dict) else value


Executor = Annotated[
    Annotated[LocalExecutor | SlurmExecutor, Field(discriminator="kind")], BeforeValidator(_kind_by_name)
]


# --- which trackers log it ------------------------------------------------------------------------


class Tracking(Strict):
    """Experiment trackers that log training, through accelerate (the extra ``tracking``)."""

    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field((), description="a bare list means these")
    project: str = Field("moemix", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="its name in the tracker")
    mode: Literal["online", "offline"] = Field(
        "online", description="of W&B; offline: files that `wandb sync` sends once there is a network"
    )

    @model_validator(mode="before")
    @classmethod
    def _trackers_by_name(cls, value: object) -> object:
        if isinstance(value, str):
            return {"trackers": (value,)}
        return {"trackers": value} if isinstance(value, list | tuple) else value
