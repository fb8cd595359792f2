"""What is true in a simulated world: what sources teach, how skills are learnt, and how good a model is.

Shapes: K sources, M skills, L layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Floats, Ints
from trainers.simulation.worlds import World

PROFILE, ROUTING = 0.3, 0.3  # concentrations of what a source teaches and of where a skill's tokens go: both sparse


@dataclass(frozen=True)
class Ground:
    """A world as it was drawn.

    Attributes:
        world: what it was drawn from.
        names: K source names, sorted: a letter for the group, then a number.
        group_K: i64[K], the group of each source.
        sizes_K: i64[K], examples.
        lengths_K: f64[K], tokens in an example.
        first_KM, last_KM: f64[K, M], what an example of each source teaches at the beginning and, drift being 1, at
            the end; rows sum to 1.
        routing_LME: f64[L, M, E], where a token that is about a skill is routed; rows sum to 1.
        floor_M, gain_M, scale_M, power_M: of the skills' learning curves (:meth:`skill_loss`).
    """

    world: World
    names: tuple[str, ...]
    group_K: Ints
    sizes_K: Ints
    lengths_K: Floats
    first_KM: Floats
    last_KM: Floats
    routing_LME: Floats
    floor_M: Floats
    gain_M: Floats
    scale_M: Floats
    power_M: Floats

    @classmethod
    def draw(cls, world: World, rng: np.random.Generator) -> Ground:
        sizes = np.array(world.groups)
        group_K = np.repeat(np.arange(len(sizes)), sizes)
        count, skills = len(group_K), world.skills

        def teaching() -> Floats:
            shared_GM = rng.dirichlet(np.full(skills, PROFILE), len(sizes))
            own_KM = rng.dirichlet(np.full(skills, PROFILE), count)
            return world.redundancy * shared_GM[group_K] + (1.0 - world.redundancy) * own_KM

        return cls(
            world=world,
            names=_names(group_K),
            group_K=group_K,
            sizes_K=np.exp(rng.normal(np.log(10_000), 1.0, count)).astype(np.int64) + 1,
            lengths_K=np.exp(rng.normal(np.log(200), 0.5, count)),
            first_KM=teaching(),
            last_KM=teaching(),
            routing_LME=rng.dirichlet(np.full(world.experts, ROUTING), (world.layers, skills)),
            floor_M=rng.uniform(0.2, 0.8, skills),
            gain_M=rng.uniform(1.0, 3.0, skills),
            scale_M=np.exp(rng.normal(np.log(world.examples_to_learn), 0.5, skills)),
            power_M=rng.uniform(0.3, 0.8, skills),
        )

    def teaching_KM(self, time: float) -> Floats:
        """f64[K, M], what an example teaches at ``time``, from 0 (begin) to 1 (end)."""
        share = self.world.drift * time
        return (1.0 - share) * self.first_KM + share * self.last_KM

    def skill_loss(self, learnt_M: Floats) -> Floats:
        """ε + β (1 + n/ν)^−α: a power law in the n examples that taught the skill."""
        return self.floor_M + self.gain_M * (1.0 + learnt_M / self.scale_M) ** -self.power_M

    def slope(self, learnt_M: Floats) -> Floats:
        """The derivative of :meth:`skill_loss`: negative, rising to 0."""
        ratio_M = self.power_M / self.scale_M
        return -self.gain_M * ratio_M * (1.0 + learnt_M / self.scale_M) ** (-self.power_M - 1.0)

    def objective(self, learnt_M: Floats) -> float:
        """How good the model is: the mean of the skills' losses. All count alike, however often they are taught."""
        return float(self.skill_loss(learnt_M).mean())


def _names(group_K: Ints) -> tuple[str, ...]:
    """``a1, a2, b1, …``, padded so that their order is alphabetical."""
    groups, counts = int(group_K.max()) + 1, np.bincount(group_K)
    letters = [chr(ord("a") + g) for g in range(groups)] if groups <= 26 else [f"g{g:04}_" for g in range(groups)]
    width = len(str(counts.max()))
    return tuple(f"{letters[g]}{i + 1:0{width}}" for g in range(groups) for i in range(counts[g]))
