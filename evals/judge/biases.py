"""What moves a judge besides the answers: their order, their length, whose they are, and chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.judge.verdicts import Pair, Score, mean_of_others, ordered
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, residuals


def position(pairs: Sequence[Pair]) -> dict[str, BootstrapInterval | None]:
    """How often both orders give the same verdict, and the pull of the first place.

    ``first_place`` is the share of games won by the answer shown first, minus the share won by the one shown second:
    0 for a judge without a preference (whatever the answers, since each is shown in both places), 1 for one that
    always picks the first.
    """
    clusters = ClusterBootstrap(pair.question for pair in pairs)
    same = [float(pair.games[0] == pair.games[1]) for pair in pairs]
    pull = []
    for pair in pairs:
        first = {"model_1": 1, "model_2": -1}.get(pair.games[0], 0)
        second = {"model_2": 1, "model_1": -1}.get(pair.games[1], 0)
        pull.append((first + second) / 2)
    return {"consistency": clusters.mean(same), "first_place": clusters.mean(pull)}


def verbosity(pairs: Sequence[Pair], everybody: Sequence[Pair]) -> dict[str, Any]:
    """The pull of length in pairs of answers.

    ``longer_wins`` is the share of pairs won by the longer answer minus the share won by the shorter one.
    ``partial_correlation`` is that of the verdict with the difference of log lengths, without what the pair of models
    explains, nor what other raters (a panel, people) say of the same two answers where there are any. Without other
    raters nobody knows whether the longer answers were the better ones.
    """
    apart = np.array([math.log1p(pair.lengths[0]) - math.log1p(pair.lengths[1]) for pair in pairs])
    values = np.array([pair.value for pair in pairs])
    unequal = np.flatnonzero(apart != 0)
    chosen = ClusterBootstrap(pairs[i].question for i in unequal)
    longer = chosen.mean(np.sign(apart[unequal]) * values[unequal]) if len(unequal) else None
    controls: list[Any] = [np.array([" ".join(pair.models) for pair in pairs])]
    others = _others_pairs(pairs, everybody)
    if others is not None:
        controls.append(others)
    clusters = ClusterBootstrap(pair.question for pair in pairs)
    partial = clusters.correlation(residuals(apart, controls), residuals(values, controls))
    return {
        "longer_wins": longer,
        "partial_correlation": partial,
        "controlled_for": ["models", *(["other raters"] if others is not None else [])],
    }


def verbosity_of_scores(scores: Sequence[Score], everybody: Sequence[Score]) -> dict[str, Any]:
    """The partial correlation of ratings with log length, without what model, category and other raters explain."""
    lengths = np.array([math.log1p(score.length) for score in scores])
    values = np.array([score.score for score in scores])
    held: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for score in everybody:
        held.setdefault((score.question, score.turn, score.model), {}).setdefault(score.judge, []).append(score.score)
    others = [mean_of_others(held[score.question, score.turn, score.model], score.judge) for score in scores]
    controls: list[Any] = [
        np.array([score.model for score in scores]),
        np.array([f"{score.category} {score.turn}" for score in scores]),
    ]
    panel = all(value is not None for value in others)
    if panel:
        controls.append(np.array(others, dtype=np.float64))
    clusters = ClusterBootstrap(score.question for score in scores)
    partial = clusters.correlation(residuals(lengths, controls), residuals(values, controls))
    controlled = ["model", "category", "turn", *(["other raters"] if panel else [])]
    return {"partial_correlation": partial, "controlled_for": controlled}


def self_preference(judge: str, pairs: Sequence[Pair], everybody: Sequence[Pair]) -> dict[str, Any] | None:
    """How much more a judge favours its own answers than other raters do on the same pairs; None if it has none.

    ``own`` is the share of its own wins minus that of its losses. ``excess`` is ``own`` minus the same by the other
    raters: only that tells preference from quality.
    """
    mine = [pair for pair in pairs if judge in pair.models]
    if not mine:
        return None
    own = np.array([_for(pair, judge) for pair in mine])
    clusters = ClusterBootstrap(pair.question for pair in mine)
    found: dict[str, Any] = {"own": clusters.mean(own), "excess": None}
    held: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for pair in everybody:
        if judge in pair.models:
            held.setdefault(_unit(pair), {}).setdefault(pair.judge, []).append(_for(pair, judge))
    others = [mean_of_others(held[_unit(pair)], judge) for pair in mine]
    known = [i for i, value in enumerate(others) if value is not None]
    if known:
        gap = [own[i] - (others[i] or 0.0) for i in known]
        found["excess"] = ClusterBootstrap(mine[i].question for i in known).mean(gap)
    return found


def self_preference_of_scores(judge: str, scores: Sequence[Score], everybody: Sequence[Score]) -> dict[str, Any] | None:
    """The same for ratings: a judge's rating minus the other raters', of its own answers minus of other models'."""
    held: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for score in everybody:
        held.setdefault((score.question, score.turn, score.model), {}).setdefault(score.judge, []).append(score.score)
    own, gaps, questions = [], [], []
    for score in scores:
        other = mean_of_others(held[score.question, score.turn, score.model], judge)
        if other is not None:
            own.append(float(score.model == judge))
            gaps.append(score.score - other)
            questions.append(score.question)
    if not any(own) or all(own):
        return None
    mine, gap = np.array(own), np.array(gaps)

    def statistic(a: Any, na: Any, b: Any, nb: Any) -> Any:
        return a / na - b / nb

    excess = ClusterBootstrap(questions).interval(statistic, gap * mine, mine, gap * (1 - mine), 1 - mine)
    return {"excess": excess}


