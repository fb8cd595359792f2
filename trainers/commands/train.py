"""``moemix train``: train one model with one mixing strategy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import MoemixError
from harness.launch import is_first, process_count
from harness.options import recipe_options, request_option

if TYPE_CHECKING:
    from harness.execution import Launcher
    from harness.jobs import Job, Plan


@click.command()
@click.argument("recipe", required=False)
@click.option("--strategy", metavar="LABEL", help="Mixing strategy.  [default: dynamic]")
@click.option("--model", metavar="NAME", help="Which of the recipe's models.  [default: its first]")
@click.option("--seed", type=int, help="Which of the recipe's seeds.  [default: its first]")
@recipe_options
@click.option("--run", "run_folder", metavar="DIR", help="Train the run of the manifest in DIR, without a RECIPE.")
@request_option
def train(
    recipe: str | None,
    strategy: str | None,
    model: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    run_folder: str | None,
    request: Path | None,
) -> None:
    """Train one model of RECIPE with one mixing strategy, and write its checkpoint to the run store.

    A finished run is not trained again; an interrupted one continues where it stopped. For several processes use
    `--set launcher.processes=2`, or start this command with `accelerate launch`.
    """
    given = run_folder or request
    if given is None:
        if recipe is None:
            raise click.UsageError("give a RECIPE (see `moemix recipes`), --run DIR or --request FILE")
        _train_recipe(recipe, strategy or "dynamic", model, seed, overrides, store, data_root)
        return
    if recipe or strategy or model or seed is not None or overrides or store or data_root or (run_folder and request):
        raise click.UsageError(f"{given} defines the whole run; remove the other arguments")
    from harness.requests import TrainJobRequest, read_request
    from harness.store import Run, create_run, run_in

    if request is None:
        run = run_in(Path(given))
    else:
        job = read_request(request, TrainJobRequest)
        if job.launcher.processes > process_count() == 1:
            from trainers.parallel.launch import launch

            sys.exit(launch(job.launcher, "train", "--request", str(request)))
        if is_first():  # the other processes wait for this one before they read the manifest
            create_run(job)
        run = Run(job.out)
    from trainers.training.run import train as train_run  # last: it takes seconds, which no mistake should wait for

    train_run(run)


def _train_recipe(
    recipe: str,
    strategy: str,
    model: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
) -> None:
    from harness.checks import check
    from harness.conductor import run_only
    from harness.plan import training_job, with_row
    from harness.recipe_file import locate_recipe
    from harness.store import Store, store_root
    from harness.store import data_root as find_data_root

    tree, places = locate_recipe(recipe, overrides)
    runs, root = Store(store_root(store)), find_data_root(data_root)
    if is_first():
        check(with_row(tree, strategy)[0], runs, root, places)

    def job() -> tuple[Plan, Job]:
        return training_job(tree, strategy, model, seed, runs, root)

    if process_count() > 1:
        folder = _train_launched(tree.launcher, job)
    else:
        plan, train_job = job()
        run_only(plan, train_job.id)
        folder = train_job.folder
    if is_first():
        click.echo(folder / "checkpoint")


def _train_launched(launcher: Launcher, job: Callable[[], tuple[Plan, Job]]) -> Path:
    """Train in these processes, which a launcher started; the first one first makes what the run needs."""
    from harness.conductor import run_only
    from harness.store import Run
    from trainers.parallel import launched_strategy, made_by_first
    from trainers.training.run import train

    wanted, here = (launcher.processes, launcher.strategy), (process_count(), launched_strategy())
    if launcher.processes > 1 and wanted != here:
        raise MoemixError(
            f"the recipe requests {wanted[0]} processes with {wanted[1]}, but {here[0]} with {here[1]} were launched",
            where="launcher",
            hint="launch what the recipe requests, or start one process, which launches the others",
        )

    def prepared() -> str:
        plan, train_job = job()
        for needed in train_job.after:
            run_only(plan, needed)
        train_job.prepare()
        return str(train_job.folder)

    folder = Path(made_by_first(prepared))
    train(Run(folder))
    return folder
