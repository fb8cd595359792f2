"""DoGE: sources whose gradient points where the others' do count for more in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.mixing.base import Floats, MixingStrategy, MixtureState, Observation, Sources
from trainers.mixing.doremi import averaged
from trainers.mixing.simplex import even, filled, require_finite, require_share, reweigh


@dataclass(frozen=True)
class DoGE(MixingStrategy):
    """Sources whose gradient agrees with everyone's count for more in the loss; draws stay even.

    The proxy training of DoGE for universal generalisation. With g_i the gradient of source i's held-out loss, clipped
    to norm 1 as the authors' trainer does,

        s_i = rate · clip(⟨g_i, Σ_j g_j⟩ / mean_j ‖g_j‖, 0, limit),   α ← (1 − c) softmax(log α + s / μ) + c / K.

    Inner products are those of sketches. The paper updates at every step with the learning rate in the place of
    ``rate``; here an update stands for the steps since the last one, and the default is 100 steps of its 5e-4. Its sum
    over j has i itself in it, the released code leaves it out (``own``). The weights scale the loss as in `doremi`;
    their mean over all updates is reported as the run's average weights. A source without a gradient takes the mean s.

    Attributes:
        mu: strength μ of the pull to the weights of before.
        rate: learning rate that an update stands for.
        limit: the most that the score may be before it is multiplied by ``rate``.
        c: share of the weights that is spread evenly (0 in the released code).
        own: whether a source's own gradient counts among those it is compared with.
    """

    name = "doge"
    signals = frozenset({"gradient"})
    source = "Fan et al. 2023, DoGE (arXiv:2310.15393), Algorithm 1; clipping and normalisation of the released code"
    scales = "loss"

    mu: float = 0.05
    rate: float = 0.05
    limit: float = 5.0
    c: float = 0.0
    own: bool = True

    def __post_init__(self) -> None:
        require_finite(self.mu, "doge.mu", positive=True)
        require_finite(self.rate, "doge.rate")
        require_finite(self.limit, "doge.limit", positive=True)
        require_share(self.c, "doge.c")

    def init(self, sources: Sources) -> MixtureState:
        weights_K = even(len(sources.names))
        return MixtureState(weights_K, {"mean": weights_K.copy(), "updates": np.array(0)})

    def update(self, state: MixtureState, seen: Observation) -> MixtureState:
        score_K = self._scores(seen.need("gradient"))
        gain_K = self.rate * filled(np.clip(score_K, 0.0, self.limit)) / self.mu
        return averaged(reweigh(state.weights, gain_K, self.c), state)

    def average(self, state: MixtureState) -> Floats | None:
        return state.memory["mean"]

    def _scores(self, gradient_KS: NDArray[np.float32]) -> Floats:
        """⟨g_i, Σ_j g_j⟩ / mean ‖g_j‖ of clipped gradients; nan where a source has none."""
        gradient_KS = np.nan_to_num(gradient_KS.astype(np.float64))
        norm_K = np.linalg.norm(gradient_KS, axis=1)
        known_K = norm_K > 0
        score_K = np.full(len(norm_K), np.nan)
        if known_K.any():
            clipped_kS = gradient_KS[known_K] / np.maximum(norm_K[known_K], 1.0)[:, None]
            length_k = np.linalg.norm(clipped_kS, axis=1)
            agreement_k = clipped_kS @ clipped_kS.sum(axis=0)
            if not self.own:
                agreement_k -= length_k**2
            score_K[known_K] = agreement_k / length_k.mean()
        return score_K
