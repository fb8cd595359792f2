"""What every strategy costs a training step of the quickstart, alternating with uniform sampling in one process."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.report import Report, options, spread
from tests.bench.workload import Quickstart, in_turn
from trainers.mixing import MixingStrategy, MixtureState, Observation, Sources, load_strategy, strategy_cards
from trainers.mixing.base import from_arrays, to_arrays
from trainers.mixing.simplex import even


@dataclass(frozen=True)
class Held(MixingStrategy):
    """A strategy that measures and decides as always, and whose weights stay even: all draw the same examples."""

    inner: MixingStrategy

    def __post_init__(self) -> None:
        for attribute in ("name", "signals", "at_start", "scales", "updates", "needs", "concentrates"):
            object.__setattr__(self, attribute, getattr(self.inner, attribute))

    def init(self, sources: Sources) -> MixtureState:
        return self._held(self.inner.init(sources))

    def start(self, state: MixtureState, seen: Observation) -> MixtureState:
        return self._held(self.inner.start(from_arrays(state.memory), seen))

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        return self._held(self.inner.update(from_arrays(state.memory), seen))

    def interval(self, sources: Sources) -> int | None:
        return self.inner.interval(sources)

    def _held(self, state: MixtureState) -> MixtureState:
        return MixtureState(even(len(state.weights)), to_arrays(state))


def main() -> None:
    given = options(only={"nargs": "*", "default": None, "help": "strategies; default: all that train"})
    report = Report(
        "strategy_overhead",
        "What each strategy costs a training step",
        "The quickstart's training (batches of 32 examples, an update every 24 steps, unless the strategy has its own"
        " rhythm) under every strategy, advanced step by step in turn in one process. Each measures and decides as"
        " always, and its weights are then held even, so that all draw the same examples. A block is 24 steps; its"
        " ratio is to the same block of `uniform`. `uniform again` is what the machine's noise does to a ratio. Probes"
        " are 5 batches of 4 held-out examples of each source. What a strategy does once before the first step is"
        " apart, and what it needs of another run is not in here: tables count that in each run's total.",
        quick=given.quick,
    )
    known = [card.name for card in strategy_cards() if card.trains and card.name != "uniform"]
    names = given.only or (["dynamic", "doge"] if given.quick else known)
    with tempfile.TemporaryDirectory() as scratch:
        quickstart = Quickstart.make(Path(scratch) / "store")
        mixing, folder = quickstart.recipe.mixing, Path(scratch)
        rules = {"uniform": "uniform", "uniform again": "uniform", **{name: name for name in names}}
        loops = {
            label: quickstart.loop(Held(load_strategy(name)), mixing, folder / label.replace(" ", "-"))
            for label, name in rules.items()
        }
        blocks = 1 if given.quick else 4
        seconds = in_turn(loops, blocks * mixing.interval)
        once = {label: _start(folder / label.replace(" ", "-") / "mixture.jsonl") for label in loops}
    base_B = seconds["uniform"].reshape(blocks, -1).sum(axis=1)
    rows: list[tuple[Any, ...]] = []
    for label, taken in seconds.items():
        percent_B = 100 * (taken.reshape(blocks, -1).sum(axis=1) / base_B - 1)
        step = 100 * (np.median(taken / seconds["uniform"]) - 1)
        own = 100 * max(loops[label].mixture.seconds - once[label], 0.0) / taken.sum()
        paired = ("–", "–") if label == "uniform" else (f"{step:+.2f}", spread(percent_B))
        rows.append((f"`{label}`", *paired, f"{own:.2f}", f"{once[label]:.1f}" if once[label] else "–"))
    headers = (
        "strategy",
        "% over uniform, a step without update, median of pairs",
        "% over uniform, a block: median (middle half)",
        "% of its time in signals and updates, by its own clock",
        "seconds once, before the first step",
    )
    report.table(rows, headers)
    report.save()


def _start(trace: Path) -> float:
    """Seconds that the observation before the first step took."""
    with open(trace, encoding="utf-8") as file:
        return float(sum(json.loads(file.readline())["cost"].values()))


if __name__ == "__main__":
    main()
