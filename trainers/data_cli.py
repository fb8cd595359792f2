"""``moemix data``: make and inspect training data."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def data() -> None:
    """Make and inspect training data."""


@data.command()
@click.argument("world")
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", type=int, default=0, show_default=True)
def make(world: str, out: Path, seed: int) -> None:
    """Generate WORLD (quickstart) as a data root in DIR: training files, raw text, held-out questions."""
    from trainers.data.world import make_world

    make_world(world, out, seed)
    click.echo(out)
