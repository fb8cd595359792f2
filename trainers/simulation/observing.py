"""What a strategy gets to see of a simulated world: each signal drawn around what is true."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from harness.errors import unknown
from trainers.mixing.base import Floats, Ints
from trainers.simulation.ground import Ground

PROBE, EMBEDDED = 100, 256  # examples of a source that held-out signals and embeddings are averages of
SKETCH, EMBEDDING = 64, 32  # their dimensions


@dataclass(frozen=True)
class Moment:
    """Where training stands when it is observed.

    Attributes:
        time: 0 at the beginning, 1 at the end.
        learnt_M: f64[M], examples that have taught each skill.
        drawn_K: i64[K], examples of each source since the last update; before the first step, of a probe.
    """

    time: float
    learnt_M: Floats
    drawn_K: Ints


class Observer:
    """Draws signals; every signal from a stream of its own, so that strategies see the same noise.

    Args:
        reference_M: f64[M], the skills of the reference model.
        seed: of the noise.
    """

    def __init__(self, ground: Ground, reference_M: Floats, seed: Iterable[int]) -> None:
        self._ground, self._reference_M = ground, reference_M
        self._noise = ground.world.noise
        self._streams = {
            name: np.random.default_rng([*seed, number]) for number, name in enumerate(("fixed", *self._signals()))
        }
        fixed = self._streams["fixed"]
        skills = ground.world.skills
        self._meaning_MD = fixed.normal(size=(skills, EMBEDDING)) / np.sqrt(EMBEDDING)
        self._direction_MS = fixed.normal(size=(skills, SKETCH)) / np.sqrt(SKETCH)
        self._embedding_KD = self._blurred(fixed, ground.first_KM @ self._meaning_MD, EMBEDDED)

    def see(self, signals: Iterable[str], moment: Moment) -> dict[str, NDArray]:
        """The signals by name.

        Raises:
            MoemixError: a signal that the simulation does not have.
        """
        made = self._signals()
        for signal in signals:
            if signal not in made:
                raise unknown("signal of the simulation", signal, made)
        return {signal: made[signal](self._streams[signal], moment) for signal in signals}

    def _signals(self) -> dict[str, Callable[[np.random.Generator, Moment], NDArray]]:
        return {
            "gate_load": self._gate_load,
            "train_loss": self._train_loss,
            "probe_loss": self._probe_loss,
            "reference_loss": self._reference_loss,
            "excess_loss": self._excess_loss,
            "embedding": lambda rng, moment: self._embedding_KD.astype(np.float32),
            "gradient": self._gradient,
        }

    def _gate_load(self, rng: np.random.Generator, moment: Moment) -> Ints:
        share_LKE = self._ground.teaching_KM(moment.time) @ self._ground.routing_LME
        share_LKE = share_LKE * np.exp(rng.normal(size=share_LKE.shape) * self._sigma(moment.drawn_K)[:, None])
        share_KLE = (share_LKE / share_LKE.sum(axis=2, keepdims=True)).transpose(1, 0, 2)
        tokens_K = np.rint(moment.drawn_K * self._ground.lengths_K).astype(np.int64)
        return rng.multinomial(tokens_K[:, None], share_KLE)

    def _train_loss(self, rng: np.random.Generator, moment: Moment) -> Floats:
        loss_K = self._losses(rng, moment, moment.learnt_M, moment.drawn_K)
        return np.where(moment.drawn_K > 0, loss_K, np.nan)

    def _probe_loss(self, rng: np.random.Generator, moment: Moment) -> Floats:
        return self._losses(rng, moment, moment.learnt_M, self._probe())

    def _reference_loss(self, rng: np.random.Generator, moment: Moment) -> Floats:
        return self._losses(rng, moment, self._reference_M, self._probe())

    def _excess_loss(self, rng: np.random.Generator, moment: Moment) -> Floats:
        """E max(x, 0) of a token's excess x ~ N(mean excess, noise²), in closed form."""
        teaching_KM = self._ground.teaching_KM(moment.time)
        mean_K = teaching_KM @ (self._ground.skill_loss(moment.learnt_M) - self._ground.skill_loss(self._reference_M))
        mean_K = mean_K + rng.normal(size=len(mean_K)) * self._sigma(self._probe())
        if not self._noise:
            return np.maximum(mean_K, 0.0)
        z_K = mean_K / self._noise
        return mean_K * ndtr(z_K) + self._noise * np.exp(-(z_K**2) / 2) / np.sqrt(2 * np.pi)

    def _gradient(self, rng: np.random.Generator, moment: Moment) -> NDArray[np.float32]:
        strength_M = -self._ground.slope(moment.learnt_M) * self._ground.scale_M
        gradient_KS = (self._ground.teaching_KM(moment.time) * strength_M) @ self._direction_MS
        return self._blurred(rng, gradient_KS, np.maximum(moment.drawn_K, 1)).astype(np.float32)

    # --- noise ---------------------------------------------------------------------------------------

    def _losses(self, rng: np.random.Generator, moment: Moment, learnt_M: Floats, examples_K: Ints) -> Floats:
        """Mean loss of each source, off by a factor whose logarithm has a standard deviation of noise / √examples."""
        loss_K = self._ground.teaching_KM(moment.time) @ self._ground.skill_loss(learnt_M)
        sigma_K = self._sigma(examples_K)
        return loss_K * np.exp(sigma_K * rng.normal(size=len(loss_K)) - sigma_K**2 / 2)

    def _blurred(self, rng: np.random.Generator, vectors_KD: Floats, examples: Ints | int) -> Floats:
        """Vectors with noise of their own length, times noise / √examples."""
        length_K = np.linalg.norm(vectors_KD, axis=1) / np.sqrt(vectors_KD.shape[1])
        spread_K = length_K * self._noise / np.sqrt(examples)
        return vectors_KD + rng.normal(size=vectors_KD.shape) * spread_K[:, None]

    def _sigma(self, examples_K: Ints) -> Floats:
        return self._noise / np.sqrt(np.maximum(examples_K, 1))

    def _probe(self) -> Ints:
        return np.full(len(self._ground.names), PROBE)
