"""Read a run's mixture over time from ``mixture.jsonl``: the weights in force, and what was drawn with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.records import MixtureUpdate
from harness.schema import parse_lines
from harness.store import Run


@dataclass(frozen=True)
class Trajectory:
    """Weights and realised shares of K sources over U updates.

    Attributes:
        steps: i64[U + 2]: 0, the step of each update, and the last step of training.
        weights: f64[U + 2, K]; row u is in force from ``steps[u]`` on, so the last two rows are equal.
        realised: f64[U + 1, K], the share of examples drawn between ``steps[u]`` and ``steps[u + 1]``; nan where none.
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    weights: NDArray[np.float64]
    realised: NDArray[np.float64]


def read_trajectory(run: Run) -> Trajectory | None:
    """Return the trajectory of a finished training run; None for a base checkpoint and for a run without a result.

    Raises:
        MoemixError: a line is not an update, has other sources, or goes back in steps; with file and line.
    """
    result = run.manifest.result if run.manifest_path.is_file() else None
    if result is None or result.steps == 0:
        return None
    names = tuple(sorted(result.final_weights))
    final = [result.final_weights[name] for name in names]
    updates = _read_updates(run, names)
    drawn = np.array([update.realised_examples for update in updates], dtype=np.float64).reshape(-1, len(names))
    total = np.array([result.realised_examples.get(name, 0) for name in names], dtype=np.float64)
    counts = np.vstack([drawn, total - drawn.sum(axis=0)])  # the last row: what was drawn after the last update
    shares = np.divide(counts, counts.sum(axis=1, keepdims=True), where=counts.sum(axis=1, keepdims=True) > 0,
                       out=np.full_like(counts, np.nan))  # fmt: skip
    first = updates[0].before if updates else final
    return Trajectory(
        names=names,
        steps=np.array([0, *(update.step for update in updates), result.steps]),
        weights=np.array([first, *(update.after for update in updates), final]),
        realised=shares,
    )


def _read_updates(run: Run, names: tuple[str, ...]) -> list[MixtureUpdate]:
    updates: list[MixtureUpdate] = []
    for number, update in enumerate(parse_lines(MixtureUpdate, run.mixture), 1):
        where = f"{run.mixture}:{number}"
        if update.names != names:
            sources = f"the sources are {', '.join(update.names)}, but those of the run are {', '.join(names)}"
            raise MoemixError(sources, where=where)
        if updates and update.step <= updates[-1].step:
            raise MoemixError(f"step {update.step} comes after step {updates[-1].step}", where=where)
        updates.append(update)
    return updates
