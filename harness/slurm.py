"""The Slurm executor: the jobs of a plan as arrays on a cluster, watched until they end.

Every job is one Slurm job or one task of an array. All are submitted at once with their dependencies, so the queue
holds the whole plan. ``<recipe folder>/slurm/submitted.json`` stores the Slurm id of each job: a conductor that is
started again finds its jobs instead of submitting them twice.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import MoemixError, StageError
from harness.execution import SlurmExecutor, SlurmResources
from harness.files import read_json, write_json
from harness.jobs import Job
from harness.process import JobProcess, Outcome
from harness.slurm_queue import ACTIVE, QueueState, queue_states, submitted
from harness.store import exclusive

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

logger = logging.getLogger("moemix.harness")

# States in which Slurm ended a job that did not fail by itself. FAILED without a reason of the job was a kill.
TAKEN_DOWN = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "TIMEOUT", "FAILED", "COMPLETED", "GONE")
TOO_OFTEN = "it hit its time limit more times than executor.continuations allows; run the plan again to go on"


def conduct_on_slurm(jobs: tuple[Job, ...], executor: SlurmExecutor, folder: Path) -> Outcome:
    """Submit jobs that are not done, and wait for all of them to end.

    Raises:
        MoemixError: there is no Slurm here, or submitit is not installed.
        StageError: Slurm refused a submission, or another conductor watches this recipe.
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
            logger.info("the jobs stay in Slurm's queue; to cancel them: scancel %s", " ".join(ids))
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
    reported: dict[str, str] = field(default_factory=dict)

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
        """Settle the jobs that are done or blocked, and return those that are neither and not in the queue."""
        missing = []
        for job in self.jobs:
            if job.id in self.outcome.done or job.id in self.outcome.failed or job.id in self.outcome.blocked:
                continue
            dependency = self.outcome.failed_dependency(job)
            if dependency is not None:
                self.outcome.blocked[job.id] = dependency
                self._report(job, f"not started, {dependency} did not finish")
            elif job.done:
                self.outcome.done.append(job.id)
                self._report(job, "already done")
            elif job.id not in self.active:
                missing.append(job)
        return missing

    def _submit(self, jobs: Sequence[Job]) -> None:
        sizes: Counter[str] = Counter()
        pending = {job: self.ids[job] for job in self.active}
        for group, dependency in arrays(jobs, pending, sizes):
            self._submit_array(group, dependency, sizes)
            pending |= {job.id: self.ids[job.id] for job in group}

    def _submit_array(self, group: list[Job], dependency: str | None, sizes: Counter[str]) -> None:
        for job in group:
            job.prepare()
        slurm_jobs = _submitter(self.executor, group[0].kind, dependency, self.folder)([Task(job) for job in group])
        for job, slurm in zip(group, slurm_jobs, strict=True):
            self.ids[job.id] = slurm
            self.attempts[job.id] += 1
            self.active.add(job.id)
            self._report(job, f"submitted as Slurm job {slurm}" + (f" ({dependency})" if dependency else ""))
        sizes[slurm_jobs[0].partition("_")[0]] = len(group)
        write_json(self.folder / "slurm" / "submitted.json", self.ids)

    def _watch(self) -> None:
        """Poll until all our jobs have left the queue."""
        while self.active:
            try:
                states = queue_states(self.ids[job] for job in self.active)
            except StageError as failure:  # the controller restarts; that does not affect the jobs
                logger.info("%s; trying again", failure)
                time.sleep(self.executor.poll_seconds)
                continue
            for job in self.jobs:
                if job.id not in self.active:
                    continue
                state = states[self.ids[job.id]]
                if state.name in ACTIVE:
                    self._report(job, state.in_queue)
                else:
                    self.active.remove(job.id)
                    self._end(job, state)
            if self.active:
                time.sleep(self.executor.poll_seconds)

    def _end(self, job: Job, state: QueueState) -> None:
        error, interrupted = _end_of(job, self.ids[job.id])
        if job.done and error is None:
            self.outcome.done.append(job.id)
            self._report(job, "done")
        elif any(other not in self.outcome.done for other in job.after):
            pass  # a dependency did not finish: this job will be blocked, or submitted again after it
        elif (
            (error is None or interrupted)
            and state.name in TAKEN_DOWN
            and self.attempts[job.id] <= self.executor.retries
        ):
            self._report(job, f"{state.ended}; submitting it again to go on where it stopped")
        else:
            ended_by_slurm = error is None or state.name not in ("FAILED", "COMPLETED", "GONE")
            self.outcome.failed[job.id] = self._describe(job, state) if ended_by_slurm else str(error)
            self._report(job, f"FAILED: {self.outcome.failed[job.id]}")

    def _describe(self, job: Job, state: QueueState) -> str:
        limit = self.executor.resources.get(job.kind, SlurmResources())
        words = {
            "TIMEOUT": f"it hit its time limit of {limit.minutes} minutes {self.attempts[job.id]} times",
            "OUT_OF_MEMORY": f"it needed more memory than its {limit.memory_gb or 'default number of'} GB",
        }.get(state.name, state.ended)
        return f"{words} (Slurm job {self.ids[job.id]}, log: {job.log})"

    def _report(self, job: Job, text: str) -> None:
        if self.reported.get(job.id) != text:
            self.reported[job.id] = text
            number = self.jobs.index(job) + 1
            logger.info("[%d/%d] %s: %s", number, len(self.jobs), job.title, text)


