"""The commands bench, plan and recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from harness import stages
from harness.checks import check
from harness.grid import Grid, terminal_table
from harness.jobs import Plan
from harness.options import executor_options, executor_settings, format_option, recipe_options
from harness.plan import build
from harness.recipe_file import load_recipe, locate_recipe, override, recipe_names
from harness.store import Store, data_root, store_root


def build_plan(recipe: str, overrides: tuple[str, ...], store: str | None, root: str | None) -> Plan:
    """Plan what the arguments of a command describe."""
    return build(load_recipe(recipe, overrides), Store(store_root(store)), data_root(root))


def checked_plan(recipe: str, overrides: tuple[str, ...], store: str | None, root: str | None) -> Plan:
    """Check everything that needs no training, and report all problems at once; then plan."""
    tree, places = locate_recipe(recipe, overrides)
    runs, folder = Store(store_root(store)), data_root(root)
    check(tree, runs, folder, places)
    return build(tree, runs, folder)


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

    plan = checked_plan(recipe, overrides + executor_settings(executor, jobs), store, data_root)
    outcome = conduct(plan)
    text, written = stages.comparison().report(plan, plan.store.root / plan.recipe.name)
    click.echo(text, nl=False)
    for path in written:
        click.echo(f"written: {path}", err=True)
    return 1 if outcome.failed else 0


@click.command()
@click.argument("recipe")
@recipe_options
@format_option
def plan(recipe: str, overrides: tuple[str, ...], store: str | None, data_root: str | None, style: str) -> None:
    """Show the jobs of RECIPE, what each waits for, and what is already done. Starts nothing."""
    built = checked_plan(recipe, overrides, store, data_root)
    if style == "json":
        rows = [
            {"id": j.id, "kind": j.kind, "title": j.title, "done": j.done, "after": j.after, "folder": str(j.folder)}
            for j in built.jobs
        ]
        click.echo(json.dumps({"recipe": built.recipe.model_dump(mode="json"), "jobs": rows}, indent=1))
        return
    numbers = {job.id: number for number, job in enumerate(built.jobs, 1)}
    lines = [
        (numbers[job.id], "done" if job.done else "to do", job.title, ", ".join(str(numbers[a]) for a in job.after))
        for job in built.jobs
    ]
    click.echo(terminal_table(Grid(("#", "state", "job", "after"), lines)))
    click.echo(f"\nEngine {built.recipe.engine}; store {built.store.root}")
    for line in _costs(built):
        click.echo(line)


def _costs(built: Plan) -> Iterator[str]:
    """Describe the training of each model: steps, batch and tokens, and memory where the model's shape is known."""
    from harness.memory import describe

    for model in built.recipe.models:
        runs = [p.config.training for p in built.runs if p.model == model.name and p.config.strategy.name != "none"]
        if not runs:
            continue
        recipe = override(built.recipe, model.overrides)
        training = recipe.training
        batch = training.batch_examples * training.max_length
        total = sum(run.steps * run.batch_examples * run.max_length for run in runs)
        yield (
            f"{model.name}: {len(runs)} runs, each of {training.steps} steps × {training.batch_examples} examples of at"
            f" most {training.max_length} tokens ({training.dtype}) unless its row says otherwise. Global batch: at"
            f" most {batch:,} tokens; a run sees at most {training.steps * batch:,} tokens, all of them {total:,}"
        )
        if memory := describe(model, training, recipe.launcher):
            yield memory


@click.command()
@format_option
def recipes(style: str) -> None:
    """List the built-in recipes."""
    descriptions = {name: load_recipe(name).description for name in recipe_names()}
    if style == "json":
        click.echo(json.dumps(descriptions, indent=1))
        return
    click.echo(terminal_table(Grid(("recipe", "for"), sorted(descriptions.items()))))
