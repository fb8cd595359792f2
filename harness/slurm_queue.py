"""The state of jobs in Slurm: waiting or running in the queue, or how they ended."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StageError
from harness.files import read_json

ACTIVE = frozenset(
    "PENDING RUNNING CONFIGURING COMPLETING SUSPENDED REQUEUED REQUEUE_HOLD REQUEUE_FED RESIZING SIGNALING STAGE_OUT"
    " STOPPED".split()
)
_WAITS = {
    "None": "was just submitted",
    "Dependency": "waits for other jobs",
    "Resources": "waits for resources",
    "Priority": "waits behind other jobs",
    "JobArrayTaskLimit": "waits for other tasks of its array",
    "BeginTime": "was requeued and waits for its begin time",
}


@dataclass(frozen=True)
class QueueState:
    """The state of one job.

    Attributes:
        name: Slurm's name of the state.
        reason: why it waits, in Slurm's word.
        left: time to its limit.
        node: where it runs.
    """

    slurm: str
    name: str
    reason: str = ""
    left: str = ""
    node: str = ""

    @property
    def in_queue(self) -> str:
        """A sentence on a job in the queue, without what changes from minute to minute."""
        if self.name == "PENDING":
            return f"{_WAITS.get(self.reason, f'waits ({self.reason})')} (Slurm job {self.slurm})"
        if self.name in ("RUNNING", "COMPLETING", "CONFIGURING"):
            return f"runs on {self.node} (Slurm job {self.slurm})"
        return f"{self.name.lower().replace('_', ' ')} (Slurm job {self.slurm}, {self.reason})"

    @property
    def ended(self) -> str:
        """A sentence on a job that has left the queue."""
        words = {
            "NODE_FAIL": "its node failed",
            "BOOT_FAIL": "its node did not start",
            "PREEMPTED": "it was preempted",
            "TIMEOUT": "it hit its time limit",
            "CANCELLED": "it was cancelled in Slurm",
            "FAILED": "it was killed",
            "GONE": "Slurm no longer knows it",
        }
        return words.get(self.name, self.name.lower().replace("_", " "))


def submitted(folder: Path) -> dict[str, str]:
    """Return job id → Slurm id of the jobs last submitted for a recipe."""
    path = folder / "slurm" / "submitted.json"
    return dict(read_json(path)) if path.is_file() else {}


def queue_states(ids: Iterable[str]) -> dict[str, QueueState]:
    """Return the state of each Slurm id; ``GONE`` for one that neither the queue nor the accounting knows.

    Raises:
        StageError: Slurm does not answer.
    """
    wanted = set(ids)
    if not wanted:
        return {}
    found = {}
    for line in _run("squeue", "--me", "-r", "-h", "-t", "all", "-o", "%i|%T|%r|%L|%N").splitlines():
        slurm, name, reason, left, node = line.split("|", 4)
        found[slurm] = QueueState(slurm, name, reason, left, node)
    forgotten = sorted(wanted - found.keys())
    if forgotten:
        found |= _from_accounting(forgotten)
    return {slurm: found.get(slurm, QueueState(slurm, "GONE")) for slurm in wanted}


def _from_accounting(ids: list[str]) -> dict[str, QueueState]:
    """Return the states of jobs that ended some minutes ago; empty where the cluster keeps no accounts."""
    try:
        text = _run("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(ids))
    except StageError:
        return {}
    pairs = (line.split("|", 1) for line in text.splitlines() if "|" in line)
    return {slurm: QueueState(slurm, state.split(" ")[0]) for slurm, state in pairs}


def _run(*command: str) -> str:
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StageError(f"Slurm does not answer: {error}") from None
    if process.returncode:
        raise StageError(f"Slurm does not answer: {process.stderr.strip() or command[0]}")
    return process.stdout
