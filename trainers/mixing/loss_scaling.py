"""Strategies whose weights scale each source's loss: all sources are drawn equally often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.simplex import check_options, fill_unknown, reweigh

_EPSILON = 1e-6  # of divisions, as in the released code of DoGE and in torch's clipping


class LossScaling(MixingStrategy):
    """Base of the strategies that scale the loss and report the mean of their weights over all updates."""

    scales = "loss"

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights, with their mean in the memory."""
        weights = super().init(sources).weights
        return MixtureState(weights, {"mean": weights.copy(), "updates": np.array(0)})

    def average(self, state: MixtureState) -> Floats | None:
        """Return the mean of the weights over all updates."""
        return state.memory["mean"]

    def _next(self, weights: Floats, before: MixtureState) -> MixtureState:
        """Return the state with new weights, and with their mean over all updates so far in the memory."""
        updates = int(before.memory["updates"]) + 1
        mean = before.memory["mean"] + (weights - before.memory["mean"]) / updates if updates > 1 else weights
        return MixtureState(weights, {**before.memory, "mean": mean.copy(), "updates": np.array(updates)})


@dataclass(frozen=True)
class DoReMi(LossScaling):
    """Sources far above a reference model count for more in the loss; all are drawn equally often.

    The proxy training of DoReMi: with λ_i the mean over target tokens of max(loss − the reference model's, 0),

        α ← (1 − ε) norm(α e^{ηλ}) + ε / K.

    The weights scale the loss: a token of source i counts α_i K times in the mean over the batch's targets, which is
    normalised by the sum of these factors, as in the authors' trainer. Variant: λ is measured on held-out examples
    before each update instead of on every minibatch, and the reference model is the finished `uniform` run. The mean
    of α over all updates, which the paper uses in the final training, is reported as the run's average weights.

    Attributes:
        eta: step size η.
        epsilon: share ε of the weights that is spread evenly.
    """

    name = "doremi"
    signals = frozenset({"excess_loss"})
    source = "Xie et al. 2023, DoReMi (arXiv:2305.10429), Algorithm 1; excess loss on held-out examples"
    needs = "uniform"

    eta: float = 1.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        check_options(self, eta="not negative", epsilon="share")

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources with the largest excess loss."""
        excess = fill_unknown(seen.need("excess_loss"))
        return self._next(reweigh(state.weights, self.eta * excess, self.epsilon), state)


@dataclass(frozen=True)
class DoGE(LossScaling):
    """Sources whose gradient agrees with everyone's count for more in the loss; all are drawn equally often.

    The proxy training of DoGE for universal generalisation. With g_i the gradient of source i's held-out loss, clipped
    to norm ``clip``, and n the steps since the last update,

        s_i = clip(⟨g_i, Σ_j g_j⟩ / mean_j ‖g_j‖, 0, limit),   α ← (1 − c) softmax(log α + n · rate · s / μ) + c / K.

    Defaults are those of the released configuration. Inner products are those of sketches. The paper updates at every
    step, with the learning rate of that step in place of ``rate``. The paper's sum over j includes i itself, and so
    does the released code as it runs; ``own=False`` leaves it out. A source without a gradient takes the mean s. The
    mean of α over all updates is reported as the run's average weights.

    Attributes:
        mu: strength μ of the pull to the previous weights.
        rate: the learning rate of one training step.
        clip: the largest norm of a gradient.
        limit: the largest score s.
        c: share of the weights that is spread evenly (0 in the released code).
        own: whether the sum over j includes the source's own gradient.
    """

    name = "doge"
    signals = frozenset({"gradient"})
    source = "Fan et al. 2023, DoGE (arXiv:2310.15393), Algorithm 1 with the released code's configuration"

    mu: float = 0.01
    rate: float = 5e-4
    clip: float = 5.0
    limit: float = 5.0
    c: float = 0.0
    own: bool = True

    def __post_init__(self) -> None:
        check_options(self, mu="positive", rate="not negative", clip="positive", limit="positive", c="share")

    def init(self, sources: Sources) -> MixtureState:
        """Return even weights; no step is done."""
        state = super().init(sources)
        return MixtureState(state.weights, {**state.memory, "step": np.array(0)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        """Move weight to the sources whose gradient agrees with everyone's."""
        score = self._scores(seen)
        steps = seen.step - int(state.memory["step"])
        gain = steps * self.rate * fill_unknown(np.clip(score, 0.0, self.limit)) / self.mu
        done = MixtureState(state.weights, {**state.memory, "step": np.array(seen.step)})
        return self._next(reweigh(state.weights, gain, self.c), done)

    def _scores(self, seen: Observation) -> Floats:
        """Return ⟨g_i, Σ_j g_j⟩ / mean ‖g_j‖ of clipped gradients, f64[K]; nan where a source has no gradient."""
        clipped, known = self._clipped(seen.need("gradient"))
        agreement, length = self._agreement(seen, clipped), np.linalg.norm(clipped, axis=1)
        return np.where(known, agreement / (length.sum() / max(known.sum(), 1) + _EPSILON), np.nan)

    def _agreement(self, seen: Observation, clipped: Floats) -> Floats:
        """Return ⟨g_i, Σ_j g_j⟩ of clipped gradients, f64[K]."""
        agreement: Floats = clipped @ clipped.sum(axis=0)
        return agreement if self.own else agreement - (clipped**2).sum(axis=1)

    def _clipped(self, sketches: NDArray[np.float32]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return gradients clipped to a norm, zero where unknown, and which are known."""
        gradient = np.nan_to_num(sketches.astype(np.float64))
        norm = np.linalg.norm(gradient, axis=1)
        return gradient * np.minimum(1.0, self.clip / (norm + _EPSILON))[:, None], norm > 0


@dataclass(frozen=True)
class DoGETarget(DoGE):
    """`doge` that aims at target sets: sources whose gradient agrees with theirs count for more in the loss.

    The paper's out-of-domain generalisation: the sum over j is over the target sets, with their gradients clipped
    likewise. The sources' own gradients are not in it, so ``own`` has no effect.
    """

    name = "doge_target"
    signals = frozenset({"gradient", "target_gradient"})
    source = "Fan et al. 2023, DoGE (arXiv:2310.15393), out-of-domain generalisation, with the released configuration"

    def _agreement(self, seen: Observation, clipped: Floats) -> Floats:
        agreement: Floats = clipped @ self._clipped(seen.need("target_gradient"))[0].sum(axis=0)
        return agreement
