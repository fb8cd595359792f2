"""Options that several commands share. Reading them imports nothing heavy, so ``--help`` stays quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")
Command = Callable[P, R]

data_root_option = click.option(
    "--data-root", metavar="DIR", help="Folder of local files, in place of the hub. [env: MOEMIX_DATA_ROOT]"
)
store_option = click.option("--store", metavar="DIR", help="Run store. [env: MOEMIX_STORE; default: runs/]")
format_option = click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True
)
request_option = click.option(
    "--request",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Take everything from this request file, which `moemix bench` wrote.",
)
"""The option of every command that runs a job."""


def recipe_options(command: Command[P, R]) -> Command[P, R]:
    """Add the options of every command that takes a recipe."""
    overrides = click.option("--set", "overrides", metavar="A.B=C", multiple=True, help="Change a key of the recipe.")
    return overrides(store_option(data_root_option(command)))


def executor_options(command: Command[P, R]) -> Command[P, R]:
    """Add the options of every command that runs a plan; they are short for two keys of the recipe."""
    kinds = click.Choice(["local", "slurm"])
    jobs = click.option("--jobs", type=click.IntRange(min=1), help="Jobs at once: --set executor.jobs=N.")
    return click.option("--executor", type=kinds, help="Where jobs run: --set executor.kind=NAME.")(jobs(command))


def executor_settings(executor: str | None, jobs: int | None) -> tuple[str, ...]:
    """Return the two options as overrides of the recipe."""
    settings = {"kind": executor, "jobs": jobs}
    return tuple(f"executor.{key}={value}" for key, value in settings.items() if value)
