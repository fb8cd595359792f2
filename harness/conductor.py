"""Runs a plan by the recipe's executor: each job a process, a failure told and contained, an interrupt resumable."""

from __future__ import annotations

import time

from harness.attempt import Outcome
from harness.errors import StageFailed
from harness.execution import LocalExecutor
from harness.local import conduct_locally, say
from harness.plan import Job, Plan
from harness.progress import duration


def conduct(plan: Plan, jobs: tuple[Job, ...] | None = None) -> Outcome:
    """Run jobs that are not done, in order; those behind a failed one are told as blocked, the others go on.

    Raises:
        KeyboardInterrupt: after running jobs were stopped in a resumable state, or left to the cluster.
    """
    jobs = plan.jobs if jobs is None else jobs
    started = time.monotonic()
    executor = plan.recipe.executor
    if isinstance(executor, LocalExecutor):
        outcome = conduct_locally(jobs, executor)
    else:
        from harness.slurm import conduct_on_slurm

        outcome = conduct_on_slurm(jobs, executor, plan.store.root / plan.recipe.name)
    say(
        f"{len(outcome.done)} done, {len(outcome.failed)} failed, {len(outcome.blocked)} not started"
        f" in {duration(time.monotonic() - started)}"
    )
    return outcome


def run_only(plan: Plan, job_id: str) -> None:
    """Run one job of a plan on this machine, after what it depends on.

    Raises:
        StageFailed: a job failed.
    """
    outcome = conduct_locally(plan.with_dependencies(job_id), LocalExecutor())
    if outcome.failed:
        job, reason = next(iter(outcome.failed.items()))
        raise StageFailed(f"{job} failed: {reason}")
