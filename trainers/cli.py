"""``moemix train``: one model under one mixing strategy."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands import recipe_options
from harness.errors import MoemixError


@click.command()
@click.argument("recipe", required=False)
@click.option("--strategy", metavar="LABEL", help="Mixing strategy.  [default: dynamic]")
@click.option("--model", metavar="NAME", help="Which of the recipe's models.  [default: its first]")
@click.option("--seed", type=int, help="Which of the recipe's seeds.  [default: its first]")
@recipe_options
@click.option(
    "--run", "run_folder", metavar="DIR", help="Train the run that a manifest in DIR describes, instead of a recipe's."
)
def train(
    recipe: str | None,
    strategy: str | None,
    model: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    run_folder: str | None,
) -> None:
    """Train one model of RECIPE under one mixing strategy, and leave its checkpoint in the run store.

    A run that is finished is left as it is; one that was interrupted goes on where it stopped.
    """
    if run_folder is None:
        if recipe is None:
            raise click.UsageError("give a RECIPE (see `moemix recipes`), or --run DIR")
        _train_recipe(recipe, strategy or "dynamic", model, seed, overrides, store, data_root)
        return
    if recipe or strategy or model or seed is not None or overrides or store or data_root:
        raise click.UsageError("--run DIR takes everything from the run's manifest; give nothing else with it")
    _train_run(Path(run_folder))


def _train_run(folder: Path) -> None:
    from harness.store import Run

    if not (folder / "run.json").is_file():
        raise MoemixError("there is no run.json in this folder", where=str(folder), hint="`moemix plan` lists runs")
    from trainers.run import train

    train(Run(folder.resolve()))


def _train_recipe(
    recipe: str,
    strategy: str,
    model: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
) -> None:
    from harness.conductor import run_only
    from harness.plan import build
    from harness.recipe import Strategy, load_recipe
    from harness.store import Store, store_root
    from harness.store import data_root as find_data_root

    tree = load_recipe(recipe, overrides)
    row = next((row for row in tree.strategies if strategy in (row.label, row.name)), None)
    if row is None:  # any strategy can be trained on a recipe, whether or not it is one of its rows
        row = Strategy(name=strategy)
        tree = tree.model_copy(update={"strategies": (*tree.strategies, row)})
    plan = build(tree, Store(store_root(store)), find_data_root(data_root))
    folder = plan.select(row.label, model, seed).run.folder
    run_only(plan, next(job.id for job in plan.jobs if job.kind == "train" and job.folder == folder))
    click.echo(folder / "checkpoint")