def preview(jobs: Sequence[Job], executor: SlurmExecutor) -> Iterator[str]:
    """Yield a line for each array that the jobs which are not done would be submitted as; arrays are counted from 1."""
    pending: dict[str, str] = {}
    sizes: Counter[str] = Counter()
    for number, (group, dependency) in enumerate(arrays([job for job in jobs if not job.done], pending, sizes), 1):
        several = len(group) > 1
        sizes[str(number)] = len(group)
        pending |= {job.id: f"{number}_{task}" if several else str(number) for task, job in enumerate(group)}
        array = {"array": f"0-{len(group) - 1}%{executor.at_once}"} if several else {}
        wanted = {**array, **_options(executor, group[0].kind, dependency)}
        titles = " … ".join(dict.fromkeys((group[0].title, group[-1].title)))
        yield f"{number}: sbatch {' '.join(f'--{key}={value}' for key, value in wanted.items())}  # {titles}"


def arrays(jobs: Sequence[Job], pending: dict[str, str], sizes: Counter[str]) -> Iterator[tuple[list[Job], str | None]]:
    """Yield the arrays that jobs are submitted as, in order, each with its dependency.

    Arguments are those of :func:`groups`. The caller submits each array, and adds it to ``pending`` and ``sizes``.
    """
    remaining = list(jobs)
    while remaining:
        waiting = {job.id for job in remaining}
        ready = [job for job in remaining if not waiting.intersection(job.after)]
        remaining = [job for job in remaining if job not in ready]
        yield from list(groups(ready, pending, sizes))


def groups(
    ready: Sequence[Job], pending: dict[str, str], sizes: Counter[str]
) -> Iterator[tuple[list[Job], str | None]]:
    """Group jobs whose dependencies are done or submitted into arrays, each with the dependency of that array.

    ``pending`` has the Slurm id of each job in the queue, ``sizes`` the number of tasks of each array.
    """
    by_need: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
    for job in ready:
        needs = tuple(sorted(pending[other] for other in job.after if other in pending))
        by_need.setdefault((job.kind, needs), []).append(job)
    # Where each job waits for one task of another array, as evaluations wait for trainings, `aftercorr` says so.
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


def _options(executor: SlurmExecutor, kind: str, dependency: str | None) -> dict[str, object]:
    """Return the options of sbatch for jobs of a kind."""
    resources = executor.resources.get(kind, SlurmResources())
    options = {
        "job-name": f"moemix-{kind}",
        "time": resources.minutes,
        "cpus-per-task": resources.cpus,
        "partition": executor.partition,
        "account": executor.account,
        "qos": executor.qos,
        "constraint": executor.constraint,
        "dependency": dependency,
        "mem": f"{round(resources.memory_gb * 1024)}M" if resources.memory_gb else None,
        "gpus-per-node": resources.gpus or None,
    }
    return {key: value for key, value in options.items() if value is not None}


def _submitter(
    executor: SlurmExecutor, kind: str, dependency: str | None, folder: Path
) -> Callable[[list[Task]], list[str]]:
    """Return a function that submits tasks as one array (a single task as a plain job), and returns their Slurm ids."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    options = _options(executor, kind, dependency)
    slurm = submitit.SlurmExecutor(folder=folder / "slurm" / "%j", max_num_timeout=executor.continuations)
    slurm.update_parameters(
        **{key.replace("-", "_"): value for key, value in options.items()},
        signal_delay_s=executor.warning_seconds,
        array_parallelism=executor.at_once,
        srun_args=["--cpus-per-task", str(options["cpus-per-task"])],  # srun no longer takes it from sbatch
        additional_parameters={"requeue": True, "kill-on-invalid-dep": "yes", **executor.options},
        **({"setup": list(executor.setup)} if executor.setup else {}),
    )

    def submit(tasks: list[Task]) -> list[str]:
        try:
            return [job.job_id for job in slurm.submit_array(tasks)]
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise StageError(f"Slurm refused the job: {str(error).strip().splitlines()[-1]}") from None

    return submit


@dataclass
class Task:
    """A job on a Slurm node, as submitit carries it there. Its request was written when it was submitted."""

    job: Job

    def __post_init__(self) -> None:
        self._process: JobProcess | None = None

    def __call__(self) -> None:
        """Run the job.

        Raises:
            StageError: it failed, so that Slurm starts nothing that depends on it.
        """
        path = _end_path(self.job)
        path.unlink(missing_ok=True)
        error, interrupted = None, False
        try:
            self._process = JobProcess(self.job)
            while self._process.pump():
                pass
            error = self._process.end()
            interrupted = self._process.interrupted
        except Exception as failure:  # also submitit's own, raised in its signal handler when it may not requeue
            if self._process is not None and not isinstance(failure, StageError):
                self._process.interrupt()
            error = TOO_OFTEN if "timed-out too many times" in str(failure) else str(failure)
        except BaseException:  # it is requeued
            if self._process is not None:
                self._process.interrupt()
            raise
        write_json(path, {"slurm": _slurm_id(), "error": error, "interrupted": interrupted})
        if error is not None:
            raise StageError(error)

    def checkpoint(self) -> DelayedSubmission:
        """Stop the job in a resumable state. submitit calls this before it requeues a job that is out of time."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.stop()
        return DelayedSubmission(Task(self.job))


def _end_of(job: Job, slurm: str) -> tuple[str | None, bool]:
    """Return what a job wrote when it ended: the reason if it failed, and whether a signal interrupted it.

    A job that was killed wrote nothing, and counts as neither.
    """
    path = _end_path(job)
    record = read_json(path) if path.is_file() else {}
    return (record["error"], record["interrupted"]) if record.get("slurm") == slurm else (None, False)


def _end_path(job: Job) -> Path:
    return job.log.with_suffix(".slurm.json")


def _slurm_id() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")
