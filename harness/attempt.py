"""One attempt at a job, on whatever machine: its manifest before, its process, and how it ended in the records."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from harness.errors import StageFailed
from harness.plan import Job
from harness.process import JobProcess
from harness.store import Run, stage


@dataclass
class Outcome:
    """How the jobs of a plan ended, by id."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    def obstacle(self, job: Job) -> str | None:
        """A job that this one waits for in vain."""
        return next((other for other in job.after if other in self.failed or other in self.blocked), None)

    @property
    def settled(self) -> int:
        return len(self.done) + len(self.failed) + len(self.blocked)


class Attempt:
    """A job that has been started; it is ended by exactly one of :meth:`end` and :meth:`interrupt`.

    Raises:
        StageFailed: another process works on it.
    """

    def __init__(self, job: Job, environment: Mapping[str, str] | None = None, prefix: str = "") -> None:
        self.job = job
        job.prepare()
        self._stage: AbstractContextManager[None] = (
            stage(Run(job.run), f"{job.kind}:{job.folder.name}") if job.run else nullcontext()
        )
        self._stage.__enter__()
        self.process = JobProcess(job, environment, prefix)

    def end(self) -> str | None:
        """Wait for the process to end; the reason if the job failed, which the records then hold too."""
        error = self.process.finish()
        if error is None and not self.job.done:
            error = "it ended without its completion marker"
        failure = StageFailed(error) if error is not None else None
        self._stage.__exit__(type(failure) if failure else None, failure, None)
        return error

    def interrupt(self) -> None:
        """Stop the process in a state from which the job can go on."""
        self.process.stop()
        interruption = KeyboardInterrupt()
        self._stage.__exit__(KeyboardInterrupt, interruption, None)
