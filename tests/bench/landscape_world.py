"""The simulated world `quickstart`: fitted to the landscape's trained models, and held against its strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from harness.files import write_text
from harness.recipe import Recipe
from harness.records import HeldOutLosses, MixtureUpdate
from harness.schema import parse_lines
from harness.store import Run
from tests.bench.report import Report
from trainers.mixing import MixingStrategy, load_strategy
from trainers.simulation.comparison import compare
from trainers.simulation.fitting import Curves, fit_curves, fit_routing
from trainers.simulation.worlds import MEASURED, Measured, World

REPEATS, SEED = 32, 0
Floats = NDArray[np.float64]


def losses_of(runs: Sequence[Run]) -> Floats:
    """Return the mean held-out loss of each set at the end of each run, f64[runs, sets], in nats per target token."""
    return np.array([[_nats(held).mean() for held in run.final_losses().values()] for run in runs])


def fit_world(
    recipe: Recipe, mixes: Floats, trained: Sequence[Sequence[Run]], untrained: Run, even: Run, dynamic: Sequence[Run]
) -> tuple[World, Curves, Floats]:
    """Fit the world to models trained on static mixes.

    Args:
        recipe: that of the runs.
        mixes: f64[mixes, sources], the sources in the order of their names, as in all records.
        trained: the runs of each mix, one for each seed.
        untrained: the model before training.
        even: a run under `uniform`, for what the sources are like.
        dynamic: runs whose updates hold gate loads.

    Returns:
        the world, its curves, and the losses that they were fitted to, f64[mixes, sources].
    """
    examples = recipe.training.steps * recipe.training.batch_examples
    by_seed = [losses_of(runs) for runs in trained]
    losses = np.array([each.mean(axis=0) for each in by_seed])
    errors = np.sqrt(np.mean([each.var(axis=0, ddof=1) / len(each) for each in by_seed], axis=0))
    curves = fit_curves(mixes, losses, losses_of([untrained])[0], errors, examples)
    updates = [[one for one in parse_lines(MixtureUpdate, run.mixture) if one.observation] for run in dynamic]
    loads = np.mean([[one.observation["gate_load"] for one in run] for run in updates], axis=0)
    times = np.array([one.step for one in updates[0]]) / recipe.training.steps
    routing, kept = fit_routing(curves.teaching, loads, times)
    result = even.manifest.result
    assert result is not None
    names = sorted(result.realised_examples)
    noise = np.mean([_nats(held).std() / _nats(held).mean() for held in even.final_losses().values()])
    measured = Measured(
        names=tuple(names),
        sizes=tuple(round(result.realised_examples[name] / result.epochs[name]) for name in names),
        lengths=tuple(result.realised_tokens[name] / result.realised_examples[name] for name in names),
        teaching=_rounded(curves.teaching),
        routing=_rounded(routing),
        floor=_rounded(curves.floor),
        gain=_rounded(curves.gain),
        scale=_rounded(curves.scale),
        power=_rounded(curves.power),
    )
    world = World(
        name="quickstart",
        description="the sources of the recipe `quickstart`, as its trained models learn them",
        groups=(1,) * len(names),
        noise=float(np.round(noise, 3)),
        skills=len(names),
        layers=len(routing),
        experts=routing.shape[2],
        routing_kept=float(np.round(kept, 4)),
        steps=recipe.training.steps,
        interval=recipe.mixing.interval,
        batch=recipe.training.batch_examples,
        measured=measured,
    )
    return world, curves, losses


def report_world(
    report: Report, world: World, curves: Curves, mixes: Floats, losses: Floats, trained: Mapping[str, Floats],
    recipe: Recipe, *, quick: bool,
) -> None:  # fmt: skip
    """Say how well the world fits, and rank the strategies in it beside the trained ones.

    Args:
        report: the page.
        world: the fitted world.
        curves: what it was fitted with.
        mixes: f64[mixes, sources].
        losses: of the models trained on them, f64[mixes, sources].
        trained: the mean held-out loss of each strategy's runs, one for each seed, by its label.
        recipe: that of the runs.
        quick: whether the numbers mean nothing.
    """
    assert world.measured is not None
    told = curves.losses(mixes, world.steps * world.batch)
    names = world.measured.names
    report.say("## The simulated world `quickstart`")
    report.say(
        "`moemix simulate --world quickstart` has this landscape: curves of learning and of transfer between sources,"
        " fitted to the held-out losses of the static mixes and of the model before training"
        " (`trainers/simulation/fitting.py`). What an example of the source in the row teaches of what the sources in"
        " the columns ask:"
    )
    report.table(
        [(name, *(f"{share:.2f}" for share in row)) for name, row in zip(names, curves.teaching, strict=True)],
        ("source", *names),
    )
    misses = np.sqrt(((told - losses).mean(axis=1) ** 2).mean())
    report.say(
        f"It misses the mean held-out loss of a mix by {misses:.3f} nats (root mean square; the mixes' own standard"
        f" deviation is {losses.mean(axis=1).std():.3f}). Of the differences between gate loads training leaves"
        f" {world.routing_kept:.2f} (1 also where they grow)."
    )
    rules: dict[str, MixingStrategy] = {}
    for row in recipe.strategies:
        if row.label in trained and load_strategy(row.name, **row.options).trains:
            rules[row.label] = load_strategy(row.name, **row.options)
    simulated = compare(rules, world, SEED, 2 if quick else REPEATS)
    even = trained["uniform"].mean()
    found = {one.label: one.over_uniform.mean for one in simulated.strategies}
    real = {label: float(values.mean() - even) for label, values in trained.items() if label in found}
    rows = [
        (label, f"{1000 * real[label]:+.0f}", f"{1000 * found[label]:+.0f}")
        for label in sorted(real, key=real.__getitem__)
    ]
    report.say(
        "Mean held-out loss minus that of `uniform`, in thousandths of a nat, trained and in the simulated world:"
    )
    report.table(rows, ("strategy", "trained", "simulated"))
    others = [label for label in real if label != "uniform"]
    together = spearmanr([real[label] for label in others], [found[label] for label in others])
    report.say(
        f"Rank correlation of the two (Spearman): {together.statistic:.2f} over {len(others)} strategies. The"
        " simulation knows no forgetting, so `sequential` costs nothing there, and `final_static` starts there from"
        " `dynamic` with its default η. Why `doge` and `pike` lose so much in training and not there was not examined."
    )


def write_world(world: World, path: Path = MEASURED) -> None:
    """Write the world where ``moemix simulate`` finds it."""
    write_text(path, world.model_dump_json(indent=1, exclude_defaults=True) + "\n")


def _nats(held: HeldOutLosses) -> Floats:
    return np.array(held.nats) / np.array(held.targets)


def _rounded(values: Floats) -> list[object]:
    found: list[object] = np.vectorize(lambda value: float(f"{value:.6g}"))(values).tolist()
    return found
