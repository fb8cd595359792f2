"""The local executor: a plan's jobs as processes of this machine, as many at once as there are slots."""

from __future__ import annotations

import selectors
import sys
import time
from dataclasses import dataclass

from harness.attempt import Attempt, Outcome
from harness.errors import StageFailed
from harness.execution import LocalExecutor
from harness.plan import Job
from harness.progress import duration


@dataclass
class _Started:
    attempt: Attempt
    title: str
    begun: float
    slots: list[int]


def conduct_locally(jobs: tuple[Job, ...], executor: LocalExecutor) -> Outcome:
    """Run jobs that are not done, each as soon as what it waits for is done and a slot is free, in order.

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
        self.running: list[_Started] = []
        self.slots = len(executor.devices) or executor.jobs
        self.free = list(range(self.slots))
        self.selector = selectors.DefaultSelector()

    def run(self) -> Outcome:
        try:
            self._start_what_can()
            while self.running:
                for key, _ in self.selector.select():
                    started: _Started = key.data
                    if not started.attempt.process.pump():
                        self._end(started)
                self._start_what_can()
        except BaseException:
            for started in self.running:
                started.attempt.process.ask_to_stop()  # all of them first, so that they write their states at once
            for started in self.running:
                started.attempt.interrupt()
            raise
        finally:
            self.selector.close()
        return self.outcome

    def _start_what_can(self) -> None:
        """Go through the waiting jobs in order; one that has no room keeps the later ones from overtaking it."""
        full = False
        for job in list(self.waiting):
            obstacle = self.outcome.obstacle(job)
            if obstacle is not None:
                self.outcome.blocked[job.id] = obstacle
                self._leave(job, f"not started, {obstacle} did not finish")
            elif any(other not in self.outcome.done for other in job.after):
                continue
            elif job.done:
                self.outcome.done.append(job.id)
                self._leave(job, "already done")
            elif not full:
                needed = min(self.executor.slots.get(job.kind, 1), self.slots)
                full = needed > len(self.free)
                if not full:
                    self._start(job, [self.free.pop(0) for _ in range(needed)])

    def _leave(self, job: Job, how: str) -> None:
        self.waiting.remove(job)
        say(f"{self.titles[job.id]}: {how}")

    def _start(self, job: Job, slots: list[int]) -> None:
        self.waiting.remove(job)
        title = self.titles[job.id]
        say(title)
        environment = {}
        if self.executor.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.executor.devices[slot] for slot in slots)
        if self.executor.threads:
            environment["OMP_NUM_THREADS"] = str(self.executor.threads)
        prefix = title.split(" ", 1)[0] + " " if self.slots > 1 else ""
        try:
            attempt = Attempt(job, environment, prefix)
        except StageFailed as failure:
            self.free += slots
            self._tell_failed(job, str(failure))
            return
        started = _Started(attempt, title, time.monotonic(), slots)
        self.running.append(started)
        self.selector.register(attempt.process, selectors.EVENT_READ, started)

    def _end(self, started: _Started) -> None:
        job = started.attempt.job
        self.selector.unregister(started.attempt.process)
        error = started.attempt.end()
        self.running.remove(started)
        self.free = sorted(self.free + started.slots)
        if error is None:
            self.outcome.done.append(job.id)
            say(f"{started.title}: done in {duration(time.monotonic() - started.begun)}")
        else:
            self._tell_failed(job, error)

    def _tell_failed(self, job: Job, error: str) -> None:
        self.outcome.failed[job.id] = error
        say(f"{self.titles[job.id]}: FAILED: {error}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
