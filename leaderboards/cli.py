"""``moemix table``, ``moemix view`` and ``moemix power``: compare runs, look at them, and say what more would show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands import build_plan
from harness.grid import ENDINGS
from harness.options import format_option, recipe_options

if TYPE_CHECKING:
    from leaderboards.selection import Selection
    from leaderboards.table import Comparison
    from leaderboards.viewer import Jobs

BASELINE = "uniform"


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="RECIPE_OR_RUN_FOLDER...")
@recipe_options
@click.option("--until-decided", is_flag=True, help="Show what `bench RECIPE --until-decided` decided.")
@click.option("--suite", metavar="NAME", help="Only this suite.  [default: all]")
@click.option("--baseline", metavar="LABEL", help="The row that differences are taken to.  [default: the recipe's]")
@click.option(
    "--checkpoints", is_flag=True, help="Compare every run as a checkpoint, over questions, not strategies over seeds."
)
@click.option(
    "--format", "style", type=click.Choice(list(ENDINGS)), help="[default: by the ending of --out, or terminal]"
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the table here instead.")
@click.option(
    "--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw the weights over time (.png/.pdf/.svg)."
)
@click.option(
    "--report", type=click.Path(path_type=Path, file_okay=False), help="Write every format and the figure here."
)
def table(
    targets: tuple[str, ...],
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    until_decided: bool,
    suite: str | None,
    baseline: str | None,
    checkpoints: bool,
    style: str | None,
    out: Path | None,
    figure: Path | None,
    report: Path | None,
) -> None:
    """Compare the runs of a RECIPE, or the runs in folders, in a table.

    Each row is a strategy with its seeds, each column a task or an average. A cell shows score ± standard error, and
    below it the paired difference to the baseline. Runs that failed or have not run yet keep their row with the reason.
    """
    from dataclasses import replace

    from harness.files import write_text
    from leaderboards.exports import render
    from leaderboards.figures import draw_weights, trajectories

    if until_decided and baseline is not None:
        raise click.UsageError("--until-decided compares with the baseline of the recipe: --set baseline=LABEL")
    if until_decided:
        selection = _decided(targets, overrides, store, data_root)
    else:
        selection = select(targets, overrides, store, data_root, baseline)
    comparisons = replace(selection, checkpoints=checkpoints).compare(suite)
    chosen = style or next((name for name, ending in ENDINGS.items() if out and out.suffix == ending), "terminal")
    text = render(comparisons, chosen)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)
    written = [out] if out else []
    if figure is not None:  # all comparisons have the same runs, so the first will do
        written += draw_weights(trajectories(comparisons[0]), figure)
    if report is not None:
        written += write_report(comparisons, report)
    for path in written:
        click.echo(f"written: {path}", err=True)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="RECIPE_OR_STORE_OR_RUN_FOLDER...")
@recipe_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write the pages here and end.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Serve them here.")
@click.option("--every", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Seconds between looks.")
def view(
    targets: tuple[str, ...],
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    out: Path | None,
    port: int,
    every: float,
) -> None:
    """Show runs as pages: jobs and time left, table, curves of losses and weights, and samples compared.

    A store has pages for each of its recipes, and one that lists them.

    Serves the pages to this machine alone and renews them while jobs run, or writes them to --out, a folder to publish.
    """
    import tempfile

    from leaderboards.serving import serve
    from leaderboards.viewer import Pages, write_overview

    with tempfile.TemporaryDirectory(prefix="moemix-view-") as temporary:
        folder = out or Path(temporary)
        pages: dict[str, Pages] = {}

        def write() -> None:
            runs = {}
            for name, shown in _views(targets).items():
                home = "../" * len(Path(name).parts) + "index.html" if name else None
                title = name or ", ".join(targets)
                page = pages.setdefault(name, Pages(folder / name, title, live=out is None, home=home))
                selection, jobs = _seen(shown, overrides, store, data_root)
                page.write(selection, jobs)
                runs[name] = selection.runs
            if "" not in runs:
                write_overview(folder, targets[0], runs)

        write()
        if out is None:
            serve(folder, write, port, every)
        else:
            click.echo(f"written: {out / 'index.html'}", err=True)


def _views(targets: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return what each set of pages shows, by its folder: the targets together, or each recipe of a store."""
    if all(_recipes_in(target) == [target] for target in targets):
        return {"": targets}
    if len(targets) > 1:
        raise click.UsageError("give a store alone: it stands for all of its recipes")
    return {Path(folder).relative_to(targets[0]).as_posix(): (folder,) for folder in _recipes_in(targets[0])}


