"""Coefficients that AlpacaEval 2 published for 58 models: of length, of the question's difficulty, and the model's own.

From ``weighted_alpaca_eval_gpt4_turbo/length_controlled_v1`` of tatsu-lab/alpaca_eval, rounded. Its judgments are not
public data that a test can read, so tests draw judgments from these coefficients.
"""

from __future__ import annotations

import numpy as np

from evals.judge.verdicts import Pair

COEFFICIENTS = [
    (1.58, 0.83, 0.19), (1.64, 0.68, -0.32), (1.69, 0.94, -0.53), (1.53, 1.01, -0.63), (1.63, 0.95, -0.70),
    (1.91, 1.05, -0.74), (1.54, 0.93, -0.79), (1.94, 0.98, -0.87), (0.89, 0.72, -0.88), (1.29, 0.64, -0.93),
    (1.71, 0.82, -0.98), (0.97, 0.76, -0.98), (0.99, 0.71, -0.98), (1.24, 0.90, -1.10), (1.79, 1.05, -1.17),
    (1.87, 1.00, -1.18), (1.08, 0.70, -1.10), (1.86, 0.98, -1.23), (1.21, 0.79, -1.17), (0.84, 0.70, -1.18),
    (1.87, 1.04, -1.39), (1.81, 0.83, -1.31), (1.48, 1.13, -1.52), (1.60, 0.96, -1.44), (1.76, 1.15, -1.61),
    (1.21, 0.69, -1.38), (1.23, 0.95, -1.53), (1.99, 1.10, -1.64), (1.19, 0.86, -1.50), (1.74, 1.00, -1.60),
    (1.67, 0.99, -1.62), (1.90, 1.10, -1.72), (2.08, 0.91, -1.63), (1.47, 1.08, -1.76), (1.83, 1.14, -1.82),
    (1.38, 1.05, -1.82), (2.04, 1.01, -1.90), (1.97, 1.18, -2.07), (1.71, 1.00, -1.94), (1.68, 0.80, -1.84),
    (1.94, 1.10, -2.09), (1.33, 1.03, -2.05), (1.82, 1.02, -2.04), (1.63, 0.45, -1.65), (1.28, 0.98, -2.04),
    (1.51, 0.96, -2.02), (1.71, 1.15, -2.21), (1.52, 1.15, -2.24), (1.43, 0.65, -1.87), (1.96, 0.99, -2.18),
    (1.53, 1.04, -2.23), (1.61, 1.09, -2.30), (2.20, 0.97, -2.20), (2.14, 1.08, -2.33), (1.57, 1.04, -2.29),
    (1.45, 1.13, -2.40), (1.31, 1.04, -2.40), (1.34, 0.98, -2.34),
]  # fmt: skip


def simulated(
    models: list[tuple[float, float, float]], questions: int, seed: int = 0
) -> tuple[list[Pair], dict[str, float]]:
    """Judgments drawn from coefficients, and the true rates of the models at equal length."""
    rng = np.random.default_rng(seed)
    ease, base = rng.normal(0, 1.5, questions), rng.lognormal(7.4, 0.6, questions).round()
    pairs: list[Pair] = []
    truth: dict[str, float] = {}
    for number, (slope, share, strength) in enumerate(models):
        name = f"m{number}"
        mine = (base * rng.lognormal(rng.uniform(-1.0, 0.5), 0.4, questions)).round()
        at_equal = strength + share * ease
        logit = at_equal + slope * np.tanh((mine - base) / (mine - base).std(ddof=1)) + rng.normal(0, 1, questions)
        noise = rng.normal(0, 1, (200, 1))
        truth[name] = float((1 / (1 + np.exp(-at_equal - noise))).mean())
        for question, preference in enumerate(1 / (1 + np.exp(-logit))):
            winner = "model_1" if preference > 0.5 else "model_2"
            pairs.append(Pair("j", question, 1, (name, "base"), "c", 0, (winner, winner),
                              (int(mine[question]), int(base[question])), preference=float(preference)))  # fmt: skip
    return pairs, truth
