"""Records of simulations: the world, and how each strategy did in it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from harness.records import Provenance, Record
from harness.schema import Strict


class SimulatedWorld(Strict):
    """A world in which strategies are simulated (the model is stated in ``docs/simulation.md``)."""

    name: str
    description: str = ""
    groups: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (4, 1, 1), min_length=1, description="sources by group; those of a group are redundant"
    )
    redundancy: float = Field(0.9, ge=0, le=1, description="share of what a source teaches that its whole group does")
    drift: float = Field(0.0, ge=0, le=1, description="share of what a source teaches that is replaced by the end")
    noise: float = Field(1.0, ge=0, description="how far off one example is; an average of c is off by noise / √c")
    skills: int = Field(12, ge=1, description="what there is to learn; the objective is the mean of their losses")
    examples_to_learn: float = Field(5000, gt=0, description="examples of a skill that begin to tell (median)")
    layers: int = Field(2, ge=1, description="MoE layers")
    experts: int = Field(8, ge=2)
    steps: int = Field(2000, ge=1)
    interval: int = Field(100, ge=1, description="steps between updates")
    batch: int = Field(128, ge=1, description="examples in a step")


class Estimate(Strict):
    """A mean over repeats and its standard error; the error is null where there was one repeat."""

    mean: float
    stderr: float | None


class SimulatedStrategy(Strict):
    """How a strategy did. Losses and regrets are in the objective's unit, nats."""

    label: str
    name: str
    options: dict[str, object]
    loss: Estimate = Field(description="the objective at the end of training")
    regret: Estimate = Field(description="that above the best fixed mix's; below zero where drift lets it win")
    regret_over_time: Estimate = Field(description="mean over training of the objective above the best fixed mix's")
    over_uniform: Estimate = Field(description="loss less that of uniform in the same worlds")
    variation: Estimate = Field(description="mean total variation of an update, ½ Σ |w' − w|")
    effective_sources: Estimate = Field(description="exp(entropy) of the weights, mean over training")
    smallest_weight: float = Field(description="of any source at any time in any repeat")
    seconds: float = Field(description="in the strategy's own functions, of one repeat")
    steps: tuple[int, ...] = Field(description="0 and the end of each stretch between updates")
    weights: tuple[tuple[float, ...], ...] = Field(description="in force in each stretch, of the first repeat")
    regrets: tuple[float, ...] = Field(description="at each of steps, mean over repeats")


class BestMix(Strict):
    """The best fixed mix of the first repeat's world."""

    weights: tuple[float, ...]
    loss: float
    gap: float = Field(description="no fixed mix has a loss below ``loss - gap``")


class Simulation(Record):
    """``simulation.json``: strategies in a simulated world."""

    world: SimulatedWorld
    seed: int
    repeats: int
    names: tuple[str, ...] = Field(description="sources; weights follow this order")
    groups: tuple[int, ...] = Field(description="the group of each source")
    best: BestMix
    strategies: tuple[SimulatedStrategy, ...] = Field(description="by regret, the least first")
    provenance: Provenance
