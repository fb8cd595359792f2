"""``moemix strategies``: what can be compared, what it needs, where it comes from."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click


@click.command()
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def strategies(style: str) -> None:
    """List the mixing strategies: signals, what they need, options with defaults, source."""
    from tabulate import tabulate

    from trainers.mixing import strategy_cards

    cards = strategy_cards()
    if style == "json":
        click.echo(json.dumps([dataclasses.asdict(card) for card in cards], indent=1, ensure_ascii=False))
        return
    rows = [
        {
            "name": card.name,
            "what it does": card.summary,
            "signals": ", ".join(card.signals) or "–",
            "needs": f"a finished {card.needs} run" if card.needs else "–",
            "defaults": _options(card.defaults),
            "source": card.source or "–",
        }
        for card in cards
    ]
    widths = [None, 34, 12, 14, 18, 34]
    click.echo(tabulate(rows, headers="keys", tablefmt="simple_grid", maxcolwidths=widths))
    click.echo(
        "\nYour own: name a file's class, `path/to/file.py:ClassName`, or install an entry point `moemix.strategies`."
    )


def _options(defaults: dict[str, Any]) -> str:
    return "\n".join(f"{option}={value}" for option, value in defaults.items()) or "–"
