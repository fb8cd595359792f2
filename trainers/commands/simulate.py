"""``moemix simulate``: strategies in a simulated world, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import MoemixError, StageError, nearest

if TYPE_CHECKING:
    from trainers.mixing import MixingStrategy
    from trainers.simulation.comparison import Simulation


@click.command()
@click.argument("strategies", nargs=-1, metavar="[STRATEGY...]")
@click.option("--all", "every", is_flag=True, help="Every strategy that `moemix strategies` lists.")
@click.option(
    "--world", "worlds", metavar="NAME", multiple=True, default=("redundant",), show_default=True,
    help="A world of docs/simulation.md. Repeat it, or give `all`, to rank the strategies across worlds.",
)  # fmt: skip
@click.option(
    "--set", "changes", metavar="KEY=VALUE", multiple=True,
    help="Change a key of the world (`redundancy=0.5`) or an option of a strategy (`dynamic.eta=5`).",
)  # fmt: skip
@click.option(
    "--routing", type=click.FloatRange(min=0, min_open=True), metavar="X",
    help="How alike the experts of all skills are: small, each skill has its own; large, all share. Same as --set"
    " routing=X.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Optimizer steps; same as --set steps=N.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of worlds, draws and noise."
)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=32, show_default=True, help="Number of worlds to average over."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("simulation"), show_default=True,
    help="Folder for simulation.json and its figures; with several worlds, for rankings.md and rankings.png too.",
)  # fmt: skip
def simulate(
    strategies: tuple[str, ...],
    every: bool,
    worlds: tuple[str, ...],
    changes: tuple[str, ...],
    routing: float | None,
    steps: int | None,
    seed: int,
    repeats: int,
    out: Path,
) -> None:
    """Run STRATEGY… in simulated worlds with known redundancy, drift and noise; nothing is trained.

    Prints the regret against the best fixed mix and how stable the weights are, and draws weights over time.
    """
    if bool(strategies) == every:
        raise click.UsageError("name strategies, or give --all")
    from harness.progress import progress
    from trainers.simulation.comparison import compare, table
    from trainers.simulation.figures import draw
    from trainers.simulation.worlds import FIXED, WORLDS, load_world

    labels = _labels(strategies, every)
    world_changes, options = _sort(changes, labels)
    world_changes |= {key: value for key, value in (("steps", steps), ("routing", routing)) if value is not None}
    names = list(WORLDS) if "all" in worlds else list(dict.fromkeys(worlds))
    if "all" in worlds and (fixed := sorted(world_changes.keys() & FIXED)):
        measured = [name for name in names if WORLDS[name].measured]
        names = [name for name in names if name not in measured]
        click.echo(f"left out: {', '.join(measured)}, where `{fixed[0]}` is measured and cannot be changed", err=True)
    chosen = [load_world(name, world_changes) for name in names]
    rules = _rules(labels, options)
    simulations = []
    with progress("simulate", len(rules) * repeats * len(chosen)) as bar:
        for world in chosen:
            found = compare(rules, world, seed, repeats, bar.advance)
            simulations.append(found)
            for label, reason in found.failed.items():
                click.echo(f"warning: `{label}` could not be simulated in {world.name}: {reason}", err=True)
            if not found.strategies:
                raise StageError("no strategy could be simulated", hint="; ".join(found.failed.values()))
            folder = out / world.name if len(chosen) > 1 else out
            found.write(folder / "simulation.json")
            files = [folder / "simulation.json", *draw(found, folder)]
            if len(chosen) == 1:
                click.echo(table(found))
            for file in files:
                click.echo(f"written: {file}", err=True)
    if len(simulations) > 1:
        _rank(simulations, out)


def _rank(simulations: list[Simulation], out: Path) -> None:
    """Print and write how the strategies compare across worlds."""
    from harness.files import write_text
    from harness.grid import Section, write
    from trainers.simulation.rankings import draw_rankings, notes, rankings

    section = Section("Strategies across simulated worlds", rankings(simulations), tuple(notes(simulations)))
    click.echo(write([section], "terminal"))
    write_text(out / "rankings.md", write([section], "markdown"))
    for file in (out / "rankings.md", *draw_rankings(simulations, out / "rankings")):
        click.echo(f"written: {file}", err=True)


def _labels(strategies: tuple[str, ...], every: bool) -> dict[str, str]:
    """Return label → name. The label of a class in a file is the class's name alone, as in a recipe."""
    from trainers.mixing import strategy_cards

    if every:  # a strategy that requires an option cannot be simulated without one
        return {card.name: card.name for card in strategy_cards() if card.trains and not card.required}
    labels = {name.rpartition(":")[2]: name for name in strategies}
    if len(labels) < len(strategies):
        raise MoemixError(f"strategies must differ: {', '.join(strategies)}")
    return labels


def _sort(changes: tuple[str, ...], labels: dict[str, str]) -> tuple[dict[str, object], dict[str, dict[str, object]]]:
    """Return the ``--set`` values of the world, and those of each strategy."""
    from harness.recipe_file import parse_setting

    of_world: dict[str, object] = {}
    of_strategies: dict[str, dict[str, object]] = {}
    for change in changes:
        key, value = parse_setting(change)
        label, dot, option = key.rpartition(".")
        if not dot:
            of_world[option] = value
        elif label in labels:
            of_strategies.setdefault(label, {})[option] = value
        else:
            raise MoemixError(
                f"no strategy {label!r} is simulated", where=f"--set {change}", hint=nearest(label, labels)
            )
    return of_world, of_strategies


def _rules(labels: dict[str, str], options: dict[str, dict[str, object]]) -> dict[str, MixingStrategy]:
    from trainers.mixing import load_strategy

    rules = {label: load_strategy(name, **options.get(label, {})) for label, name in labels.items()}
    for label, rule in rules.items():
        if not rule.trains:
            raise MoemixError(f"`{label}` trains nothing, so there is nothing to simulate")
    return rules
