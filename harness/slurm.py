"""The Slurm executor: the same jobs as arrays on a cluster, watched until they end; what fails there is told here.

Every job is one Slurm job or one task of an array, submitted at once with its dependencies, so the queue holds the
whole plan. ``<recipe folder>/slurm/submitted.json`` remembers which is which: started again, the conductor finds its
jobs instead of submitting them twice.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.attempt import Outcome
from harness.errors import MoemixError, StageFailed
from harness.execution import SlurmExecutor, SlurmResources
from harness.files import write_json
from harness.local import say
from harness.plan import Job
from harness.slurm_queue import ACTIVE, QueueState, queue_states, submitted
from harness.slurm_task import Task, ended
from harness.store import exclusive

# How Slurm ends a job through no fault of the job's own; a plain FAILED without a reason of ours was killed.
TAKEN_DOWN = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "TIMEOUT", "FAILED", "COMPLETED", "GONE")


def conduct_on_slurm(jobs: tuple[Job, ...], executor: SlurmExecutor, folder: Path) -> Outcome:
    """Submit jobs that are not done, and wait for all of them to end.

    Raises:
        MoemixError: there is no Slurm here, or submitit is not installed.
        StageFailed: Slurm refused a submission, or another conductor watches this recipe.
        KeyboardInterrupt: the jobs stay in the queue; the same command watches them again.
    """
    if shutil.which("sbatch") is None:
        raise MoemixError("there is no `sbatch` on this machine", hint="the executor `slurm` runs on a login node")
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise MoemixError("submitit is not installed", hint="install the extra `slurm`") from None
    with exclusive(folder / "slurm"):
        conductor = _Conductor(jobs, executor, folder)
        try:
            return conductor.run()
        except KeyboardInterrupt:
            ids = [conductor.ids[job.id] for job in jobs if job.id in conductor.active]
            say(f"the jobs stay in Slurm's queue; to cancel them: scancel {' '.join(ids)}")
            raise


@dataclass
class _Conductor:
    jobs: tuple[Job, ...]
    executor: SlurmExecutor
    folder: Path
    outcome: Outcome = field(default_factory=Outcome)
    attempts: Counter[str] = field(default_factory=Counter)
    ids: dict[str, str] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)
    told: dict[str, str] = field(default_factory=dict)

    def run(self) -> Outcome:
        self.ids = submitted(self.folder)
        states = queue_states(self.ids.values())
        known = {job.id for job in self.jobs} & self.ids.keys()
        self.active = {job for job in known if states[self.ids[job]].name in ACTIVE}
        while True:
            self._submit(self._to_submit())
            self._watch()
            if self.outcome.settled == len(self.jobs):
                return self.outcome

    def _to_submit(self) -> list[Job]:
        """Settle what is done or blocked; what is neither and not in the queue has to go there."""
        missing = []
        for job in self.jobs:
            if job.id in self.outcome.done or job.id in self.outcome.failed or job.id in self.outcome.blocked:
                continue
            obstacle = self.outcome.obstacle(job)
            if obstacle is not None:
                self.outcome.blocked[job.id] = obstacle
                self._tell(job, f"not started, {obstacle} did not finish")
            elif job.done:
                self.outcome.done.append(job.id)
                self._tell(job, "already done")
            elif job.id not in self.active:
                missing.append(job)
        return missing

    def _submit(self, jobs: Sequence[Job]) -> None:
        remaining = list(jobs)
        sizes: Counter[str] = Counter()
        while remaining:
            held = {job.id for job in remaining}
            ready = [job for job in remaining if not held.intersection(job.after)]
            remaining = [job for job in remaining if job not in ready]
            pending = {job: self.ids[job] for job in self.active}
            for group, dependency in list(groups(ready, pending, sizes)):
                self._submit_array(group, dependency, sizes)

    def _submit_array(self, group: list[Job], dependency: str | None, sizes: Counter[str]) -> None:
        for job in group:
            job.prepare()
        slurm_jobs = _submitter(self.executor, group[0].kind, dependency, self.folder)([Task(job) for job in group])
        for job, slurm in zip(group, slurm_jobs, strict=True):
            self.ids[job.id] = slurm
            self.attempts[job.id] += 1
            self.active.add(job.id)
            self._tell(job, f"submitted as Slurm job {slurm}" + (f" ({dependency})" if dependency else ""))
        sizes[slurm_jobs[0].partition("_")[0]] = len(group)
        write_json(self.folder / "slurm" / "submitted.json", self.ids)

    def _watch(self) -> None:
        """Until none of our jobs is in the queue."""
        while self.active:
            try:
                states = queue_states(self.ids[job] for job in self.active)
            except StageFailed as failure:  # a controller that restarts; the jobs do not mind
                say(f"{failure}; asking again")
                time.sleep(self.executor.poll_seconds)
                continue
            for job in self.jobs:
                if job.id not in self.active:
                    continue
                state = states[self.ids[job.id]]
                if state.name in ACTIVE:
                    self._tell(job, state.told)
                else:
                    self.active.remove(job.id)
                    self._end(job, state)
            if self.active:
                time.sleep(self.executor.poll_seconds)

    def _end(self, job: Job, state: QueueState) -> None:
        error, interrupted = ended(job, self.ids[job.id])
        if job.done and error is None:
            self.outcome.done.append(job.id)
            self._tell(job, "done")
        elif any(other not in self.outcome.done for other in job.after):
            pass  # what it waits for did not finish: it will be blocked, or submitted again after that
        elif (error is None or interrupted) and state.name in TAKEN_DOWN and self._may_retry(job):
            self._tell(job, f"{state.ended}; submitting it again to go on where it stopped")
        else:
            told_by_slurm = error is None or state.name not in ("FAILED", "COMPLETED", "GONE")
            self.outcome.failed[job.id] = self._worded(job, state) if told_by_slurm else str(error)
            self._tell(job, f"FAILED: {self.outcome.failed[job.id]}")

    def _may_retry(self, job: Job) -> bool:
        return self.attempts[job.id] <= self.executor.retries

    def _worded(self, job: Job, state: QueueState) -> str:
        limit = self.executor.resources.get(job.kind, SlurmResources())
        words = {
            "TIMEOUT": f"its {limit.minutes} minutes were up {self.attempts[job.id]} times",
            "OUT_OF_MEMORY": f"it needed more memory than its {limit.memory_gb or 'default number of'} GB",
        }.get(state.name, state.ended)
        return f"{words} (Slurm job {self.ids[job.id]}, log: {job.folder / 'logs' / f'{job.kind}.log'})"

    def _tell(self, job: Job, text: str) -> None:
        if self.told.get(job.id) != text:
            self.told[job.id] = text
            number = self.jobs.index(job) + 1
            say(f"[{number}/{len(self.jobs)}] {job.title}: {text}")


def groups(
    ready: Sequence[Job], pending: dict[str, str], sizes: Counter[str]
) -> Iterator[tuple[list[Job], str | None]]:
    """Jobs that one array can hold, each with the dependency of that array.

    Args:
        pending: job id → Slurm id, of what is in the queue.
        sizes: array id → how many tasks it has.
    """
    by_need: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
    for job in ready:
        needs = tuple(sorted(pending[other] for other in job.after if other in pending))
        by_need.setdefault((job.kind, needs), []).append(job)
    # Task by task behind another array, as evaluations are behind trainings: `aftercorr` says so for all at once.
    for kind, array in dict.fromkeys((k, n[0].partition("_")[0]) for k, n in by_need if len(n) == 1 and "_" in n[0]):
        keys = [(kind, (f"{array}_{task}",)) for task in range(sizes[array])]
        behind = [by_need.get(key, []) for key in keys]
        if behind and len({len(jobs) for jobs in behind}) == 1 and behind[0]:
            for key in keys:
                del by_need[key]
            for matched in zip(*behind, strict=True):
                yield list(matched), f"aftercorr:{array}"
    for (_, needs), jobs in by_need.items():
        yield jobs, f"afterok:{':'.join(needs)}" if needs else None


def _submitter(
    executor: SlurmExecutor, kind: str, dependency: str | None, folder: Path
) -> Callable[[list[Task]], list[str]]:
    """Submits tasks as one array (a single one as a plain job); their Slurm ids."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    resources = executor.resources.get(kind, SlurmResources())
    slurm = submitit.SlurmExecutor(folder=folder / "slurm" / "%j", max_num_timeout=executor.continuations)
    asked: dict[str, Any] = {
        "job_name": f"moemix-{kind}",
        "time": resources.minutes,
        "cpus_per_task": resources.cpus,
        "signal_delay_s": executor.warning_seconds,
        "array_parallelism": executor.at_once,
        "srun_args": ["--cpus-per-task", str(resources.cpus)],  # srun no longer takes it from sbatch
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **executor.options},
        "partition": executor.partition,
        "account": executor.account,
        "qos": executor.qos,
        "constraint": executor.constraint,
        "dependency": dependency,
        "mem": f"{round(resources.memory_gb * 1024)}M" if resources.memory_gb else None,
        "gpus_per_node": resources.gpus or None,
        "setup": list(executor.setup) or None,
    }
    slurm.update_parameters(**{key: value for key, value in asked.items() if value is not None})

    def submit(tasks: list[Task]) -> list[str]:
        try:
            return [job.job_id for job in slurm.submit_array(tasks)]
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise StageFailed(f"Slurm refused the job: {str(error).strip().splitlines()[-1]}") from None

    return submit
