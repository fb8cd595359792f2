"""``moemix cache``: inspect and prune the cached answers of models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.options import format_option

if TYPE_CHECKING:
    from evals.cache import CacheFile


@click.group()
def cache() -> None:
    """Inspect and prune the cache of model answers."""


@cache.command()
@format_option
def stats(style: str) -> None:
    """List the cached answers by checkpoint and engine."""
    from evals.cache import cache_files, responses_folder

    found = list(cache_files())
    if style == "json":
        import dataclasses
        import json

        click.echo(json.dumps([dataclasses.asdict(file) | {"path": str(file.path)} for file in found], indent=1))
        return
    for file in found:
        click.echo(
            f"{file.checkpoint[:12]}  {file.engine:<28} {file.answers:>8} answers {_size(file.bytes):>10}"
            f"  used {file.age_days:.1f} days ago"
        )
    click.echo(f"{_total(found)} in {responses_folder()}")


@cache.command("prune")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Only files unused for so many days.")
@click.option("--checkpoint", metavar="FOLDER|HASH", help="Only answers of this checkpoint.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
def prune_command(older_than: float | None, checkpoint: str | None, everything: bool) -> None:
    """Delete cached answers; an evaluation that needs them asks again."""
    from evals.cache import prune

    if not everything and older_than is None and checkpoint is None:
        raise click.UsageError("say what to delete: --older-than DAYS, --checkpoint FOLDER|HASH or --all")
    if checkpoint is not None and Path(checkpoint).is_dir():
        from harness.store import checkpoint_hash

        checkpoint = checkpoint_hash(Path(checkpoint))
    gone = prune(older_than_days=older_than, checkpoint=checkpoint)
    click.echo(f"deleted {_total(gone)}")


def _total(files: Sequence[CacheFile]) -> str:
    return f"{sum(file.answers for file in files)} answers, {_size(sum(file.bytes for file in files))}"


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
