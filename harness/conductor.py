"""Running a plan with the executor of its recipe. A failed job does not stop the others; an interrupt is resumable."""

from __future__ import annotations

import logging
import time

from harness.errors import StageError
from harness.execution import LocalExecutor
from harness.jobs import Job, Plan
from harness.local import conduct_locally
from harness.process import Outcome
from harness.progress import duration

logger = logging.getLogger("moemix.harness")


def conduct(plan: Plan, jobs: tuple[Job, ...] | None = None) -> Outcome:
    """Run the jobs of a plan, or these of them, that are not done, in order.

    Jobs whose dependencies failed are reported as blocked.

    Raises:
        KeyboardInterrupt: after running jobs were stopped in a resumable state, or left to the cluster.
    """
    jobs = plan.jobs if jobs is None else jobs
    started = time.monotonic()
    executor = plan.executor
    if isinstance(executor, LocalExecutor):
        outcome = conduct_locally(jobs, executor)
    else:
        from harness.slurm import conduct_on_slurm

        outcome = conduct_on_slurm(jobs, executor, plan.store.root / plan.recipe.name)
    counts = f"{len(outcome.done)} done, {len(outcome.failed)} failed, {len(outcome.blocked)} not started"
    logger.info("%s in %s", counts, duration(time.monotonic() - started))
    return outcome


def run_only(plan: Plan, job_id: str) -> None:
    """Run one job of a plan on this machine, after its dependencies.

    Raises:
        StageError: a job failed.
    """
    outcome = conduct_locally(plan.with_dependencies(job_id), LocalExecutor())
    if outcome.failed:
        job, reason = next(iter(outcome.failed.items()))
        raise StageError(f"{job} failed: {reason}")
