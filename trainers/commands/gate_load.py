"""``moemix gate-load``: how a run's checkpoint routes its sources and benchmarks."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("gate-load")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--examples", type=click.IntRange(min=1), default=100, show_default=True, help="Of each, at most.")
@click.option("--benchmarks", is_flag=True, help="Also the prompts of the run's evaluations.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="[default: RUN/gate_load/sources]")
def gate_load(run: Path, examples: int, benchmarks: bool, out: Path | None) -> None:
    """Count the tokens that the checkpoint of RUN sends to each expert, by source (its held-out examples).

    A run of the strategy `none` holds the base checkpoint: that is the gate load before training.
    """
    from harness.errors import MoemixError
    from harness.store import Run
    from trainers.signals.gate_load_stage import measure_gate_load

    if not (run / "run.json").is_file():
        raise MoemixError("there is no run.json in this folder", where=str(run), hint="`moemix plan` lists runs")
    folder = out or run / "gate_load" / ("benchmarks" if benchmarks else "sources")
    found = measure_gate_load(Run(run.resolve()), folder, examples=examples, benchmarks=benchmarks)
    for name, kind, layers in zip(found.names, found.kinds, found.counts, strict=True):
        last = layers[-1]
        shares = " ".join(f"{100 * count / (sum(last) or 1):.1f}" for count in last)
        click.echo(f"{name} ({kind}, {sum(last)} tokens): last layer, % by expert: {shares}")
