"""What AlpacaEval 2 published of 58 models: coefficients of its length control, lengths, and win rates.

From ``metrics/weights/weighted_alpaca_eval_gpt4_turbo/length_controlled_v1`` and its leaderboard, of
tatsu-lab/alpaca_eval, rounded. Its judgments of single answers are not public data that a test can read, so tests draw
judgments from the published coefficients.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from evals.judge.verdicts import Pair


class Model(NamedTuple):
    """A model, with the signs of its coefficients as in :func:`evals.judge.win_rates.length_controlled`.

    Attributes:
        slope, share, strength: coefficients of the length, of the question's difficulty, and the model's own.
        characters: mean length of its answers; the baseline's is ``CHARACTERS``.
        plain, controlled: published win rates, in percent.
    """

    slope: float
    share: float
    strength: float
    characters: int
    plain: float
    controlled: float


CHARACTERS = 2049
# Of the questions' difficulties, which are not in the repository. With this mean and this deviation the coefficients
# give the published length-controlled rates of all 58 models within 0.6 points (0.2 on average).
DIFFICULTY = -0.16, 1.63
MODELS = [
    Model(*row)
    for row in (
        (1.58, 0.83, 0.19, 2402, 64.30, 51.58), (1.64, 0.68, -0.32, 1136, 22.92, 41.90),
        (1.69, 0.94, -0.53, 1365, 23.58, 38.13), (1.53, 1.01, -0.63, 1549, 26.50, 36.57),
        (1.63, 0.95, -0.70, 1371, 22.07, 35.31), (1.91, 1.05, -0.74, 1420, 25.56, 34.87),
        (1.54, 0.93, -0.79, 1473, 23.24, 33.82), (1.94, 0.98, -0.87, 1362, 21.44, 32.65),
        (0.89, 0.72, -0.88, 1578, 26.99, 31.51), (1.29, 0.64, -0.93, 1414, 24.35, 30.29),
        (1.71, 0.82, -0.98, 1140, 15.76, 30.18), (0.97, 0.76, -0.98, 2616, 34.86, 29.97),
        (0.99, 0.71, -0.98, 2521, 33.23, 29.71), (1.24, 0.90, -1.10, 2195, 31.24, 28.81),
        (1.79, 1.05, -1.17, 1500, 21.86, 28.61), (1.87, 1.00, -1.18, 1069, 17.19, 28.16),
        (1.08, 0.70, -1.10, 1469, 21.85, 27.62), (1.86, 0.98, -1.23, 1082, 16.99, 27.29),
        (1.21, 0.79, -1.17, 2123, 29.66, 27.19), (0.84, 0.70, -1.18, 2736, 30.22, 26.39),
        (1.87, 1.04, -1.39, 1112, 16.13, 25.61), (1.81, 0.83, -1.31, 1096, 15.73, 25.25),
        (1.48, 1.13, -1.52, 1775, 21.81, 24.65), (1.60, 0.96, -1.44, 1456, 18.18, 24.38),
        (1.76, 1.15, -1.61, 1465, 18.26, 23.69), (1.21, 0.69, -1.38, 1754, 20.83, 23.36),
        (1.23, 0.95, -1.53, 2083, 24.61, 23.22), (1.99, 1.10, -1.64, 910, 13.74, 22.96),
        (1.19, 0.86, -1.50, 1316, 16.84, 22.87), (1.74, 1.00, -1.60, 1328, 14.13, 22.72),
        (1.67, 0.99, -1.62, 1331, 14.10, 22.35), (1.90, 1.10, -1.72, 1058, 12.76, 22.00),
        (2.08, 0.91, -1.63, 627, 9.40, 21.58), (1.47, 1.08, -1.76, 1607, 18.64, 21.43),
        (1.83, 1.14, -1.82, 1418, 15.98, 21.24), (1.38, 1.05, -1.82, 1478, 16.00, 20.55),
        (2.04, 1.01, -1.90, 796, 9.18, 19.30), (1.97, 1.18, -2.07, 1203, 13.15, 18.95),
        (1.71, 1.00, -1.94, 2373, 21.75, 18.75), (1.68, 0.80, -1.84, 573, 9.23, 18.21),
        (1.94, 1.10, -2.09, 827, 9.62, 18.09), (1.33, 1.03, -2.05, 1894, 17.43, 17.92),
        (1.82, 1.02, -2.04, 1151, 12.09, 17.84), (1.63, 0.45, -1.65, 1018, 8.46, 17.73),
        (1.28, 0.98, -2.04, 1545, 14.38, 17.58), (1.51, 0.96, -2.02, 1479, 12.71, 17.57),
        (1.71, 1.15, -2.21, 1454, 13.83, 17.41), (1.52, 1.15, -2.24, 1676, 14.72, 17.11),
        (1.43, 0.65, -1.87, 1774, 15.58, 16.49), (1.96, 0.99, -2.18, 1107, 10.12, 16.25),
        (1.53, 1.04, -2.23, 1107, 10.34, 16.25), (1.61, 1.09, -2.30, 1417, 12.65, 16.06),
        (2.20, 0.97, -2.20, 676, 7.79, 15.87), (2.14, 1.08, -2.33, 431, 7.42, 15.77),
        (1.57, 1.04, -2.29, 1391, 11.15, 15.72), (1.45, 1.13, -2.40, 1487, 12.84, 15.53),
        (1.31, 1.04, -2.40, 1636, 12.57, 14.72), (1.34, 0.98, -2.34, 1895, 14.25, 14.69),
    )
]  # fmt: skip
GAMED = Model(2.98, 0.62, -2.25, 68, 3.74, 12.19)  # gpt4_gamed, whose answers are as short as possible


def expected(model: Model, points: int = 60) -> float:
    """The win rate at equal length, in percent, by a model's coefficients and the distribution of difficulties."""
    x, weights = np.polynomial.hermite_e.hermegauss(points)
    rates = 1 / (1 + np.exp(-(model.strength + model.share * (DIFFICULTY[0] + DIFFICULTY[1] * x))))
    return float(100 * (weights * rates).sum() / weights.sum())


def simulated(models: list[Model], questions: int, *, chance: bool) -> list[Pair]:
    """Judgments that follow the coefficients, against a baseline. Models are called m0, m1, …

    Without chance, every preference is the probability that the coefficients give. With it, preferences are drawn: most
    are near 0 or 1, as GPT-4's are, and the standard errors of plain win rates are about the published ones (1.2 to 1.3
    points around 24 %).
    """
    rng = np.random.default_rng(0)
    ease = norm.ppf((np.arange(questions) + 0.5) / questions, *DIFFICULTY)
    base = rng.lognormal(0.0, 0.6, questions)
    base = (base * CHARACTERS / base.mean()).round()
    pairs: list[Pair] = []
    for number, model in enumerate(models):
        mine = base * rng.lognormal(0.0, 0.4, questions)
        mine = (mine * model.characters / mine.mean()).round()
        slope = model.slope * np.tanh((mine - base) / (mine - base).std(ddof=1))
        p = 1 / (1 + np.exp(-(model.strength + model.share * ease + slope)))
        for question, preference in enumerate(rng.beta(p, 1 - p) if chance else p):
            winner = "model_1" if preference > 0.5 else "model_2"
            pairs.append(Pair("j", question, 1, (f"m{number}", "base"), "c", 0, (winner, winner),
                              (int(mine[question]), int(base[question])), preference=float(preference)))  # fmt: skip
    return pairs
