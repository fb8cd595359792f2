"""The local executor: the jobs of a plan as processes of this machine, as many at once as there are slots."""

from __future__ import annotations

import logging
import os
import selectors
import sys
import time
from dataclasses import dataclass

from harness.errors import StageError
from harness.execution import LocalExecutor
from harness.jobs import Job
from harness.launch import core_count
from harness.process import JobProcess, Outcome
from harness.progress import duration
from harness.warm import Warm

logger = logging.getLogger("moemix.harness")


@dataclass
class _Running:
    process: JobProcess
    title: str
    started: float
    slots: list[int]


def conduct_locally(jobs: tuple[Job, ...], executor: LocalExecutor) -> Outcome:
    """Run the jobs that are not done, in order, each as soon as its dependencies are done and a slot is free.

    Raises:
        KeyboardInterrupt: after the running jobs were stopped in a resumable state.
    """
    return _Conductor(jobs, executor).run()


class _Conductor:
    def __init__(self, jobs: tuple[Job, ...], executor: LocalExecutor) -> None:
        self.executor = executor
        self.titles = {job.id: f"[{number}/{len(jobs)}] {job.title}" for number, job in enumerate(jobs, 1)}
        self.waiting = list(jobs)
        self.outcome = Outcome()
        self.running: list[_Running] = []
        self.slots = len(executor.devices) or executor.jobs or 1
        self.free = list(range(self.slots))
        self.selector = selectors.DefaultSelector()
        # One job gains nothing, because the process that forks has to import the same first.
        worth_it = sys.platform == "linux" and sum(not job.done for job in jobs) > 1
        self.warm = Warm() if worth_it else None

    def run(self) -> Outcome:
        try:
            self._start_ready_jobs()
            while self.running:
                for key, _ in self.selector.select():
                    running: _Running = key.data
                    if not running.process.pump():
                        self._end(running)
                self._start_ready_jobs()
        except BaseException:
            for running in self.running:
                running.process.request_stop()  # all of them first, so that they write their states at once
            for running in self.running:
                running.process.interrupt()
            raise
        finally:
            self.selector.close()
            if self.warm:
                self.warm.close()
        return self.outcome

    def _start_ready_jobs(self) -> None:
        """Start waiting jobs in order. Where one finds no free slot, no later job may overtake it."""
        full = False
        for job in self._ordered():
            dependency = self.outcome.failed_dependency(job)
            if dependency is not None:
                self.outcome.blocked[job.id] = dependency
                self._remove(job, f"not started, {dependency} did not finish")
            elif any(other not in self.outcome.done for other in job.after):
                continue
            elif job.done:
                self.outcome.done.append(job.id)
                self._remove(job, "already done")
            elif not full:
                needed = min(self.executor.slots.get(job.kind, 1), self.slots)
                full = needed > len(self.free)
                if not full:
                    self._start(job, [self.free.pop(0) for _ in range(needed)])

    def _ordered(self) -> list[Job]:
        """Return the waiting jobs in order; the last few that others wait for come first.

        These are the trainings, which are long. In the plan's order the last one would begin late, and the other slots
        would have nothing left to do beside it.
        """
        awaited = {other for job in self.waiting for other in job.after}
        leading = sum(job.id in awaited for job in self.waiting)
        if self.slots == 1 or leading > 2 * self.slots:
            return list(self.waiting)
        return sorted(self.waiting, key=lambda job: job.id not in awaited)

    def _remove(self, job: Job, reason: str) -> None:
        self.waiting.remove(job)
        logger.info("%s: %s", self.titles[job.id], reason)

    def _start(self, job: Job, slots: list[int]) -> None:
        self.waiting.remove(job)
        title = self.titles[job.id]
        logger.info(title)
        environment = self._environment(slots)
        prefix = title.split(" ", 1)[0] + " " if self.slots > 1 else ""
        try:
            process = JobProcess(job, environment, prefix, self.warm)
        except StageError as error:
            self.free += slots
            self._fail(job, str(error))
            return
        running = _Running(process, title, time.monotonic(), slots)
        self.running.append(running)
        self.selector.register(process, selectors.EVENT_READ, running)

    def _environment(self, slots: list[int]) -> dict[str, str]:
        """Return the devices and threads of a job. Jobs side by side get an equal share of the cores for each slot.

        Threads that wait would by default spin for a long time, which slows whatever else runs on their cores.
        """
        environment = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}
        if self.executor.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.executor.devices[slot] for slot in slots)
        if self.executor.threads:
            environment["OMP_NUM_THREADS"] = str(self.executor.threads)
        elif self.slots > 1 and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, core_count() * len(slots) // self.slots))
        return environment

    def _end(self, running: _Running) -> None:
        job = running.process.job
        self.selector.unregister(running.process)
        error = running.process.end()
        self.running.remove(running)
        self.free = sorted(self.free + running.slots)
        if error is None:
            self.outcome.done.append(job.id)
            logger.info("%s: done in %s", running.title, duration(time.monotonic() - running.started))
        else:
            self._fail(job, error)

    def _fail(self, job: Job, error: str) -> None:
        self.outcome.failed[job.id] = error
        logger.info("%s: FAILED: %s", self.titles[job.id], error)
