"""Measure what moves a judge besides the quality of the answers: position, length, own answers, and chance."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from evals.judge.records import QuestionId
from evals.judge.verdicts import Pair, Rating, Unit, by_rater, krippendorff_of_orders, mean_of_others
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, residuals
from harness.statistics.estimates import Floats

Measures = dict[str, BootstrapInterval | None]
_GAMES = ({"model_1": 1, "model_2": -1}, {"model_2": 1, "model_1": -1})  # game → 1 where the answer shown first wins


def position(pairs: Sequence[Pair]) -> Measures:
    """Return how often both orders give the same verdict, and the preference for the answer shown first.

    ``alpha`` is Krippendorff's alpha of the two orders: 0 where they agree as often as by chance, 1 if always.

    ``first_place`` is the share of games won by the answer shown first minus the share won by the other. It is 0 for a
    judge without a preference, whatever the answers, since each is shown in both places, and 1 for a judge that always
    chooses the first.
    """
    clusters = ClusterBootstrap(pair.question for pair in pairs)
    first = [sum(by.get(game, 0) for by, game in zip(_GAMES, pair.games, strict=True)) / 2 for pair in pairs]
    same = [float(pair.games[0] == pair.games[1]) for pair in pairs]
    alpha = krippendorff_of_orders(pairs)
    return {"consistency": clusters.mean(same), "alpha": alpha, "first_place": clusters.mean(first)}


def verbosity(pairs: Sequence[Pair], all_pairs: Sequence[Pair]) -> dict[str, object]:
    """Return the preference for longer answers in one judge's pairs.

    ``longer_wins`` is the share of pairs won by the longer answer minus the share won by the shorter one.
    ``partial_correlation`` correlates the verdict with the difference of the log lengths, after removing what the pair
    of models explains and, where all pairs have other raters (a panel, people) in ``all_pairs``, what these say.
    Without other raters nobody knows whether the longer answers were better.
    """
    lengths = np.log1p([pair.lengths for pair in pairs])
    longer, values = lengths[:, 0] - lengths[:, 1], np.array([pair.value(pair.models[0]) for pair in pairs])
    unequal = np.flatnonzero(longer)
    won = np.sign(longer[unequal]) * values[unequal]
    votes = by_rater(all_pairs, lambda pair: pair.value(min(pair.models)))
    signs = [1.0 if pair.models[0] == min(pair.models) else -1.0 for pair in pairs]
    others = [mean_of_others(votes[pair.unit], pair.judge) for pair in pairs]
    partial, controlled = _partial_correlation(
        [pair.question for pair in pairs], longer, values, {"models": [" ".join(pair.models) for pair in pairs]},
        [None if other is None else sign * other for sign, other in zip(signs, others, strict=True)],
    )  # fmt: skip
    return {
        "longer_wins": ClusterBootstrap(pairs[i].question for i in unequal).mean(won),
        "partial_correlation": partial,
        "controlled_for": controlled,
    }


def verbosity_of_scores(ratings: Sequence[Rating], all_ratings: Sequence[Rating]) -> dict[str, object]:
    """Return the partial correlation of scores with log length, given model, category, turn and other raters."""
    votes = by_rater(all_ratings, lambda rating: rating.score)
    partial, controlled = _partial_correlation(
        [rating.question for rating in ratings],
        np.log1p([rating.length for rating in ratings]),
        np.array([rating.score for rating in ratings]),
        {"model": [r.model for r in ratings], "category, turn": [f"{r.category} {r.turn}" for r in ratings]},
        [mean_of_others(votes[r.unit], r.judge) for r in ratings],
    )
    return {"partial_correlation": partial, "controlled_for": controlled}


def _partial_correlation(
    questions: Sequence[QuestionId], x: Floats, y: Floats, controls: Mapping[str, Sequence[str]],
    others: Sequence[float | None],
) -> tuple[BootstrapInterval | None, list[str]]:  # fmt: skip
    """Correlate x and y given the controls, and other raters' values where all are known; name what was controlled."""
    columns: list[ArrayLike] = [np.array(texts) for texts in controls.values()]
    names = [name for joined in controls for name in joined.split(", ")]
    known = [value for value in others if value is not None]
    if len(known) == len(others):
        columns.append(np.array(known))
        names.append("other raters")
    return ClusterBootstrap(questions).correlation(residuals(x, columns), residuals(y, columns)), names


