"""The commands bench, plan and recipes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from harness import stages
from harness.checks import check, disk_shortage
from harness.execution import SlurmExecutor
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
@click.option("--until-decided", is_flag=True, help="Add seeds until the primary comparisons are decided.")
@click.option("--budget", metavar="HOURS", type=click.FloatRange(min=0), help="Of jobs, for --until-decided.")
@click.option(
    "--unsafe-code", is_flag=True, help="Run generated programs without a sandbox where none works, at your own risk."
)
def bench(
    recipe: str,
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    executor: str | None,
    jobs: int | None,
    until_decided: bool,
    budget: float | None,
    unsafe_code: bool,
) -> int:
    """Run RECIPE to its comparison table: make models, train, evaluate, compare.

    Whatever is already done is kept; after an interruption the same command goes on. A run that fails is reported
    and does not stop the others; the exit status is then 1.

    With --until-decided, strategies that are not told apart from the baseline get more seeds, up to the recipe's
    `comparisons.most_seeds`. --budget is what all of the runs may take, in hours of jobs one after the other.
    """
    from harness.bench import run_bench

    if budget is not None and not until_decided:
        raise click.UsageError("--budget is for --until-decided")
    plan = checked_plan(recipe, overrides + executor_settings(executor, jobs), store, data_root)
    done = run_bench(plan, until_decided=until_decided, budget=budget, unsafe_code=unsafe_code)
    folder = done.plan.store.root / done.plan.recipe.name
    text, written = stages.comparison().report(done.plan, folder, done.first)
    click.echo(text, nl=False)
    for path in written:
        click.echo(f"written: {path}", err=True)
    return 1 if done.outcome.failed else 0


@click.command()
@click.argument("recipe")
@recipe_options
@executor_options
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    default=200.0,
    show_default=True,
    help="What a GPU sustains in training, for the estimate of hours.",
)
@click.option("--price", type=click.FloatRange(min=0), help="Of a GPU hour, for an estimate of the cost.")
@format_option
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    executor: str | None,
    jobs: int | None,
    tflops: float,
    price: float | None,
    style: str,
) -> None:
    """Show the jobs of RECIPE, what each waits for, and what is already done. Starts nothing.

    For models whose shape is known it also estimates memory, GPU hours and cost. With --executor slurm it shows what
    would be submitted.
    """
    built = checked_plan(recipe, overrides + executor_settings(executor, jobs), store, data_root)
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
    for line in _costs(built, tflops, price):
        click.echo(line)
    if isinstance(built.recipe.executor, SlurmExecutor):
        from harness.slurm import preview

        click.echo("\nTo submit, each array after those that it depends on:")
        for line in preview(built.jobs, built.recipe.executor):
            click.echo(line)
    if shortage := disk_shortage(built):
        click.echo(f"Warning: {shortage}; `bench` stops here", err=True)


def _costs(built: Plan, tflops: float, price: float | None) -> Iterator[str]:
    """Describe the training of each model: steps, batch, tokens, and memory and hours where its shape is known."""
    from harness.memory import describe, hours, shape_of

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
        if shape := shape_of(model):
            all_hours = sum(hours(shape, run, tflops) for run in runs)
            cost = f", {price * all_hours:,.0f} at {price:g} an hour" if price is not None else ""
            yield (
                f"{model.name}: training takes about {hours(shape, training, tflops):,.1f} GPU hours a run, and"
                f" {all_hours:,.0f} in all{cost}, if rows are full and a GPU sustains {tflops:g} TFLOP/s (--tflops;"
                " an H100's peak is 989 in bfloat16, and trainings reach 20 to 40 % of it)"
            )


@click.group(invoke_without_command=True)
@format_option
@click.pass_context
def recipes(context: click.Context, style: str) -> None:
    """List the built-in recipes."""
    if context.invoked_subcommand is not None:
        return
    descriptions = {name: load_recipe(name).description for name in recipe_names()}
    if style == "json":
        click.echo(json.dumps(descriptions, indent=1))
        return
    click.echo(terminal_table(Grid(("recipe", "for"), sorted(descriptions.items()))))


@recipes.command("new")
@click.argument("path", metavar="FILE.yaml", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--data", "sources", metavar="FILE|ORG/NAME", multiple=True, help="A source, as often as there are some.")
@click.option("--model", metavar="tiny|FOLDER|ORG/NAME", help="tiny: a small MoE with random weights, for minutes.")
@click.option("--suite", "suites", metavar="NAME", multiple=True, help="Benchmarks, see `moemix suites`.")
def new_recipe(path: Path, sources: tuple[str, ...], model: str | None, suites: tuple[str, ...]) -> None:
    """Write a commented recipe for your own data and model. Asks for what no option says."""
    from harness.new_recipe import write_recipe

    asking = sys.stdin.isatty()
    if not sources and asking:
        sources = tuple(click.prompt("Files or hub data sets, separated by spaces").split())
    if model is None:
        model = click.prompt("Model: tiny, a folder or a hub id", default="tiny") if asking else "tiny"
    for line in write_recipe(path, sources, model, suites):
        click.echo(line, err=True)
    click.echo(path)
