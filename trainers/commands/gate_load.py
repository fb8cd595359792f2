"""``moemix gate-load``: how a run's checkpoint routes its sources and benchmarks."""

from __future__ import annotations

from pathlib import Path

import click

from harness.options import request_option


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
    from trainers.training.gate_load_stage import measure_gate_load

    if request is not None:
        job = read_request(request, GateLoadJobRequest)
    elif run is not None:
        folder = out or run / "gate_load" / ("benchmarks" if benchmarks else "sources")
        job = GateLoadJobRequest(run=run, out=folder, config=GateLoadConfig(examples=examples, benchmarks=benchmarks))
    else:
        raise click.UsageError("give the folder of a RUN, or --request FILE")
    config = job.config
    found = measure_gate_load(run_in(job.run), job.out, examples=config.examples, benchmarks=config.benchmarks)
    for name, kind, layers in zip(found.names, found.kinds, found.counts, strict=True):
        last = layers[-1]
        shares = " ".join(f"{100 * count / (sum(last) or 1):.1f}" for count in last)
        click.echo(f"{name} ({kind}, {sum(last)} tokens): last layer, % by expert: {shares}")
