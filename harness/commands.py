"""Commands of the conductor: bench, plan, recipes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from harness import stages
from harness.options import executor_options, executor_settings, recipe_options
from harness.store import Store, data_root, store_root

if TYPE_CHECKING:
    from harness.plan import Plan


def build_plan(recipe: str, overrides: tuple[str, ...], store: str | None, root: str | None) -> Any:
    """The plan behind a command's arguments."""
    from harness.plan import build
    from harness.recipe_file import load_recipe

    return build(load_recipe(recipe, overrides), Store(store_root(store)), data_root(root))


@click.command()
@click.argument("recipe")
@recipe_options
@executor_options
def bench(
    recipe: str,
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    executor: str | None,
    jobs: int | None,
) -> int:
    """Run RECIPE to its comparison table: make models, train, evaluate, compare.

    Whatever is already done is kept; after an interruption the same command goes on. A run that fails is reported
    and does not stop the others; the exit status is then 1.
    """
    from harness.conductor import conduct

    overrides += executor_settings(executor, jobs)
    plan = build_plan(recipe, overrides, store, data_root)
    outcome = conduct(plan)
    text, written = stages.comparison().report(plan, plan.store.root / plan.recipe.name)
    click.echo(text, nl=False)
    for path in written:
        click.echo(f"written: {path}", err=True)
    return 1 if outcome.failed else 0


@click.command()
@click.argument("recipe")
@recipe_options
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan(recipe: str, overrides: tuple[str, ...], store: str | None, data_root: str | None, style: str) -> None:
    """Show the jobs of RECIPE, what each waits for, and what is already done. Starts nothing."""
    built = build_plan(recipe, overrides, store, data_root)
    if style == "json":
        rows = [
            {"id": j.id, "kind": j.kind, "title": j.title, "done": j.done, "after": j.after, "folder": str(j.folder)}
            for j in built.jobs
        ]
        click.echo(json.dumps({"recipe": built.recipe.model_dump(mode="json"), "jobs": rows}, indent=1))
        return
    from tabulate import tabulate

    numbers = {job.id: number for number, job in enumerate(built.jobs, 1)}
    lines = [
        (numbers[job.id], "done" if job.done else "to do", job.title, ", ".join(str(numbers[a]) for a in job.after))
        for job in built.jobs
    ]
    click.echo(tabulate(lines, headers=("#", "state", "job", "after"), tablefmt="simple"))
    click.echo(f"\nEngine {built.recipe.engine}; store {built.store.root}")
    for line in costs(built):
        click.echo(line)


def costs(built: Plan) -> list[str]:
    """What training takes, for each model that is trained: steps, batch, tokens; memory where its shape is known."""
    from harness.memory import describe
    from harness.recipe_file import override

    lines = []
    for model in built.recipe.models:
        runs = [p.config.training for p in built.runs if p.model == model.name and p.config.strategy.name != "none"]
        if not runs:
            continue
        recipe = override(built.recipe, model.overrides)
        training = recipe.training
        batch = training.batch_examples * training.max_length
        total = sum(run.steps * run.batch_examples * run.max_length for run in runs)
        lines.append(
            f"{model.name}: {len(runs)} runs, each of {training.steps} steps × {training.batch_examples} examples of at"
            f" most {training.max_length} tokens ({training.dtype}) unless its row says otherwise. Global batch: at"
            f" most {batch:,} tokens; a run sees at most {training.steps * batch:,} tokens, all of them {total:,}"
        )
        if told := describe(model, training, recipe.launcher):
            lines.append(told)
    return lines


@click.command()
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
def recipes(style: str) -> None:
    """List the built-in recipes."""
    from harness.recipe_file import load_recipe, recipe_names

    found = {name: load_recipe(name).description for name in recipe_names()}
    if style == "json":
        click.echo(json.dumps(found, indent=1))
        return
    from tabulate import tabulate

    click.echo(tabulate(sorted(found.items()), headers=("recipe", "for"), tablefmt="simple"))