def distribution(scores: Sequence[Score]) -> dict[str, Any]:
    """How a judge uses its scale."""
    values = np.array([score.score for score in scores])
    counts = Counter(f"{value:g}" for value in values.tolist())
    shares = np.array(list(counts.values())) / len(values)
    return {
        "counts": dict(sorted(counts.items(), key=lambda item: float(item[0]))),
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "most_common_share": float(shares.max()),
        "effective_levels": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def stability(scores: Sequence[Score]) -> dict[str, Any] | None:
    """How ratings of one answer vary between repeats; None where nothing was repeated.

    ``judge_sd`` is the standard deviation between repeats of the same judgment. ``reliability`` is the share of a
    single rating's variance that lies between answers (ICC 1).
    """
    groups: dict[tuple[Any, ...], list[float]] = {}
    for score in scores:
        groups.setdefault((score.question, score.turn, score.model), []).append(score.score)
    held = {key: np.array(values) for key, values in groups.items() if len(values) > 1}
    if len(held) < 2:
        return None
    clusters = ClusterBootstrap(key[0] for key in held)
    squares = np.array([float(((v - v.mean()) ** 2).sum()) for v in held.values()])
    freedom = np.array([len(v) - 1 for v in held.values()], dtype=np.float64)
    means = np.array([float(v.mean()) for v in held.values()])
    size = float(np.mean([len(v) for v in held.values()]))

    def sd(square: Any, dof: Any) -> Any:
        return np.sqrt(square / dof)

    def icc(square: Any, dof: Any, n: Any, total: Any, total2: Any) -> Any:
        within = square / dof
        between = np.maximum((total2 - total * total / n) / (n - 1) - within / size, 0)
        return between / (between + within)

    ones = np.ones(len(held))
    return {
        "judge_sd": clusters.interval(sd, squares, freedom),
        "reliability": clusters.interval(icc, squares, freedom, ones, means, means * means),
        "same_score": clusters.mean([float(len(set(v.tolist())) == 1) for v in held.values()]),
    }


def pair_stability(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """The share of equal outcomes between repeats of the same two games; None where nothing was repeated."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for pair in pairs:
        groups.setdefault((pair.question, pair.turn, pair.models), []).append(pair.outcome)
    questions, same = [], []
    for (question, *_), outcomes in groups.items():
        for i in range(len(outcomes)):
            for other in outcomes[i + 1 :]:
                questions.append(question)
                same.append(float(outcomes[i] == other))
    return {"same_outcome": ClusterBootstrap(questions).mean(same)} if questions else None


def _others_pairs(pairs: Sequence[Pair], everybody: Sequence[Pair]) -> Any:
    """For each pair what other raters say of it, −1 … 1; None unless all have been rated by somebody else."""
    held: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for pair in everybody:
        first = sorted(pair.models)[0]
        held.setdefault(_unit(pair), {}).setdefault(pair.judge, []).append(_for(pair, first))
    found = []
    for pair in pairs:
        value = mean_of_others(held[_unit(pair)], pair.judge)
        if value is None:
            return None
        found.append(value if pair.models[0] == sorted(pair.models)[0] else -value)
    return np.array(found)


def _unit(pair: Pair) -> tuple[Any, ...]:
    return pair.question, pair.turn, ordered(pair)[0]


def _for(pair: Pair, model: str) -> float:
    """1 where ``model`` wins, −1 where it loses."""
    return pair.value if pair.models[0] == model else -pair.value
