"""The signals of a simulated training: each invents its values from the true state of the world."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trainers.mixing.base import Array, Floats, Ints
from trainers.plugins import SIGNALS, situation
from trainers.simulation.worlds import DrawnWorld

PROBE = 100  # examples per source that held-out signals are averages of
SKETCH, EMBEDDING = 64, 32  # dimensions of gradients and embeddings


@dataclass(frozen=True)
class Snapshot:
    """The state of a training when it is observed.

    Attributes:
        time: 0 at the start, 1 at the end.
        learned: f64[M], the examples that have taught each skill.
        drawn: i64[K], the examples of each source since the last update; before the first step, those of a probe.
    """

    time: float
    learned: Floats
    drawn: Ints


class Observer:
    """Draws signals. Every signal has its own random stream, so that all strategies see the same noise.

    Args:
        world: the world that is observed.
        reference: f64[M], the skills of the reference model.
        seed: the seed of the noise.
    """

    def __init__(self, world: DrawnWorld, reference: Floats, seed: Iterable[int]) -> None:
        self._world, self._seed = world, tuple(seed)
        self._reference = world.skill_loss(reference)
        self._streams: dict[str, np.random.Generator] = {}
        self._before = 0.0, world.teaching(0.0) @ world.skill_loss(np.zeros(world.world.skills))  # time, losses
        fixed, skills = np.random.default_rng([*self._seed, 0]), world.world.skills
        self._meaning = fixed.normal(size=(skills, EMBEDDING)) / np.sqrt(EMBEDDING)
        self._direction = fixed.normal(size=(skills, SKETCH)) / np.sqrt(SKETCH)

    def observe(self, signals: Iterable[str], now: Snapshot) -> dict[str, Array]:
        """Return the signals by name.

        Raises:
            MoemixError: there is no such signal, or it does not say how to invent values.
        """
        world, teaching = self._world, self._world.teaching(now.time)
        strength = -world.slope(now.learned) * world.scale
        loss = teaching @ world.skill_loss(now.learned)
        steps = max(1.0, (now.time - self._before[0]) * world.world.steps)
        progress = (self._before[1] - loss) / steps
        self._before = now.time, loss
        true = {
            "drawn": now.drawn,
            "lengths": world.lengths,
            "held_out": PROBE,
            "noise": world.world.noise,
            "loss": loss,
            "progress": progress,
            "reference_loss": teaching @ self._reference,
            "load": (teaching @ world.routing_at(now.time)).transpose(1, 0, 2),
            "meaning": world.first @ self._meaning,
            "gradient": (teaching * strength) @ self._direction,
            # The one target set is what the objective counts: all skills alike.
            "target_loss": np.array([world.objective(now.learned)]),
            "target_gradient": (strength @ self._direction)[None] / world.world.skills,
        }
        found = {}
        for field in signals:
            own = self._streams.setdefault(field, np.random.default_rng([*self._seed, 1, *field.encode()]))
            constant = np.random.default_rng([*self._seed, 2, *field.encode()])
            found[field] = SIGNALS.find(field).invent(situation(own, constant, **true))
        return found
