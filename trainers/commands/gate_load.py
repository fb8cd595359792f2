"""``moemix gate-load``: how a run's checkpoint routes its sources and benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.options import request_option

if TYPE_CHECKING:
    from harness.records import GateLoads
    from harness.store import Run


@click.command("gate-load")
@click.argument("run", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--examples", type=click.IntRange(min=1), default=100, show_default=True, help="Examples of each source, at most."
)
@click.option("--benchmarks", is_flag=True, help="Also count the prompts of the run's evaluations.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="[default: RUN/gate_load/sources]")
@request_option
def gate_load(run: Path | None, examples: int, benchmarks: bool, out: Path | None, request: Path | None) -> None:
    """Count the tokens that the checkpoint of RUN sends to each expert, for each source (its held-out examples).

    A run of the strategy `none` has the base checkpoint, so it gives the gate load before training.
    """
    from harness.requests import GateLoadConfig, GateLoadJobRequest, read_request
    from harness.store import run_in

    if request is not None:
        job = read_request(request, GateLoadJobRequest)
    elif run is not None:
        folder = out or run / "gate_load" / ("benchmarks" if benchmarks else "sources")
        job = GateLoadJobRequest(run=run, out=folder, config=GateLoadConfig(examples=examples, benchmarks=benchmarks))
    else:
        raise click.UsageError("give the folder of a RUN, or --request FILE")
    config = job.config
    run_folder = run_in(job.run)
    from trainers.training.gate_load_stage import measure_gate_load  # torch with it, once there is something to measure

    found = measure_gate_load(run_folder, job.out, examples=config.examples, benchmarks=config.benchmarks)
    for name, kind, layers in zip(found.names, found.kinds, found.counts, strict=True):
        last = layers[-1]
        shares = " ".join(f"{100 * count / (sum(last) or 1):.1f}" for count in last)
        click.echo(f"{name} ({kind}, {sum(last)} tokens): last layer, % by expert: {shares}")
    click.echo(_regime(run_folder, found))


def _regime(run: Run, found: GateLoads) -> str:
    """Return how hard `dynamic` would pull on the sources' weights with the run's options, and where that leads."""
    import numpy as np

    from trainers.mixing.distances import gate_load_distance, select_layers
    from trainers.mixing.dynamic import Dynamic
    from trainers.mixing.regime import PAPER_PULL, Regime
    from trainers.mixing.registry import load_strategy
    from trainers.mixing.simplex import even

    strategy = run.manifest.config.strategy
    rule = load_strategy(strategy.name, **strategy.options)
    rule = rule if isinstance(rule, Dynamic) else Dynamic()
    chosen = [i for i, kind in enumerate(found.kinds) if kind == "source"]
    load = select_layers(np.array(found.counts)[chosen], rule.layers, where="layers")
    delta = gate_load_distance(load, rule.distance, rule.aggregate)
    regime = Regime(even(len(chosen)), rule.eta * delta, rule.c)
    weights = ", ".join(f"{found.names[i]} {100 * w:.0f} %" for i, w in zip(chosen, regime.settles, strict=True))
    paper = f"; eta={regime.eta_as_in_the_paper(rule.eta):.2g} would do the paper's {PAPER_PULL}" if regime.pull else ""
    return (
        f"spread of the sources' distances: {np.ptp(delta):.4f}; `{rule.name}` with eta={rule.eta:g} and c={rule.c:g}"
        f" would change log-weights by up to {regime.pull:.2g} an update{paper}; with these loads the weights settle at"
        f" {weights}"
    )
