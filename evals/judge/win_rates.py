"""Win rates from a judge's pairs: plain, at equal length (AlpacaEval 2), and at equal style (Arena-Hard)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import GroupKFold

from evals.judge.verdicts import Pair, Unit
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, percentile_interval, resampling_weights
from harness.statistics.estimates import Floats

_REFITS = 100
_FOLDS = 5
_STRENGTHS = np.logspace(-1, 3, 7)  # of the penalty, from which cross-validation chooses
_PENALISED = np.array([0.0, 1.0, 1.0])  # the terms for length and difficulty, not a model's strength
_STEPS, _CLOSE = 40, 1e-6
_FINITE = 1e-3  # a penalty that only keeps estimates finite where a model always wins
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
    deviation, γ the difficulty of the question. The win rate is the mean of P over the questions with Δ = 0 (Dubois et
    al. 2024). γ comes from the pairs of the other models with the same baseline; with fewer than two of them, the term
    is left out. A penalty draws φ to the mean of the other models, since the pull of length is the judge's, and ψ to 1:
    where all of a model's answers are short, its own pairs cannot tell strength from length. Five-fold
    cross-validation over questions chooses the strength of the penalty. A tie counts half.
    """
    mine = [pair for pair in pairs if model in pair.models]
    clusters = ClusterBootstrap(pair.question for pair in mine)
    if clusters.count < _FOLDS:
        return None
    won = np.array([(pair.value(model) + 1) / 2 for pair in mine])
    ease, slope = _difficulties(pairs, model)
    difficulty = [ease.get((pair.question, pair.turn), 0.0) for pair in mine]
    design = np.stack([np.ones(len(mine)), _lengths(mine, model), difficulty], axis=1)
    equal, centre = design * [1.0, 0.0, 1.0], np.array([0.0, slope, 1.0])
    penalty = _cross_validated(design, won, clusters.of, centre)
    value = _logistic(equal @ _fit(design, won, np.ones(len(mine)), penalty, centre)).mean()
    drawn = [
        np.average(_logistic(equal @ _fit(design, won, weights, penalty, centre)), weights=weights)
        for weights in resampling_weights(clusters.count, _REFITS)[:, clusters.of]
    ]
    return percentile_interval(float(value), np.array(drawn), len(mine))


def _lengths(pairs: Sequence[Pair], model: str) -> Floats:
    """Return tanh of the standardised difference of the lengths, ``model`` minus the other."""
    signs = np.array([1.0 if pair.models[0] == model else -1.0 for pair in pairs])
    longer = signs * np.array([pair.lengths[0] - pair.lengths[1] for pair in pairs], dtype=np.float64)
    spread = longer.std(ddof=1) if len(longer) > 1 else 0.0
    found: Floats = np.tanh(longer / spread) if spread else np.zeros(len(longer))
    return found


def _difficulties(pairs: Sequence[Pair], model: str) -> tuple[dict[Unit, float], float]:
    """Return how easy each place (question and turn) is for the other models, and the mean of their terms for length.

    The other models are those that were compared with the same baseline.
    The outcomes of all of them follow one logistic model with two terms for each model, its strength and the length,
    and one term for each place, with a normal prior. It is fitted by Newton steps on one kind of term after the other.
    """
    baseline = common_opponent(pairs)
    others = [pair for pair in pairs if model not in pair.models]
    models = sorted({name for pair in others for name in pair.models} - {baseline})
    if baseline in (None, model) or len(models) < 2:
        return {}, 0.0
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
    return {place: float(ease[i]) for place, i in places.items()}, float(slope.mean())


def _cross_validated(design: Floats, won: Floats, questions: np.ndarray, centre: Floats) -> Floats:
    """Return the penalty with the smallest log loss on questions that the fit has not seen."""
    folds = list(GroupKFold(_FOLDS).split(design, groups=questions))
    losses = []
    for strength in _STRENGTHS:
        loss = 0.0
        for train, test in folds:
            fitted = _fit(design[train], won[train], np.ones(len(train)), strength * _PENALISED, centre)
            p = np.clip(_logistic(design[test] @ fitted), 1e-15, 1 - 1e-15)
            loss -= float((won[test] * np.log(p) + (1 - won[test]) * np.log(1 - p)).mean())
        losses.append(loss)
    best: Floats = _STRENGTHS[int(np.argmin(losses))] * _PENALISED
    return best


def _fit(design: Floats, won: Floats, weights: Floats, penalty: Floats, centre: Floats) -> Floats:
    """Return the coefficients of a logistic model of outcomes between 0 and 1, by Newton's method.

    ``penalty`` is that of the squared distance of each coefficient from ``centre``, plus a little that keeps estimates
    finite where a model always wins.
    """
    found = centre.copy()
    penalty = penalty + _FINITE
    for _ in range(_STEPS):
        p = _logistic(design @ found)
        pull = design.T @ (weights * (won - p)) - penalty * (found - centre)
        curve = (design.T * (weights * p * (1 - p))) @ design + np.diag(penalty)
        step = np.clip(np.linalg.solve(curve, pull), -1.0, 1.0)
        found += step
        if np.abs(step).max() < _CLOSE:
            break
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
    zero = np.zeros(design.shape[1])
    drawn = np.stack([_rates(_fit(design, won, w, zero, zero)[: len(models)], models, baseline) for w in weights])
    values = _rates(_fit(design, won, counts, zero, zero)[: len(models)], models, baseline)
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