def self_preference(judge: str, model: str, pairs: Sequence[Pair], all_pairs: Sequence[Pair]) -> Measures | None:
    """Return how much a judge favours its own answers; None if it judged none of its own.

    ``own`` is the share of pairs that its answers win minus the share that they lose. ``excess`` is ``own`` minus the
    same by other raters on the same pairs: only that distinguishes preference from quality.
    """
    mine = [pair for pair in pairs if model in pair.models]
    if not mine:
        return None
    votes = by_rater((pair for pair in all_pairs if model in pair.models), lambda pair: pair.value(model))
    others = [(pair, mean_of_others(votes[pair.unit], judge)) for pair in mine]
    gaps = [(pair.question, pair.value(model) - other) for pair, other in others if other is not None]
    return {
        "own": ClusterBootstrap(pair.question for pair in mine).mean([pair.value(model) for pair in mine]),
        "excess": ClusterBootstrap(question for question, _ in gaps).mean([gap for _, gap in gaps]),
    }


def self_preference_of_scores(
    judge: str, model: str, ratings: Sequence[Rating], all_ratings: Sequence[Rating]
) -> Measures | None:
    """Return a judge's score minus the other raters' mean, of its own answers minus of other models' answers."""
    votes = by_rater(all_ratings, lambda rating: rating.score)
    gaps: list[tuple[QuestionId, bool, float]] = []
    for rating in ratings:
        other = mean_of_others(votes[rating.unit], judge)
        if other is not None:
            gaps.append((rating.question, rating.model == model, rating.score - other))
    own, gap = np.array([own for _, own, _ in gaps], dtype=np.float64), np.array([value for *_, value in gaps])
    if not own.any() or own.all():
        return None

    def difference(mine: Floats, my_count: Floats, theirs: Floats, their_count: Floats) -> Floats:
        return mine / my_count - theirs / their_count

    clusters = ClusterBootstrap(question for question, *_ in gaps)
    return {"excess": clusters.interval(difference, gap * own, own, gap * (1 - own), 1 - own)}


def distribution(ratings: Sequence[Rating]) -> dict[str, object]:
    """Return how a judge uses its scale; ``effective_levels`` is the exponential of the entropy of its scores."""
    values = np.array([rating.score for rating in ratings])
    levels, counts = np.unique(values, return_counts=True)
    shares = counts / len(values)
    return {
        "counts": {f"{level:g}": int(count) for level, count in zip(levels, counts, strict=True)},
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "most_common_share": float(shares.max()),
        "effective_levels": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def stability(ratings: Sequence[Rating]) -> Measures | None:
    """Return how scores of one answer vary between repeats; None where nothing was repeated.

    ``judge_sd`` is the standard deviation between repeats. ``reliability`` is the share of a single score's variance
    that lies between answers: the intraclass correlation ICC(1) of Shrout and Fleiss (1979).
    """
    groups: dict[Unit, list[float]] = defaultdict(list)
    for rating in ratings:
        groups[rating.unit].append(rating.score)
    repeated = {unit: np.array(scores) for unit, scores in groups.items() if len(scores) > 1}
    if len(repeated) < 2:
        return None
    clusters = ClusterBootstrap(question for question, *_ in repeated)
    squares = np.array([float(((v - v.mean()) ** 2).sum()) for v in repeated.values()])
    freedom = np.array([len(v) - 1 for v in repeated.values()], dtype=np.float64)
    means = np.array([float(v.mean()) for v in repeated.values()])
    size = float(np.mean([len(v) for v in repeated.values()]))

    def deviation(square: Floats, dof: Floats) -> Floats:
        sd: Floats = np.sqrt(square / dof)
        return sd

    def icc(square: Floats, dof: Floats, n: Floats, total: Floats, total_of_squares: Floats) -> Floats:
        within = square / dof
        between = np.maximum((total_of_squares - total * total / n) / (n - 1) - within / size, 0)
        share: Floats = between / (between + within)
        return share

    return {
        "judge_sd": clusters.interval(deviation, squares, freedom),
        "reliability": clusters.interval(icc, squares, freedom, np.ones(len(repeated)), means, means * means),
        "same_score": clusters.mean([float(len(set(v.tolist())) == 1) for v in repeated.values()]),
    }


def pair_stability(pairs: Sequence[Pair]) -> Measures | None:
    """Return the share of equal outcomes between repeats of the same two games; None where nothing was repeated."""
    winners: dict[Unit, list[str]] = defaultdict(list)
    for pair in pairs:
        winners[pair.unit].append(pair.winner)
    repeated = [(unit[0], pair) for unit, own in winners.items() for pair in itertools.combinations(own, 2)]
    same = [(question, float(one == other)) for question, (one, other) in repeated]
    if not same:
        return None
    return {"same_outcome": ClusterBootstrap(question for question, _ in same).mean([equal for _, equal in same])}
