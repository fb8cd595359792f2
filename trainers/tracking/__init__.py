"""Experiment trackers: TensorBoard, W&B and trackio log a run's records, by accelerate's own mechanism.

They log what the run's records say and nothing else, on the first process alone. Nothing that happens in them changes
training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from accelerate import Accelerator

from harness.files import read_jsonl
from harness.records import HeldOutLosses, MixtureUpdate, StepMetrics
from harness.store import Run
from harness.trackers import make_trackers
from trainers.mixing.distances import gate_load_distance
from trainers.parallel import connect

Point = dict[str, float]
"""Plain numbers by name, of one step."""


class Tracker:
    """Receives the training loop's records, step after step, and logs them to an accelerator's trackers."""

    def __init__(self, accelerator: Accelerator, run: Run, project: str) -> None:
        self._accelerator, self._run, self._project = accelerator, run, project
        self._step = 0
        self._point: Point = {}

    def begin(self) -> None:
        """Start the trackers, and log what the run's files say already."""
        self._accelerator.init_trackers(self._project)
        for step, values in stored_points(self._run):
            self._accelerator.log(values, step=step)

    def add(self, record: StepMetrics | MixtureUpdate | HeldOutLosses) -> None:
        """Take a record that has been written; it is logged once its step is over."""
        if record.step != self._step:
            self.end_step()
        self._step = record.step
        self._point |= point(record)

    def end_step(self) -> None:
        """Log the step's records."""
        if self._point:
            self._accelerator.log(self._point, step=self._step)
            self._point = {}


@contextmanager
def tracked(run: Run, first: bool) -> Iterator[Tracker | None]:
    """Run the trackers of a run's manifest during training.

    Yields:
        the tracker; None where the manifest has none, or on a process that is not the first.

    Raises:
        MoemixError: a tracker is not installed, or its settings do not work.
    """
    manifest = run.manifest
    wanted = manifest.tracking
    if not wanted.trackers or not first:
        yield None
        if wanted.trackers:
            connect().end_training()
        return
    config = manifest.config.model_dump(mode="json")
    trackers = make_trackers(wanted, run.folder, run=manifest.run_id, group=manifest.recipe, config=config)
    accelerator = connect(trackers=trackers)
    try:
        yield Tracker(accelerator, run, wanted.project)
    except BaseException:
        for tracker in accelerator.trackers:
            tracker.finish()
        raise
    accelerator.end_training()


def stored_points(run: Run) -> Iterator[tuple[int, Point]]:
    """Yield the points of all lines of a run's files, by step, one point for each step."""
    records: list[StepMetrics | MixtureUpdate | HeldOutLosses] = []
    records += [StepMetrics.model_validate(line) for line in read_jsonl(run.metrics)]
    records += [MixtureUpdate.model_validate(line) for line in read_jsonl(run.mixture)]
    if run.held_out.is_file():  # runs of version 0.1 have none
        records += [HeldOutLosses.model_validate(line) for line in read_jsonl(run.held_out)]
    points: dict[int, Point] = {}
    for record in records:
        points.setdefault(record.step, {}).update(point(record))
    yield from sorted(points.items())


def point(record: StepMetrics | MixtureUpdate | HeldOutLosses) -> Point:
    """Return the numbers of one record.

    A step gives ``train/…`` (loss, balance loss, learning rate, gradient norm, real tokens per second) and
    ``loss/SOURCE``. An update gives ``weight/SOURCE`` as decided; ``realised/SOURCE``, its share of the examples drawn
    since the update before; and, where the strategy saw gate load, ``gate_load_distance/SOURCE``: the mean Euclidean
    distance of its load in the last MoE layer to all sources' (Δ of the paper's Algorithm 1). Held-out
    losses give ``held_out/SET``, in nats per target token.
    """
    if isinstance(record, HeldOutLosses):
        return {f"held_out/{record.set}": sum(record.nats) / sum(record.targets)}
    if isinstance(record, StepMetrics):
        values = {
            "train/loss": record.loss,
            "train/balance_loss": record.balance_loss,
            "train/learning_rate": record.learning_rate,
            "train/grad_norm": record.grad_norm,
            "train/tokens_per_second": record.tokens / record.seconds if record.seconds else None,
            **{f"loss/{name}": loss for name, loss in record.source_loss.items()},
        }
        return {name: value for name, value in values.items() if value is not None}
    columns = {"weight": record.after}
    if drawn := sum(record.realised_examples):
        columns["realised"] = tuple(count / drawn for count in record.realised_examples)
    load_KLE = np.array(record.observation.get("gate_load", ()), dtype=np.int64)
    if load_KLE.ndim == 3:
        columns["gate_load_distance"] = tuple(gate_load_distance(load_KLE[:, -1:], "l2", "mean").tolist())
    return {f"{kind}/{n}": v for kind, column in columns.items() for n, v in zip(record.names, column, strict=True)}
