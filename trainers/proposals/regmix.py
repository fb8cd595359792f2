"""RegMix: boosted trees from the mix to the loss, and the best of very many simulated mixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.mixing.base import Floats
from trainers.proposals.design import samples
from trainers.proposals.laws import Law

CANDIDATES, BEST = 100_000, 100


@dataclass(frozen=True)
class RegMix(Law):
    """LightGBM regression from the mix to the target's loss; the mean of the best 100 of 100,000 mixes it is asked for.

    Learning rate 0.01 and 1,000 trees, as released; no early stopping, since with few proxies there is no run to spare
    for it, and leaves may hold few runs for the same reason.

    Attributes:
        trees: the fitted booster.
    """

    name = "regmix"
    source = "Liu et al. 2024, RegMix (arXiv:2407.01492): LightGBM, Dirichlet search, mean of the best 100"

    trees: Any

    @staticmethod
    def fewest(sources: int) -> int:
        return sources + 2

    @classmethod
    def fit(cls, mixes_NK: Floats, losses_NK: Floats, target_K: Floats, seed: int) -> RegMix:
        import lightgbm

        count = len(mixes_NK)
        parameters = {
            "objective": "regression",
            "learning_rate": 0.01,
            "num_leaves": max(2, min(31, count // 2)),
            "min_data_in_leaf": max(1, count // 20),
            "min_data_in_bin": 1,
            "seed": seed % 2**31,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": 1,
            "verbose": -1,
        }
        data = lightgbm.Dataset(mixes_NK, losses_NK @ target_K, params={"verbose": -1, "min_data_in_bin": 1})
        return cls(lightgbm.train(parameters, data, num_boost_round=1000))

    def predict(self, mixes_NK: Floats) -> Floats:
        return np.asarray(self.trees.predict(mixes_NK, num_threads=1), dtype=np.float64)

    def best(self, prior_K: Floats, seed: int) -> Floats:
        candidates_NK = samples(prior_K, CANDIDATES, np.random.default_rng(seed))
        lowest = np.argsort(self.predict(candidates_NK), kind="stable")[:BEST]
        mean_K: Floats = candidates_NK[lowest].mean(axis=0)
        return mean_K / mean_K.sum()
