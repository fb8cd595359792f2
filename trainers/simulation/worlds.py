"""Simulated worlds: by name, and drawn: what sources teach, how skills are learned, and how good a model is.

Shapes: K sources, M skills, L layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from harness.errors import unknown
from harness.schema import Strict, parse
from trainers.mixing.base import Floats, Ints

MEASURED = Path(__file__).with_name("quickstart.json")
DRAWN = ("redundancy", "drift", "examples_to_learn", "routing", "profile")  # keys that only say how a world is drawn
FIXED = {*DRAWN, "groups", "skills", "layers", "experts"}  # keys of a measured world that cannot be changed


class Measured(Strict):
    """What is known of a world instead of drawn, because it was fitted to trained models.

    Shapes are those of :class:`DrawnWorld`; M = K.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...] = Field(description="examples of each source")
    lengths: tuple[float, ...] = Field(description="tokens of an example")
    teaching: tuple[tuple[float, ...], ...]
    routing: tuple[tuple[tuple[float, ...], ...], ...]
    floor: tuple[float, ...]
    gain: tuple[float, ...]
    scale: tuple[float, ...]
    power: tuple[float, ...]


class World(Strict):
    """A world in which strategies are simulated (the model is stated in ``docs/simulation.md``)."""

    name: str
    description: str = ""
    groups: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (4, 1, 1), min_length=1, description="sources in each group; those of one group are redundant"
    )
    redundancy: float = Field(0.9, ge=0, le=1, description="share of what a source teaches that its whole group does")
    drift: float = Field(0.0, ge=0, le=1, description="share of what a source teaches that is replaced by the end")
    noise: float = Field(1.0, ge=0, description="error of one example; an average of c has an error of noise / √c")
    skills: int = Field(12, ge=1, description="what there is to learn; the objective is the mean of their losses")
    examples_to_learn: float = Field(5000, gt=0, description="examples until a skill improves noticeably (median)")
    layers: int = Field(2, ge=1, description="MoE layers")
    experts: int = Field(8, ge=2)
    routing: float = Field(0.3, gt=0, description="Dirichlet concentration of a skill's experts; large: all are alike")
    routing_kept: float = Field(1.0, gt=0, le=1, description="part of the differences between loads left at the end")
    profile: float = Field(0.3, gt=0, description="Dirichlet concentration of what a source teaches; small: few skills")
    steps: int = Field(2000, ge=1)
    interval: int = Field(100, ge=1, description="steps between updates")
    batch: int = Field(128, ge=1, description="examples in a step")
    measured: Measured | None = Field(None, description="what is not drawn, but fitted to trained models")

    @model_validator(mode="after")
    def _nothing_measured_is_drawn(self) -> World:
        if self.measured is None:
            return self
        count, skills, layers = len(self.measured.names), len(self.measured.floor), len(self.measured.routing)
        shape = {"groups": (1,) * count, "skills": skills, "layers": layers,
                 "experts": len(self.measured.routing[0][0])}  # fmt: skip
        for key, value in {**shape, **{key: World.model_fields[key].default for key in DRAWN}}.items():
            if getattr(self, key) != value:
                raise ValueError(f"`{key}` is measured in this world, and cannot be changed")
        return self


def learning_curve(learned: Floats, floor: Floats, gain: Floats, scale: Floats, power: Floats) -> Floats:
    """Return ε + β (1 + n/ν)^−α, a power law in the n examples that taught each skill."""
    loss: Floats = floor + gain * (1.0 + learned / scale) ** -power
    return loss


WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        World(name="redundant", description="six sources, four of which are almost the same"),
        World(name="alike", description="as `redundant`, but all skills are routed much alike", routing=30.0),
        World(name="independent", description="four sources that share nothing", groups=(1, 1, 1, 1)),
        World(name="drifting", description="what the sources teach changes during training", drift=0.8),
        World(name="noisy", description="small batches and very noisy observations", noise=4.0, batch=8),
        World(
            name="paper",
            description="four sources; gate loads as far apart as LLaMA-MoE's, which approach each other as published",
            groups=(1, 1, 1, 1),
            layers=1,
            routing=0.78,
            routing_kept=1 / 9,
        ),
        World(
            name="many",
            description="a hundred sources in eight groups, the largest of forty",
            groups=(40, 25, 15, 10, 5, 3, 1, 1),
            skills=40,
            experts=64,
        ),
        World.model_validate_json(MEASURED.read_text(encoding="utf-8")),
    )
}


def load_world(name: str, changes: dict[str, object]) -> World:
    """Return a world by name, with keys replaced.

    Raises:
        MoemixError: there is no such world or key, or a key does not accept the value.
    """
    if name not in WORLDS:
        raise unknown("world", name, WORLDS)
    return parse(World, {**WORLDS[name].model_dump(mode="json"), **changes}, where=f"world {name}")


