"""``moemix paper``: the paper's tables and figures with our results, and the runs that they need."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from harness.grid import ENDINGS, Grid, json_text, terminal_table
from harness.options import executor_options, executor_settings, format_option, recipe_options

if TYPE_CHECKING:
    from leaderboards.paper.runs import Experiments

TABLES = tuple(f"table{number}" for number in range(1, 11))
FIGURES = tuple(f"figure{number}" for number in range(2, 9))
T = TypeVar("T")


def on_experiments(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options of a preset and its store; the command gets an :class:`Experiments` in their place."""

    @recipe_options
    @click.option("--preset", type=click.Choice(["mini", "smol", "full"]), default="mini", show_default=True,
                  help="The scale: the quickstart's world, a small real model, or the paper's setting.")  # fmt: skip
    @click.option("--runs", metavar="DIR", help="The run store; the same as --store.")
    @functools.wraps(command)
    def opened(
        *, preset: str, runs: str | None, store: str | None, data_root: str | None, overrides: tuple[str, ...],
        executor: str | None = None, jobs: int | None = None, **options: object,
    ) -> T:  # fmt: skip
        from harness.store import Store, store_root
        from harness.store import data_root as find_data_root
        from leaderboards.paper.presets import PRESETS
        from leaderboards.paper.runs import open_experiments

        overrides += executor_settings(executor, jobs)
        where = Store(store_root(runs or store))
        experiments = open_experiments(PRESETS[preset], where, find_data_root(data_root), overrides)
        return command(experiments, **options)

    return opened


class PaperGroup(click.Group):
    """``list``, ``run``, ``report``, and one command for each table and figure."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every command, table and figure."""
        return [*self.commands, *TABLES, *FIGURES]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; that of a table or figure is made when it is asked for."""
        if cmd_name in TABLES or cmd_name in FIGURES:
            return _shown(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the arguments, or name the nearest one."""
        from harness.errors import nearest

        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            known = self.list_commands(ctx)
            raise click.UsageError(f"no table, figure or command {args[0]!r}; {nearest(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=PaperGroup)
def paper() -> None:
    """Show the tables and figures of Zhu et al. (NAACL 2025): our results beside the published figures.

    `moemix paper list` lists them; `moemix paper run NAME...` makes the runs; `moemix paper NAME` shows the result.
    """


@paper.command("list")
@on_experiments
@format_option
def list_all(experiments: Experiments, style: str) -> None:
    """List the tables and figures, and how many of the jobs that each needs are done."""
    from leaderboards.paper.rendering import needs, title

    rows = []
    for name in (*TABLES, *FIGURES):
        jobs = experiments.jobs(needs(name)) if experiments.plan else ()
        rows.append((name, title(name), sum(job.done for job in jobs), len(jobs)))
    if style == "json":
        click.echo(
            json_text([dict(zip(("name", "title", "done", "jobs"), row, strict=True)) for row in rows]), nl=False
        )
        return
    preset = experiments.preset.name
    cells = [[name, shows, f"{done} of {of} done" if of else "no runs here"] for name, shows, done, of in rows]
    click.echo(terminal_table(Grid(["name", "shows", f"jobs of preset {preset}"], cells)))
    if experiments.plan is None:
        click.echo(f"\nPreset {preset} cannot be planned here: {experiments.problem}", err=True)


@paper.command("run")
@click.argument("names", nargs=-1, required=True, metavar="NAME...|all", callback=lambda *given: _known(given[-1]))
@on_experiments
@executor_options
def run(experiments: Experiments, names: tuple[str, ...]) -> int:
    """Make the runs that tables and figures need, `all` for all of them. Resumes; finished runs are kept."""
    return make_runs(experiments, names)


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check names before anything is planned, for which data may have to be made."""
    from harness.errors import unknown

    for name in names:
        if name not in (*TABLES, *FIGURES, "all"):
            raise unknown("table or figure", name, (*TABLES, *FIGURES, "all"))
    return names


def make_runs(experiments: Experiments, names: tuple[str, ...]) -> int:
    """Run every job that tables and figures need; return the exit status.

    Raises:
        MoemixError: there is no table or figure of a name, or the recipe cannot be planned here.
    """
    from harness.conductor import conduct
    from leaderboards.paper.rendering import needs

    wanted = (*TABLES, *FIGURES) if "all" in _known(names) else names
    jobs = experiments.jobs(need for name in wanted for need in needs(name))
    assert experiments.plan is not None  # or `jobs` would have raised
    return 1 if conduct(dataclasses.replace(experiments.plan, jobs=jobs)).failed else 0


@paper.command("report")
@on_experiments
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="paper-report", show_default=True,
              help="Folder of the report: report.md, index.html, and every table and figure by itself.")  # fmt: skip
@click.option("--markdown", "single", type=click.Path(path_type=Path, dir_okay=False),
              help="Also write the report to this one file, its figures in a folder beside it.")  # fmt: skip
def report(experiments: Experiments, out: Path, single: Path | None) -> None:
    """Write every table and figure as one browsable report."""
    from leaderboards.paper.report import write_report

    for path in write_report(experiments, out, single):
        click.echo(f"written: {path}", err=True)


def _shown(name: str) -> click.Command:
    """Make the command of one table or figure."""
    from leaderboards.paper.rendering import title

    @click.command(name, help=f"{title(name)}: our results beside the published figures.")
    @on_experiments
    @executor_options
    @click.option("--run", "make", is_flag=True, help="First make the runs that are missing.")
    @click.option("--format", "style", type=click.Choice(list(ENDINGS)),
                  help="[default: by the ending of --out, or terminal]")  # fmt: skip
    @click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
                  help="Write here instead; a figure to .png, .pdf or .svg.")  # fmt: skip
    def show(experiments: Experiments, make: bool, style: str | None, out: Path | None) -> int:
        from harness.files import write_text
        from leaderboards.paper.rendering import draw, render

        status = make_runs(experiments, (name,)) if make else 0
        chosen = style or next((key for key, ending in ENDINGS.items() if out and out.suffix == ending), "terminal")
        if out is None:
            click.echo(render(name, experiments, chosen), nl=False)
            return status
        if name in FIGURES and out.suffix in (".png", ".pdf", ".svg"):
            draw(name, experiments, out)
        else:
            write_text(out, render(name, experiments, chosen))
        click.echo(f"written: {out}", err=True)
        return status

    return show
