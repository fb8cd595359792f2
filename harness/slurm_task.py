"""What runs on a Slurm node: one job of the plan, stopped in a resumable state when its time there is up."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.attempt import Attempt
from harness.errors import StageFailed
from harness.files import read_json, write_json
from harness.plan import Job

TOO_OFTEN = "its time was up more often than it may go on (executor.continuations); run the plan again to go on"


@dataclass
class Task:
    """A job, as submitit carries it to the node. Its request was written when it was submitted."""

    job: Job

    def __post_init__(self) -> None:
        self._attempt: Attempt | None = None

    def __call__(self) -> None:
        """Run the job.

        Raises:
            StageFailed: it failed, so that Slurm starts nothing that depends on it.
        """
        path = _ended_path(self.job)
        path.unlink(missing_ok=True)
        error, interrupted = None, False
        try:
            self._attempt = Attempt(self.job)
            while self._attempt.process.pump():
                pass
            error = self._attempt.end()
            interrupted = self._attempt.process.interrupted
        except Exception as failure:  # also submitit's own, from within its signal handler: no time to be queued again
            if self._attempt is not None and not isinstance(failure, StageFailed):
                self._attempt.interrupt()
            error = TOO_OFTEN if "timed-out too many times" in str(failure) else str(failure)
        except BaseException:  # queued again
            if self._attempt is not None:
                self._attempt.interrupt()
            raise
        write_json(path, {"slurm": _slurm_id(), "error": error, "interrupted": interrupted})
        if error is not None:
            raise StageFailed(error)

    def checkpoint(self) -> Any:
        """Called by submitit before it queues the job again: preempted, or its time is up."""
        from submitit.helpers import DelayedSubmission

        if self._attempt is not None:
            self._attempt.process.stop()
        return DelayedSubmission(Task(self.job))


def ended(job: Job, slurm: str) -> tuple[str | None, bool]:
    """How a Slurm job ended by its own account: the reason if it failed, and whether something interrupted it.

    A job that was taken down gives no account.
    """
    path = _ended_path(job)
    record = read_json(path) if path.is_file() else {}
    return (record["error"], record["interrupted"]) if record.get("slurm") == slurm else (None, False)


def _ended_path(job: Job) -> Path:
    return job.folder / "logs" / f"{job.kind}.slurm.json"


def _slurm_id() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")