@dataclass(frozen=True)
class DrawnWorld:
    """A world with all its random quantities.

    Attributes:
        world: what it was drawn from.
        names: K source names, sorted: a letter for the group, then a number.
        group: i64[K], the group of each source.
        sizes: i64[K], examples.
        lengths: f64[K], tokens in an example.
        first, last: f64[K, M], what an example of each source teaches at the beginning and, with a drift of 1, at the
            end; rows sum to 1.
        routing: f64[L, M, E], where the tokens of a skill are routed at the beginning; rows sum to 1.
        floor, gain, scale, power: f64[M], the parameters of the skills' learning curves (:meth:`skill_loss`).
        aim: f64[M], what each skill counts in the objective; sums to 1.
    """

    world: World
    names: tuple[str, ...]
    group: Ints
    sizes: Ints
    lengths: Floats
    first: Floats
    last: Floats
    routing: Floats
    floor: Floats
    gain: Floats
    scale: Floats
    power: Floats
    aim: Floats

    @classmethod
    def draw(cls, world: World, rng: np.random.Generator) -> DrawnWorld:
        """Draw all random quantities of a world; of one that was measured there are none."""
        if world.measured is not None:
            return cls._of(world, world.measured)
        sizes = np.array(world.groups)
        group = np.repeat(np.arange(len(sizes)), sizes)
        count, skills = len(group), world.skills

        def teaching() -> Floats:
            shared = rng.dirichlet(np.full(skills, world.profile), len(sizes))
            own = rng.dirichlet(np.full(skills, world.profile), count)
            return world.redundancy * shared[group] + (1.0 - world.redundancy) * own

        return cls(
            world=world,
            names=_names(group),
            group=group,
            sizes=np.exp(rng.normal(np.log(10_000), 1.0, count)).astype(np.int64) + 1,
            lengths=np.exp(rng.normal(np.log(200), 0.5, count)),
            first=teaching(),
            last=teaching(),
            routing=rng.dirichlet(np.full(world.experts, world.routing), (world.layers, skills)),
            floor=rng.uniform(0.2, 0.8, skills),
            gain=rng.uniform(1.0, 3.0, skills),
            scale=np.exp(rng.normal(np.log(world.examples_to_learn), 0.5, skills)),
            power=rng.uniform(0.3, 0.8, skills),
            aim=np.full(skills, 1.0 / skills),
        )

    @classmethod
    def _of(cls, world: World, measured: Measured) -> DrawnWorld:
        """Return a measured world. Its objective is the mean of the sources' losses."""
        teaching, routing = (
            shares / shares.sum(axis=-1, keepdims=True)  # the file has them rounded
            for shares in (np.array(measured.teaching), np.array(measured.routing))
        )
        sizes, lengths = np.array(measured.sizes), np.array(measured.lengths)
        return cls(
            world=world,
            names=measured.names,
            group=np.arange(len(sizes)),
            sizes=sizes,
            lengths=lengths,
            first=teaching,
            last=teaching,
            routing=routing,
            floor=np.array(measured.floor),
            gain=np.array(measured.gain),
            scale=np.array(measured.scale),
            power=np.array(measured.power),
            aim=teaching.mean(axis=0),
        )

    def teaching(self, time: float) -> Floats:
        """Return what an example teaches at ``time``, from 0 (start) to 1 (end), f64[K, M]."""
        share = self.world.drift * time
        return (1.0 - share) * self.first + share * self.last

    def routing_at(self, time: float) -> Floats:
        """Return where a skill's tokens are routed at ``time``, f64[L, M, E]: nearer to their mean as time passes."""
        mean: Floats = self.routing.mean(axis=1, keepdims=True)
        kept: float = self.world.routing_kept**time
        return mean + kept * (self.routing - mean)

    def exposure(self) -> Floats:
        """Return what a whole training on each source alone teaches, f64[K, M]. Drift is linear: its mean is at 1/2."""
        return self.world.steps * self.world.batch * self.teaching(0.5)

    def skill_loss(self, learned: Floats) -> Floats:
        """Return the loss of each skill after so many examples of it, f64[M]."""
        return learning_curve(learned, self.floor, self.gain, self.scale, self.power)

    def slope(self, learned: Floats) -> Floats:
        """Return the derivative of :meth:`skill_loss`, f64[M]: negative, rising to 0."""
        ratio = self.power / self.scale
        return -self.gain * ratio * (1.0 + learned / self.scale) ** (-self.power - 1.0)

    def objective(self, learned: Floats) -> float:
        """Return the mean of the skills' losses, in which each counts what ``aim`` says."""
        return float(self.aim @ self.skill_loss(learned))


def _names(group: Ints) -> tuple[str, ...]:
    """Return ``a1, a2, b1, …``, padded so that their order is alphabetical."""
    groups, counts = int(group.max()) + 1, np.bincount(group)
    letters = [chr(ord("a") + g) for g in range(groups)] if groups <= 26 else [f"g{g:04}_" for g in range(groups)]
    width = len(str(counts.max()))
    return tuple(f"{letters[g]}{i + 1:0{width}}" for g in range(groups) for i in range(counts[g]))
