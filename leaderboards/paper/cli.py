"""``moemix paper``: the paper's tables and figures, ours beside the published; and the runs they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.grid import ENDINGS, Grid, terminal_table
from harness.options import executor_options, executor_settings, recipe_options

if TYPE_CHECKING:
    from leaderboards.paper.runs import Experiments

TABLES = tuple(f"table{number}" for number in range(1, 11))
FIGURES = tuple(f"figure{number}" for number in range(2, 9))


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--runs", metavar="DIR", help="The run store; the same as --store."),
        click.option("--preset", type=click.Choice(["mini", "smol", "full"]), default="mini", show_default=True,
                     help="The scale: the quickstart's world, a small real model, or the paper's setting."),
    ):  # fmt: skip
        command = option(command)
    return recipe_options(command)


class PaperGroup(click.Group):
    """``list``, ``run``, ``report``, and one command for each table and figure."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *TABLES, *FIGURES]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in TABLES or cmd_name in FIGURES:
            return _shown(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        from harness.errors import nearest

        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            known = self.list_commands(ctx)
            raise click.UsageError(f"no table, figure or command {args[0]!r}; {nearest(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=PaperGroup)
def paper() -> None:
    """The tables and figures of Zhu et al. (NAACL 2025): ours beside the published figures.

    `moemix paper list` tells what there is; `moemix paper run NAME...` makes the runs; `moemix paper NAME` shows.
    """


def experiments(
    preset: str, runs: str | None, store: str | None, root: str | None, overrides: tuple[str, ...]
) -> Experiments:
    from harness.store import Store, data_root, store_root
    from leaderboards.paper.presets import preset as find
    from leaderboards.paper.runs import open_experiments

    return open_experiments(find(preset), Store(store_root(runs or store)), data_root(root), overrides)


@paper.command("list")
@shared_options
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
def list_all(
    preset: str, runs: str | None, store: str | None, data_root: str | None, overrides: tuple[str, ...], style: str
) -> None:
    """List the tables and figures, and how many of the runs that each needs are there."""
    import json

    from leaderboards.paper.targets import needs, title

    found = experiments(preset, runs, store, data_root, overrides)
    rows = []
    for name in (*TABLES, *FIGURES):
        jobs = found.jobs(needs(name)) if found.plan else ()
        rows.append({"name": name, "title": title(name), "done": sum(job.done for job in jobs), "jobs": len(jobs)})
    if style == "json":
        click.echo(json.dumps(rows, indent=1))
        return
    lines = [[r["name"], r["title"], f"{r['done']} of {r['jobs']} done" if r["jobs"] else "no runs here"] for r in rows]
    click.echo(terminal_table(Grid(["name", "shows", f"jobs of preset {preset}"], lines)))
    if found.plan is None:
        click.echo(f"\nPreset {preset} cannot be planned here: {found.problem}", err=True)


@paper.command("run")
@click.argument("names", nargs=-1, required=True, metavar="NAME...|all")
@shared_options
@executor_options
def run(
    names: tuple[str, ...],
    preset: str,
    runs: str | None,
    store: str | None,
    data_root: str | None,
    overrides: tuple[str, ...],
    executor: str | None,
    jobs: int | None,
) -> int:
    """Make the runs that tables and figures need, `all` for all of them. Resumes; what is there is kept."""
    return conduct_for(names, preset, runs, store, data_root, overrides + executor_settings(executor, jobs))


def conduct_for(
    names: tuple[str, ...],
    preset: str,
    runs: str | None,
    store: str | None,
    root: str | None,
    overrides: tuple[str, ...],
) -> int:
    from harness.conductor import conduct
    from harness.errors import unknown
    from leaderboards.paper.runs import restricted
    from leaderboards.paper.targets import needs

    for name in names:
        if name not in (*TABLES, *FIGURES, "all"):
            raise unknown("table or figure", name, (*TABLES, *FIGURES, "all"))
    wanted = (*TABLES, *FIGURES) if "all" in names else names
    found = experiments(preset, runs, store, root, overrides)
    jobs = found.jobs(need for name in wanted for need in needs(name))
    assert found.plan is not None
    outcome = conduct(restricted(found.plan, jobs))
    return 1 if outcome.failed else 0


@paper.command("report")
@shared_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="paper-report", show_default=True,
              help="Folder of the report: report.md, index.html, and every table and figure by itself.")  # fmt: skip
@click.option("--markdown", "single", type=click.Path(path_type=Path, dir_okay=False),
              help="Also write the report to this one file, its figures in a folder beside it.")  # fmt: skip
def report(
    preset: str,
    runs: str | None,
    store: str | None,
    data_root: str | None,
    overrides: tuple[str, ...],
    out: Path,
    single: Path | None,
) -> None:
    """Write every table and figure as one browsable report."""
    from leaderboards.paper.report import write_report

    for path in write_report(experiments(preset, runs, store, data_root, overrides), out, single):
        click.echo(f"written: {path}", err=True)


def _shown(name: str) -> click.Command:
    """The command of one table or figure."""
    from leaderboards.paper.targets import title

    @click.command(name, help=f"{title(name)}, ours beside the published.")
    @shared_options
    @executor_options
    @click.option("--run", "make", is_flag=True, help="First make the runs that are missing.")
    @click.option("--format", "style", type=click.Choice(list(ENDINGS)),
                  help="[default: by the ending of --out, or terminal]")  # fmt: skip
    @click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
                  help="Write here instead; a figure to .png, .pdf or .svg.")  # fmt: skip
    def show(
        preset: str,
        runs: str | None,
        store: str | None,
        data_root: str | None,
        overrides: tuple[str, ...],
        executor: str | None,
        jobs: int | None,
        make: bool,
        style: str | None,
        out: Path | None,
    ) -> int:
        from harness.files import write_text
        from leaderboards.paper.targets import draw, render

        status = 0
        if make:
            settings = overrides + executor_settings(executor, jobs)
            status = conduct_for((name,), preset, runs, store, data_root, settings)
        found = experiments(preset, runs, store, data_root, overrides)
        chosen = style or next((key for key, ending in ENDINGS.items() if out and out.suffix == ending), "terminal")
        if out is None:
            click.echo(render(name, found, chosen), nl=False)
            return status
        if name in FIGURES and out.suffix in (".png", ".pdf", ".svg"):
            draw(name, found, out)
        else:
            write_text(out, render(name, found, chosen))
        click.echo(f"written: {out}", err=True)
        return status

    return show
