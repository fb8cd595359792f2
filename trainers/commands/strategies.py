"""``moemix strategies``: list the mixing strategies, and write the file of a new one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from trainers.mixing.registry import StrategyCard


@click.group(invoke_without_command=True)
@click.option("--format", "style", type=click.Choice(["table", "json", "markdown"]), default="table", show_default=True)
@click.pass_context
def strategies(context: click.Context, style: str) -> None:
    """List the mixing strategies: signals, what they need, options with defaults, source."""
    if context.invoked_subcommand is not None:
        return
    from tabulate import tabulate

    from trainers.mixing import plugin_faults, strategy_cards

    cards = strategy_cards()
    for fault in plugin_faults():
        click.echo(f"warning: {fault}", err=True)
    if style == "json":
        click.echo(json.dumps([dataclasses.asdict(card) for card in cards], indent=1, ensure_ascii=False))
        return
    if style == "markdown":
        click.echo(strategy_table(cards))
        return
    rows = [
        {
            "name": card.name,
            "what it does": card.summary,
            "signals": _signals(card),
            "weights scale": f"the {card.scales}",
            "needs": f"a finished {card.needs} run" if card.needs else "–",
            "defaults": _options(card.defaults),
            "source": card.source or "–",
        }
        for card in cards
    ]
    click.echo(
        tabulate(rows, headers="keys", tablefmt="simple_grid", maxcolwidths=[None, 32, 14, 7, 12, 18, 32])
        + "\n\nTo add your own, run `moemix strategies new NAME`, which writes a working file. Use it as"
        "\n`path/to/file.py:ClassName`, or install it with an entry point in the group `moemix.strategies`."
    )


_COSTS = {
    "gate_load": "gate load: nothing online, else a forward pass over the probe examples",
    "train_loss": "nothing",
    "probe_loss": "a forward pass over the probe examples",
    "excess_loss": "two forward passes over the probe examples, a second model in memory",
    "gradient": "a forward and backward pass over the probe examples, one gradient in memory",
    "reference_loss": "a forward pass of the reference model over the probe examples",
    "embedding": "all-MiniLM-L6-v2 over `embedding_examples` texts, cached for other runs",
}


def strategy_table(cards: Sequence[StrategyCard]) -> str:
    """Return the table of the documentation, in Markdown: signals, their cost, variant and source."""
    header = "| strategy | what it does | signals | what measuring costs | source and variant |"
    lines = [header, "|---|---|---|---|---|"]
    for card in cards:
        name = f"`{card.name}`" + (" (scales the loss)" if card.scales == "loss" else "")
        fields = (name, card.summary, _signals(card), _cost(card), card.source or "–")
        lines.append(f"| {' | '.join(field.replace('|', '¦') for field in fields)} |")
    return "\n".join(lines)


def _cost(card: StrategyCard) -> str:
    """Return what a strategy costs in addition to training, in words."""
    before = [f"before each update: {_COSTS[signal]}" for signal in card.signals if _COSTS[signal] != "nothing"]
    once = [f"once: {_COSTS[signal].removeprefix('gate load: nothing online, else ')}" for signal in card.at_start]
    first = [f"a finished `{card.needs}` run" if card.needs else ""]
    return "; ".join(filter(None, (*first, *once, *before))) or "nothing"


def _signals(card: StrategyCard) -> str:
    return ", ".join([*card.signals, *(f"{signal} (at the start)" for signal in card.at_start)]) or "–"


def _options(defaults: Mapping[str, object]) -> str:
    return "\n".join(f"{option}={value}" for option, value in defaults.items()) or "–"


@strategies.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("."), help="Folder.  [default: this one]"
)
def new(name: str, out: Path) -> None:
    """Write NAME.py with a working strategy, and test_NAME.py, which checks it."""
    from trainers.commands.strategy_template import class_name, write_strategy
    from trainers.mixing import strategy_names

    file, test = write_strategy(name, out, set(strategy_names()))
    click.echo(f"written: {file}\nwritten: {test}")
    click.echo(f"\ncheck:  pytest {test}\ntrain:  moemix train quickstart --strategy {file}:{class_name(name)}")
