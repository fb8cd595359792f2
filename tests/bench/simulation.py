"""Every strategy in the simulated worlds: the rankings, and the tables of the pages that claim something of them.

A page marks a table with ``<!-- simulated: world, …; strategy, … -->`` in the line above it. This command fills such
tables in, so every claim about a simulation has its interval, and comes from the rankings beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.grid import Cell, Grid, Section, markdown_table, write
from harness.progress import progress
from tests.bench.report import options
from trainers.mixing import load_strategy, strategy_cards
from trainers.simulation.comparison import Simulation, compare
from trainers.simulation.figures import draw
from trainers.simulation.rankings import difference, draw_rankings, notes, rankings
from trainers.simulation.worlds import WORLDS, load_world

DOCS = Path(__file__).parents[2] / "docs"
OUT = DOCS / "results" / "simulation"
REPEATS, SEED = 32, 0
# Drawn worlds; the measured one is on the landscape's page. The hundred sources of `many` take longer than the others.
NAMES = [name for name, world in WORLDS.items() if name != "many" and not world.measured]
MARK = re.compile(r"(<!-- simulated: ([^;]*); ([^-]*) -->\n)((?:\|.*\n)*)")


def main() -> None:
    given = options()
    rules = {card.name: load_strategy(card.name) for card in strategy_cards() if card.trains and not card.required}
    repeats = 2 if given.quick else REPEATS
    simulations = []
    with progress("simulate", len(rules) * repeats * len(NAMES)) as bar:
        for name in NAMES:
            simulations.append(compare(rules, load_world(name, {}), SEED, repeats, bar.advance))
    publish(simulations, quick=given.quick)


def publish(simulations: list[Simulation], *, quick: bool = False) -> None:
    """Write the rankings, the pictures and the tables of the pages; with ``quick``, print the rankings alone."""
    section = Section("Strategies across simulated worlds", rankings(simulations), tuple(notes(simulations)))
    command = "moemix simulate --all" + "".join(f" --world {found.world.name}" for found in simulations)
    made = f"\nMade by `make bench BENCH=simulation`; `{command}` makes it too.\n"
    text = write([section], "markdown") + made
    print(text)
    if quick:
        return
    (OUT / "rankings.md").write_text(text, encoding="utf-8")
    draw_rankings(simulations, OUT / "rankings")
    draw(simulations[0], OUT)
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = MARK.sub(lambda found: found[1] + claim(simulations, found[2], found[3]), old)
        if new != old:
            page.write_text(new, encoding="utf-8")


def claim(simulations: list[Simulation], worlds: str, strategies: str) -> str:
    """Return a table of a page: a row per world, a column per strategy."""
    by_name = {found.world.name: found for found in simulations}
    labels = [label.strip() for label in strategies.split(",")]
    rows = [
        [world, *(Cell(difference(by_name[world], label)) for label in labels)]
        for world in (each.strip() for each in worlds.split(","))
    ]
    return markdown_table(Grid(("world", *labels), rows)) + "\n"


if __name__ == "__main__":
    main()
