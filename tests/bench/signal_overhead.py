"""What each signal costs: the time of a measurement, against a step of uniform sampling in the same process."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.recipe import Mixing
from tests.bench.report import Report, options
from tests.bench.workload import Quickstart, in_turn
from trainers.mixing import MixingStrategy, MixtureState, Observation, load_strategy
from trainers.plugins import SIGNALS


@dataclass(frozen=True)
class Watching(MixingStrategy):
    """Asks for one signal, and keeps even weights."""

    field: str
    name = "watching"

    def __post_init__(self) -> None:
        object.__setattr__(self, "signals", frozenset({self.field}))

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        return state


def main() -> None:
    given = options()
    report = Report(
        "signal_overhead",
        "What each signal costs a training step",
        "The quickstart's training (batches of 32 examples, eight experts in three layers), step by step in turn with"
        " `uniform` in one process, with a measurement after every second step. A measurement is timed by the clock of"
        " the training; the first one, which warms up, is left out. Probes are 5 batches of 4 held-out examples of each"
        " of the four sources; the target set is one of them. Times are in steps, which whatever else the machine does"
        " slows down alike. The last column is what a measurement every 24 steps, as"
        " in the quickstart, adds to the training. What is counted in the training's own forward passes"
        " (`gate_load` online) costs these passes as well; [mixing_overhead](mixing_overhead.md) has the whole.",
        quick=given.quick,
    )
    with tempfile.TemporaryDirectory() as scratch:
        quickstart = Quickstart.make(Path(scratch) / "store")
        online = quickstart.recipe.mixing.model_copy(update={"interval": 2})
        probe = online.model_copy(update={"gate_load": "probe"})
        cases = [(field, field, online) for field in sorted(SIGNALS.builtin)]
        cases += [(f"{field}, by probe", field, probe) for field in ("gate_load", "router_zscore")]
        rows = [
            _row(quickstart, label, field, mixing, Path(scratch) / str(number), 4 if given.quick else 6)
            for number, (label, field, mixing) in enumerate(cases)
        ]
    headers = ("signal", "what it costs", "steps that a measurement is worth", "% of a training")
    report.table(rows, headers)
    report.save()


def _row(
    quickstart: Quickstart, label: str, field: str, mixing: Mixing, folder: Path, steps: int
) -> tuple[str, str, str, str]:
    uniform = quickstart.loop(load_strategy("uniform"), mixing, folder / "uniform")
    watching = quickstart.loop(Watching(field), mixing, folder / "watching")
    seconds = in_turn({"uniform": uniform, "watching": watching}, steps)
    lines = (folder / "watching" / "mixture.jsonl").read_text(encoding="utf-8").splitlines()
    costs = [json.loads(line)["cost"][field] for line in lines[1:]]  # the first line is before the first step
    worth = float(np.median(costs[1:]) / np.median(seconds["uniform"]))
    return f"`{label}`", SIGNALS.find(field).cost, f"{worth:.2f}", f"{100 * worth / 24:.2f}"


if __name__ == "__main__":
    main()
