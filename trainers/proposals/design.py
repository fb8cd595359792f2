"""Which mixes the proxy runs try: Dirichlet samples around a prior."""

from __future__ import annotations

import numpy as np

from trainers.mixing.base import Floats

# Concentrations per source around the prior, from mixes of few sources to mixes like the prior. RegMix (Liu et al.
# 2024, arXiv:2407.01492) likewise multiplies its prior by factors up to 5, from 0.1.
NARROWEST, WIDEST = 5.0, 0.5


def proxy_mixes(prior_K: Floats, count: int, seed: int) -> Floats:
    """f64[count, K]: the prior itself, then samples. More of them begin with the same: earlier runs are kept."""
    rows = [prior_K]
    for i in range(1, count):
        rows.append(samples(prior_K, 1, np.random.default_rng((seed, i)))[0])
    # Six digits tell mixes apart, and are the same on every machine: they are part of a run's identity.
    mixes_NK: Floats = np.array(rows).round(6)
    return mixes_NK


def samples(prior_K: Floats, count: int, rng: np.random.Generator) -> Floats:
    """f64[count, K], Dirichlet(s · K · prior) with log s uniform."""
    scale_N = np.exp(rng.uniform(np.log(WIDEST), np.log(NARROWEST), count))
    gamma_NK = rng.gamma(scale_N[:, None] * len(prior_K) * prior_K) + 1e-12
    return gamma_NK / gamma_NK.sum(axis=1, keepdims=True)
