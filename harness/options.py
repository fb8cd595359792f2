"""Options that several commands share. Reading them imports nothing heavy, so ``--help`` stays quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that takes a recipe."""
    for option in (
        click.option("--data-root", metavar="DIR", help="Folder of local data files. [env: MOEMIX_DATA_ROOT]"),
        click.option("--store", metavar="DIR", help="Run store. [env: MOEMIX_STORE; default: runs/]"),
        click.option("--set", "overrides", metavar="A.B=C", multiple=True, help="Change a key of the recipe."),
    ):
        command = option(command)
    return command


request_option = click.option(
    "--request",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Take everything from this request file, which `moemix bench` wrote.",
)
"""The option of every command that runs a job."""


def executor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that runs a plan: short for two keys of the recipe."""
    for option in (
        click.option("--jobs", type=click.IntRange(min=1), help="Jobs at once, the same as --set executor.jobs=N."),
        click.option(
            "--executor", type=click.Choice(["local", "slurm"]), help="Where jobs run: --set executor.kind=NAME."
        ),
    ):
        command = option(command)
    return command


def executor_settings(executor: str | None, jobs: int | None) -> tuple[str, ...]:
    """The two options as overrides."""
    found = (f"executor.kind={executor}" if executor else "", f"executor.jobs={jobs}" if jobs else "")
    return tuple(filter(None, found))
