"""Telling TensorBoard, W&B or trackio how training goes, by accelerate's own mechanism.

They are told what a run's records say (:mod:`trainers.tracking.points`) and nothing else, by the first process alone,
and nothing that becomes of them is seen by training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.records import MixtureUpdate, StepMetrics
from harness.store import Run
from trainers.parallel import connect
from trainers.tracking.points import Point, point, stored_points
from trainers.tracking.services import SERVICES

FOLDER = "tracking"  # in a run's folder, for what trackers keep on this machine


class Tracker:
    """What the training loop hands its records to, one step after the other.

    Args:
        accelerator: was made with the trackers.
    """

    def __init__(self, accelerator: Any, run: Run, project: str) -> None:
        self._accelerator, self._run, self._project = accelerator, run, project
        self._step, self._point = 0, Point()

    def begin(self) -> None:
        """Start the trackers, with what the run's files say already."""
        self._accelerator.init_trackers(self._project)
        for step, told in stored_points(self._run.metrics, self._run.mixture):
            self._accelerator.log(told, step=step)

    def add(self, record: StepMetrics | MixtureUpdate) -> None:
        """A line that has been written; told once the step is over."""
        if record.step != self._step:
            self.tell()
        self._step = record.step
        self._point |= point(record)

    def tell(self) -> None:
        """The step is over."""
        if self._point:
            self._accelerator.log(self._point, step=self._step)
            self._point = {}


@contextmanager
def tracked(run: Run, first: bool) -> Iterator[Tracker | None]:
    """The trackers that a run's manifest asks for, while it is trained; none where it asks for none, or on a process
    that is not the first.

    Raises:
        MoemixError: one of them is not installed, or cannot work as asked.
    """
    manifest = run.manifest
    wanted = manifest.tracking
    if not wanted.trackers or not first:
        yield None
        if wanted.trackers:
            connect().end_training()
        return
    folder = run.folder / FOLDER
    services = [SERVICES[name](wanted, manifest, folder) for name in sorted(set(wanted.trackers))]
    for service in services:
        service.require()
    from trainers.tracking.careful import Careful

    accelerator = connect(log_with=[Careful(service) for service in services])
    try:
        yield Tracker(accelerator, run, wanted.project)
    except BaseException:
        for tracker in accelerator.trackers:
            tracker.finish()
        raise
    accelerator.end_training()