def _seen(
    targets: tuple[str, ...], overrides: tuple[str, ...], store: str | None, root: str | None
) -> tuple[Selection, Jobs]:
    """Return the runs of a command's arguments, and the jobs of the recipes among them."""
    from harness.status import plan_status, time_left
    from leaderboards.viewer import Jobs

    rows, left = [], 0.0
    for target in targets:
        if not Path(target).is_dir():
            plan = build_plan(target, overrides, store, root)
            rows += plan_status(plan)
            left += time_left(plan, rows) or 0.0
    return select(targets, overrides, store, root, None), Jobs(rows, left or None)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="RECIPE_OR_STORE...")
@recipe_options
@click.option("--suite", metavar="NAME", help="Only this suite.  [default: all]")
@format_option
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Write the report here instead.")
@click.option("--figure", metavar="FILE", type=click.Path(path_type=Path), help="Draw the detectable differences here.")
def power(
    targets: tuple[str, ...],
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    suite: str | None,
    style: str,
    out: Path | None,
    figure: Path | None,
) -> None:
    """Say what differences seeds and questions can detect, and what they cost.

    From the finished runs of a recipe, of a store, or of a folder of runs, with two seeds or more: the variance by
    seed, question and rest of each column, its signal-to-noise ratio, how often a part of the data picks the winner
    that all of it picks, and the seeds that detect the recipe's margin, with their hours.
    """
    from harness.files import write_text
    from harness.grid import write
    from leaderboards.power import as_json, draw, power_of, sections

    folders = [folder for target in targets for folder in _recipes_in(target)]
    found = [
        one
        for folder in folders
        for comparison in select((folder,), overrides, store, data_root, None).compare(suite)
        for one in power_of(comparison)
    ]
    text = as_json(found) if style == "json" else write(sections(found), "terminal")
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)
    if figure is not None:
        draw(found, figure)
    for path in filter(None, (out, figure)):
        click.echo(f"written: {path}", err=True)


def _decided(targets: tuple[str, ...], overrides: tuple[str, ...], store: str | None, root: str | None) -> Selection:
    """Return the runs of one recipe with the verdicts that were decided look by look."""
    from leaderboards.looks import decided

    if len(targets) != 1:
        raise click.UsageError("--until-decided takes one recipe")
    return decided(build_plan(targets[0], overrides, store, root))


def _recipes_in(target: str) -> list[str]:
    """Return the folders of recipes in a store; anything else stands for itself."""
    path = Path(target)
    if not path.is_dir() or (path / "run.json").is_file() or any(path.glob("*/run.json")):
        return [target]
    found = (*path.glob("*/*/run.json"), *path.glob("*/*/*/run.json"))
    return sorted({str(run.parent.parent) for run in found}) or [target]


def select(
    targets: tuple[str, ...], overrides: tuple[str, ...], store: str | None, root: str | None, baseline: str | None
) -> Selection:
    """Find the runs of the command's arguments: a folder that holds runs stands for them, anything else is a recipe."""
    import dataclasses

    from harness.errors import MoemixError
    from harness.recipe_file import recipe_names
    from leaderboards.selection import from_folders, from_plan, joined

    folders = [
        path
        for path in map(Path, targets)
        if path.is_dir() and ((path / "run.json").is_file() or any(path.glob("*/run.json")))
    ]
    recipes = [target for target in targets if Path(target) not in folders]
    for target in recipes:
        if Path(target).is_dir() and target not in recipe_names():
            hint = "give a recipe, or a folder of runs such as runs/quickstart"
            raise MoemixError(
                "there is no run in this folder: neither run.json nor */run.json", where=target, hint=hint
            )
    if overrides and not recipes:
        raise MoemixError("`--set` changes a recipe, and only run folders were given", where=f"--set {overrides[0]}")
    found = [from_plan(build_plan(recipe, overrides, store, root)) for recipe in recipes]
    if folders:
        found.append(from_folders(folders, BASELINE))
    selection = joined(found)
    return dataclasses.replace(selection, baseline=baseline) if baseline else selection


def write_report(comparisons: list[Comparison], folder: Path) -> list[Path]:
    """Write ``table.*`` in every format, and PNG and SVG of the weights and of each judging: ``judge-<bench>``."""
    from harness.files import write_text
    from leaderboards.exports import render
    from leaderboards.figures import draw_judged, draw_weights, judged_panels, trajectories

    written = []
    for style, ending in ENDINGS.items():
        written.append(folder / f"table{ending}")
        write_text(written[-1], render(comparisons, style))
    trained = trajectories(comparisons[0])
    if trained:
        written += draw_weights(trained, folder / "weights")
    for bench, (title, panels) in judged_panels(comparisons[0]).items():
        written += draw_judged(title, panels, folder / f"judge-{bench.replace('.', '-')}")
    return written
