"""Win rates from a judge's pairs: plain, at equal length (AlpacaEval 2), and at equal style (Arena-Hard)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from evals.judge.verdicts import Pair, Unit
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, percentile_interval, resampling_weights
from harness.statistics.estimates import Floats

_REFITS = 100
_FOLDS = 5
_STRENGTHS = np.logspace(-4, 4, 10)  # inverse strengths of the penalty that cross-validation chooses from
_STEPS = 40
_FINITE = 1e3  # inverse strength that only keeps estimates finite where a model always wins
_FEWEST = 3  # models from which a Bradley–Terry model says more than their win rates


def win_rate(pairs: Sequence[Pair], model: str) -> BootstrapInterval | None:
    """Return the adjusted win rate of a model over its pairs: wins, and half of the ties."""
    mine = [pair for pair in pairs if model in pair.models]
    return ClusterBootstrap(pair.question for pair in mine).mean([(pair.value(model) + 1) / 2 for pair in mine])


def common_opponent(pairs: Sequence[Pair]) -> str | None:
    """Return the one model that is in every pair (the baseline); None where there is none, or there are two."""
    common = set.intersection(*(set(pair.models) for pair in pairs)) if pairs else set()
    return common.pop() if len(common) == 1 else None


# --- at equal length ----------------------------------------------------------------------------------


def length_controlled(pairs: Sequence[Pair], model: str) -> BootstrapInterval | None:
    """Return the win rate of a model if both answers had the same length.

    The outcome follows ``logit P = θ + φ · tanh(Δ / s) + ψ · γ``: Δ is the difference of the lengths, s its standard
    deviation, γ the difficulty of the question. It is fitted with an L1 penalty whose strength five-fold
    cross-validation over questions chooses; a tie counts half. The win rate is the mean of P over the questions with
    Δ = 0 (Dubois et al. 2024). γ comes from the pairs of the other models with the same baseline; with fewer than two
    of them, the term is left out.
    """
    mine = [pair for pair in pairs if model in pair.models]
    clusters = ClusterBootstrap(pair.question for pair in mine)
    if clusters.count < _FOLDS:
        return None
    won = np.array([(pair.value(model) + 1) / 2 for pair in mine])
    ease = _difficulties(pairs, model)
    difficulty = [ease.get((pair.question, pair.turn), 0.0) for pair in mine]
    design = np.stack([np.ones(len(mine)), _lengths(mine, model), difficulty], axis=1)
    equal = design * [1.0, 0.0, 1.0]
    strength = _cross_validated(design, won, clusters.of)
    value = _logistic(equal @ _fit(design, won, np.ones(len(mine)), strength)).mean()
    # A strong penalty pulls every refit to ½, which would hide how uncertain the rate is.
    drawn = [
        np.average(_logistic(equal @ _fit(design, won, weights, max(strength, 1.0))), weights=weights)
        for weights in resampling_weights(clusters.count, _REFITS)[:, clusters.of]
    ]
    found = percentile_interval(float(value), np.array(drawn), len(mine))
    return found and replace(found, low=min(found.low, found.value), high=max(found.high, found.value))


def _lengths(pairs: Sequence[Pair], model: str) -> Floats:
    """Return tanh of the standardised difference of the lengths, ``model`` minus the other."""
    signs = np.array([1.0 if pair.models[0] == model else -1.0 for pair in pairs])
    longer = signs * np.array([pair.lengths[0] - pair.lengths[1] for pair in pairs], dtype=np.float64)
    spread = longer.std(ddof=1) if len(longer) > 1 else 0.0
    found: Floats = np.tanh(longer / spread) if spread else np.zeros(len(longer))
    return found


def _difficulties(pairs: Sequence[Pair], model: str) -> dict[Unit, float]:
    """Return how easy each place (question and turn) is for the models other than ``model`` against the baseline.

    The outcomes of all of them follow one logistic model with two terms for each model, its strength and the length,
    and one term for each place, with a normal prior. It is fitted by Newton steps on one kind of term after the other.
    """
    baseline = common_opponent(pairs)
    others = [pair for pair in pairs if model not in pair.models]
    models = sorted({name for pair in others for name in pair.models} - {baseline})
    if baseline in (None, model) or len(models) < 2:
        return {}
    places = {place: i for i, place in enumerate(dict.fromkeys((pair.question, pair.turn) for pair in others))}
    won, length, count = (np.zeros((len(models), len(places))) for _ in range(3))
    for i, name in enumerate(models):
        mine = [pair for pair in others if name in pair.models]
        at = [places[pair.question, pair.turn] for pair in mine]
        np.add.at(won[i], at, [(pair.value(name) + 1) / 2 for pair in mine])
        np.add.at(length[i], at, _lengths(mine, name))
        np.add.at(count[i], at, 1.0)
    length /= np.maximum(count, 1.0)
    strength, slope, ease = np.zeros((len(models), 1)), np.zeros((len(models), 1)), np.zeros(len(places))
    for _ in range(_STEPS):
        for term, axis, x in ((strength, 1, np.ones_like(length)), (slope, 1, length), (ease, 0, np.ones_like(length))):
            p = _logistic(strength + slope * length + ease)
            pull, curve = x * (won - count * p), x * x * count * p * (1 - p)
            step = (pull.sum(axis, keepdims=axis == 1) - term) / (curve.sum(axis, keepdims=axis == 1) + 1.0)
            term += np.clip(step, -1.0, 1.0)
    return {place: float(ease[i]) for place, i in places.items()}


def _cross_validated(design: Floats, won: Floats, questions: np.ndarray) -> float:
    """Return the strength with the smallest log loss on questions that the fit has not seen."""
    folds = list(GroupKFold(_FOLDS).split(design, groups=questions))
    losses = []
    for strength in _STRENGTHS:
        loss = 0.0
        for train, test in folds:
            p = _logistic(design[test] @ _fit(design[train], won[train], np.ones(len(train)), float(strength)))
            p = np.clip(p, 1e-15, 1 - 1e-15)
            loss -= float((won[test] * np.log(p) + (1 - won[test]) * np.log(1 - p)).mean())
        losses.append(loss)
    return float(_STRENGTHS[int(np.argmin(losses))])


def _fit(design: Floats, won: Floats, weights: Floats, strength: float, *, l1: bool = True) -> Floats:
    """Return the coefficients of a logistic model of outcomes between 0 and 1; each counts as a win and as a loss."""
    model = LogisticRegression(
        C=strength, l1_ratio=1.0 if l1 else 0.0, solver="liblinear" if l1 else "newton-cholesky", fit_intercept=False,
        random_state=0, max_iter=300,
    )  # fmt: skip
    shares = np.concatenate([weights * won, weights * (1 - won)])
    counted = shares > 0
    outcomes = np.repeat([1, 0], len(won))[counted]
    if len(set(outcomes.tolist())) < 2:  # all won or all lost: nothing to fit, so pretend a tie of little weight
        counted, shares = np.ones(len(shares), dtype=bool), np.maximum(shares, 1e-3)
        outcomes = np.repeat([1, 0], len(won))
    with warnings.catch_warnings():  # where one model always wins, more iterations change nothing that matters
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(np.concatenate([design, design])[counted], outcomes, sample_weight=shares[counted])
    found: Floats = model.coef_[0]
    return found


def _logistic(x: Floats) -> Floats:
    value: Floats = 1 / (1 + np.exp(-np.clip(x, -40, 40)))
    return value


# --- at equal style -----------------------------------------------------------------------------------


def bradley_terry(pairs: Sequence[Pair], *, style: bool) -> dict[str, BootstrapInterval | None]:
    """Return the win rate of every model by a Bradley–Terry model; an empty dictionary for fewer than three models.

    The rates are against the baseline, or, where there is none, the mean over the other models. Every game counts, as
    in Arena-Hard. With ``style``, the differences in length and Markdown are terms of the model, and the rates are
    those at equal style. (Arena-Hard centres these terms: its rates are those at the average difference.) Questions are
    drawn again for the intervals.
    """
    models = sorted({model for pair in pairs for model in pair.models})
    clusters = ClusterBootstrap(pair.question for pair in pairs for _ in pair.games)
    if len(models) < _FEWEST or clusters.count < 2:
        return {}
    number = {model: i for i, model in enumerate(models)}
    design, won = np.zeros((clusters.n, len(models))), np.zeros(clusters.n)
    for i, pair in enumerate(pairs):
        design[2 * i : 2 * i + 2, number[pair.models[0]]] = 1.0
        design[2 * i : 2 * i + 2, number[pair.models[1]]] = -1.0
        won[2 * i : 2 * i + 2] = [{"model_1": 1.0, "model_2": 0.0}.get(game, 0.5) for game in pair.games]
    if style:
        design = np.hstack([design, np.repeat(_styles(pairs), 2, axis=0)])
    baseline = common_opponent(pairs)
    counts = np.array([strength for pair in pairs for strength in pair.strengths], dtype=np.float64)
    weights = counts * resampling_weights(clusters.count, _REFITS)[:, clusters.of]
    drawn = np.stack(
        [_rates(_fit(design, won, w, _FINITE, l1=False)[: len(models)], models, baseline) for w in weights]
    )
    values = _rates(_fit(design, won, counts, _FINITE, l1=False)[: len(models)], models, baseline)
    of_model = {model: sum(model in pair.models for pair in pairs) for model in models}
    return {
        model: percentile_interval(float(values[i]), drawn[:, i], of_model[model])
        for model, i in number.items()
        if model != baseline
    }


def _rates(strengths: Floats, models: Sequence[str], baseline: str | None) -> Floats:
    """Return the rate of every model against the baseline, or on average against the others."""
    rates = _logistic(strengths[:, None] - strengths[None, :])
    if baseline is not None:
        found: Floats = rates[:, models.index(baseline)]
        return found
    average: Floats = (rates.sum(axis=1) - 0.5) / (len(models) - 1)
    return average


def _styles(pairs: Sequence[Pair]) -> Floats:
    """Return the standardised differences in style of every pair: relative length, and Markdown marks per character."""
    one, other = (np.array([pair.styles[side] for pair in pairs], dtype=np.float64) for side in (0, 1))
    total = np.maximum(one[:, :1] + other[:, :1], 1)
    length = (one[:, :1] - other[:, :1]) / total
    dense, other_dense = (marks[:, 1:] / np.maximum(marks[:, :1], 1) for marks in (one, other))
    features = np.hstack([length, (dense - other_dense) / (dense + other_dense + 1)])
    spread = features.std(axis=0)
    found: Floats = features / np.where(spread, spread, 1.0)  # not centred: 0 has to stay equal style
    return found
