"""What trackers are told: plain numbers by name and step, made from a run's own records and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from harness.files import read_jsonl
from harness.records import MixtureUpdate, StepMetrics
from trainers.mixing.distances import gate_load_distance

Point = dict[str, float]


def point(record: StepMetrics | MixtureUpdate) -> Point:
    """The numbers of one record.

    ``train/…`` of a step: loss, balance loss, learning rate, norm of the gradient, real tokens per second;
    ``loss/SOURCE``. Of an update: ``weight/SOURCE`` as decided; ``realised/SOURCE``, its share of the examples drawn
    since the update before; and, where the strategy saw gate load, ``gate_load_distance/SOURCE``: the mean Euclidean
    distance of its load in the last MoE layer to all sources' (Δ of the paper's Algorithm 1).
    """
    return _of_step(record) if isinstance(record, StepMetrics) else _of_update(record)


def stored_points(metrics: Path, trace: Path) -> Iterator[tuple[int, Point]]:
    """The points of all lines of a run's two files, by step, one point a step."""
    records: Iterable[StepMetrics | MixtureUpdate] = (
        *(StepMetrics.model_validate(line) for line in read_jsonl(metrics)),
        *(MixtureUpdate.model_validate(line) for line in read_jsonl(trace)),
    )
    points: dict[int, Point] = {}
    for record in records:
        points.setdefault(record.step, {}).update(point(record))
    yield from sorted(points.items())


def _of_step(metrics: StepMetrics) -> Point:
    found = {
        "train/loss": metrics.loss,
        "train/balance_loss": metrics.balance_loss,
        "train/learning_rate": metrics.learning_rate,
        "train/grad_norm": metrics.grad_norm,
        "train/tokens_per_second": metrics.tokens / metrics.seconds if metrics.seconds else None,
        **{f"loss/{name}": loss for name, loss in metrics.source_loss.items()},
    }
    return {name: value for name, value in found.items() if value is not None}


def _of_update(update: MixtureUpdate) -> Point:
    found = {f"weight/{name}": weight for name, weight in zip(update.names, update.after, strict=True)}
    drawn = sum(update.realised_examples)
    if drawn:
        counts = zip(update.names, update.realised_examples, strict=True)
        found |= {f"realised/{name}": count / drawn for name, count in counts}
    load_KLE = np.array(update.observation.get("gate_load", ()), dtype=np.int64)
    if load_KLE.ndim == 3:
        distances = gate_load_distance(load_KLE[:, -1:], "l2", "mean").tolist()
        found |= {f"gate_load_distance/{name}": d for name, d in zip(update.names, distances, strict=True)}
    return found
