"""The worlds that strategies are simulated in, by name, and how one is changed."""

from __future__ import annotations

from typing import Any

from harness.errors import unknown
from harness.schema import parse
from trainers.simulation.records import SimulatedWorld

World = SimulatedWorld

WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        World(name="redundant", description="six sources, of which four say almost the same"),
        World(name="independent", description="four sources, each a thing of its own", groups=(1, 1, 1, 1)),
        World(name="drifting", description="what the sources have to teach changes while training goes on", drift=0.8),
        World(name="noisy", description="small batches whose every observation is far off", noise=4.0, batch=8),
        World(
            name="many",
            description="a hundred sources in eight groups, the largest of forty",
            groups=(40, 25, 15, 10, 5, 3, 1, 1),
            skills=40,
            experts=64,
        ),
    )
}


def load_world(name: str, changes: dict[str, Any]) -> World:
    """A world by name, with keys replaced.

    Raises:
        MoemixError: no such world or key, or a value that the key cannot take.
    """
    if name not in WORLDS:
        raise unknown("world", name, WORLDS)
    return parse(World, {**WORLDS[name].model_dump(mode="json"), **changes}, where=f"world {name}")
