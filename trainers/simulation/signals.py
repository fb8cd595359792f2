"""The signals of a simulated training: each is the true value with noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from harness.errors import unknown
from trainers.mixing.base import Array, Floats, Ints
from trainers.simulation.worlds import DrawnWorld

PROBE, EMBEDDED = 100, 256  # examples per source that held-out signals and embeddings are averages of
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
        self._world, self._reference = world, reference
        self._noise = world.world.noise
        self._streams = {
            name: np.random.default_rng([*seed, number]) for number, name in enumerate(("fixed", *self._signals()))
        }
        fixed = self._streams["fixed"]
        skills = world.world.skills
        self._meaning = fixed.normal(size=(skills, EMBEDDING)) / np.sqrt(EMBEDDING)
        self._direction = fixed.normal(size=(skills, SKETCH)) / np.sqrt(SKETCH)
        self._embeddings = self._blur(fixed, world.first @ self._meaning, EMBEDDED)

    def observe(self, signals: Iterable[str], now: Snapshot) -> dict[str, Array]:
        """Return the signals by name.

        Raises:
            MoemixError: the simulation does not have a signal.
        """
        available = self._signals()
        for signal in signals:
            if signal not in available:
                raise unknown("signal of the simulation", signal, available)
        return {signal: available[signal](self._streams[signal], now) for signal in signals}

    def _signals(self) -> dict[str, Callable[[np.random.Generator, Snapshot], Array]]:
        return {
            "gate_load": self._gate_load,
            "train_loss": self._train_loss,
            "probe_loss": lambda rng, now: self._losses(rng, now, now.learned, self._probe()),
            "reference_loss": lambda rng, now: self._losses(rng, now, self._reference, self._probe()),
            "excess_loss": self._excess_loss,
            "embedding": lambda rng, now: self._embeddings.astype(np.float32),
            "gradient": self._gradient,
        }

    def _gate_load(self, rng: np.random.Generator, now: Snapshot) -> Ints:
        share = self._world.teaching(now.time) @ self._world.routing
        share = share * np.exp(rng.normal(size=share.shape) * self._sigma(now.drawn)[:, None])
        by_source = (share / share.sum(axis=2, keepdims=True)).transpose(1, 0, 2)
        tokens = np.rint(now.drawn * self._world.lengths).astype(np.int64)
        return rng.multinomial(tokens[:, None], by_source)

    def _train_loss(self, rng: np.random.Generator, now: Snapshot) -> Floats:
        return np.where(now.drawn > 0, self._losses(rng, now, now.learned, now.drawn), np.nan)

    def _excess_loss(self, rng: np.random.Generator, now: Snapshot) -> Floats:
        """Return E max(x, 0) of a token's excess x ~ N(mean excess, noise²), in closed form."""
        excess = self._world.skill_loss(now.learned) - self._world.skill_loss(self._reference)
        mean = self._world.teaching(now.time) @ excess
        mean = mean + rng.normal(size=len(mean)) * self._sigma(self._probe())
        if not self._noise:
            return np.maximum(mean, 0.0)
        z = mean / self._noise
        positive: Floats = mean * ndtr(z) + self._noise * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        return positive

    def _gradient(self, rng: np.random.Generator, now: Snapshot) -> NDArray[np.float32]:
        strength = -self._world.slope(now.learned) * self._world.scale
        gradient = (self._world.teaching(now.time) * strength) @ self._direction
        return self._blur(rng, gradient, np.maximum(now.drawn, 1)).astype(np.float32)

    # --- noise ---------------------------------------------------------------------------------------

    def _losses(self, rng: np.random.Generator, now: Snapshot, learned: Floats, examples: Ints) -> Floats:
        """Return each source's mean loss, times a factor whose logarithm has standard deviation noise / √examples."""
        loss = self._world.teaching(now.time) @ self._world.skill_loss(learned)
        sigma = self._sigma(examples)
        noisy: Floats = loss * np.exp(sigma * rng.normal(size=len(loss)) - sigma**2 / 2)
        return noisy

    def _blur(self, rng: np.random.Generator, vectors: Floats, examples: Ints | int) -> Floats:
        """Return vectors plus noise of their own length, times noise / √examples."""
        length = np.linalg.norm(vectors, axis=1) / np.sqrt(vectors.shape[1])
        spread = length * self._noise / np.sqrt(examples)
        blurred: Floats = vectors + rng.normal(size=vectors.shape) * spread[:, None]
        return blurred

    def _sigma(self, examples: Ints) -> Floats:
        sigma: Floats = self._noise / np.sqrt(np.maximum(examples, 1))
        return sigma

    def _probe(self) -> Ints:
        return np.full(len(self._world.names), PROBE)
