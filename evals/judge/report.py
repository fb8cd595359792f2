"""Measure the judges of judging folders: the report of ``moemix judge report``, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from evals.judge import biases, verdicts
from evals.judge.journal import resolved_request
from evals.judge.verdicts import PERSON, JudgmentSet, Pair, Rating, by_rater, read_human
from harness.errors import MoemixError
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, percentile_interval, resampling_weights
from harness.statistics.estimates import Floats

# report key → the bias that is detected if the 99 % interval excludes 0
BIASES = {
    "first_place": "prefers answers because of their position",
    "longer_wins": "prefers answers because of their length",
    "excess": "prefers its own answers",
}
Report = dict[str, Any]  # nested dictionaries of intervals and numbers
_REFITS = 400
_STEPS = 25
_PRIOR = 0.05  # precision of a weak prior at 0: keeps estimates finite where a model always wins


def make_report(folders: Sequence[Path], human: Path | None) -> Report:
    """Return everything that judging folders say about their judges, ready for JSON.

    Args:
        folders: judging folders, finished or not.
        human: people's verdicts (:func:`evals.judge.verdicts.read_human`).

    Raises:
        MoemixError: a folder has no judging, nothing was judged yet, or the file of human verdicts is invalid.
    """
    protocols = {request.protocol for folder in folders if (request := resolved_request(folder))}
    judgments = JudgmentSet(apart=len(protocols) > 1)
    for folder in folders:
        judgments.read(folder)
    if not judgments.asked:
        raise MoemixError("nothing has been judged yet", where=", ".join(map(str, folders)))
    pairs_of_people, ratings_of_people = read_human(human) if human else ([], [])
    pairs, ratings = [*judgments.pairs, *pairs_of_people], [*judgments.ratings, *ratings_of_people]
    judges = {judge: _measure(judge, judgments, pairs, ratings) for judge in judgments.asked}
    detected = [
        f"{judge} {BIASES[key]}: {x.value:+.3f} (95 % interval {x.low:+.3f} to {x.high:+.3f}, n = {x.n})"
        for judge, measures in judges.items()
        for key, x in _intervals(measures)
        if key in BIASES and x.flagged
    ]
    return {
        "folders": [str(folder) for folder in folders],
        "judges": _jsonable(judges),
        "agreement": _jsonable(_agreements(list(judgments.asked), pairs, ratings)),
        "win_rates": _jsonable(_win_rates(judgments.pairs)),
        "biases": detected,
        "accusations": detected,  # the name of `biases` in version 0.1
    }


def _measure(judge: str, judgments: JudgmentSet, pairs: Sequence[Pair], ratings: Sequence[Rating]) -> Report:
    model = judge.rsplit(" (", 1)[0] if judgments.apart else judge
    my_pairs = [pair for pair in judgments.pairs if pair.judge == judge]
    my_ratings = [rating for rating in judgments.ratings if rating.judge == judge]
    failed = dict(sorted(judgments.failed[judge].items()))
    measures: Report = {
        "judgments": judgments.asked[judge],
        "failed": failed,
        "failed_share": sum(failed.values()) / judgments.asked[judge],
    }
    if my_pairs:
        measures["position"] = biases.position(my_pairs)
        measures["verbosity"] = biases.verbosity(my_pairs, pairs)
        measures["self_preference"] = biases.self_preference(judge, model, my_pairs, pairs)
        measures["repeats"] = biases.pair_stability(my_pairs)
        measures["ties"] = sum(pair.winner == "tie" for pair in my_pairs) / len(my_pairs)
    if my_ratings:
        measures["distribution"] = biases.distribution(my_ratings)
        measures["verbosity_of_scores"] = biases.verbosity_of_scores(my_ratings, ratings)
        measures["self_preference_of_scores"] = biases.self_preference_of_scores(judge, model, my_ratings, ratings)
        measures["stability"] = biases.stability(my_ratings)
    return measures


def _agreements(judges: Sequence[str], pairs: Sequence[Pair], ratings: Sequence[Rating]) -> Report:
    found: Report = {}
    votes = by_rater(pairs, lambda pair: pair.winner)
    raters = {pair.judge for pair in pairs}
    people = sorted(name for name in raters if name.startswith(PERSON))
    comparing = [judge for judge in judges if judge in raters]
    others = [*combinations(comparing, 2), *((judge, "human") for judge in comparing if people)]
    for one, other in others:
        found[f"{one} and {other}"] = verdicts.agreement(votes, one, other)
    if len(people) > 1:
        found["people among themselves"] = verdicts.agreement_of_people(votes)
    if len(comparing) + len(people) > 1:
        found["alpha_of_verdicts"] = verdicts.krippendorff_of_verdicts(votes, [*comparing, *people])
    scoring = list(dict.fromkeys(rating.judge for rating in ratings))
    if len(scoring) > 1:
        found["alpha_of_scores"] = verdicts.krippendorff_of_scores(
            by_rater(ratings, lambda rating: rating.score), scoring
        )
    return found


# --- win rates --------------------------------------------------------------------------------------


def _win_rates(pairs: Sequence[Pair]) -> Report:
    found: Report = {}
    for judge in dict.fromkeys(pair.judge for pair in pairs):
        mine = [pair for pair in pairs if pair.judge == judge]
        found[judge] = {
            model: {"adjusted": win_rate(mine, model), "length_controlled": length_controlled(mine, model)}
            for model in sorted({model for pair in mine for model in pair.models})
        }
    return found


def win_rate(pairs: Sequence[Pair], model: str) -> BootstrapInterval | None:
    """Return the adjusted win rate of a model over its pairs: wins, and half of the ties."""
    mine = [pair for pair in pairs if model in pair.models]
    return ClusterBootstrap(pair.question for pair in mine).mean([(pair.value(model) + 1) / 2 for pair in mine])


def length_controlled(pairs: Sequence[Pair], model: str) -> BootstrapInterval | None:
    """Return the win rate of a model if both answers had the same length.

    The outcome follows a logistic model, ``logit P = θ + β · tanh(Δ / s)``, with Δ the difference of the lengths and s
    its standard deviation (Dubois et al. 2024, without their term for the difficulty of a question). It is fitted by
    penalised maximum likelihood, where a tie counts half; the win rate is the logistic function of θ.
    """
    mine = [pair for pair in pairs if model in pair.models]
    clusters = ClusterBootstrap(pair.question for pair in mine)
    if clusters.count < 2:
        return None
    won = np.array([(pair.value(model) + 1) / 2 for pair in mine])
    signs = np.array([1.0 if pair.models[0] == model else -1.0 for pair in mine])
    longer = signs * np.array([pair.lengths[0] - pair.lengths[1] for pair in mine], dtype=np.float64)
    spread = longer.std()
    length = np.tanh(longer / spread) if spread else np.zeros(len(longer))
    weights = resampling_weights(clusters.count, _REFITS)[:, clusters.of]
    value = _fit(won, length, np.ones((1, len(mine))))[0]
    return percentile_interval(float(value), _fit(won, length, weights), len(mine))


def _fit(won: Floats, length: Floats, weights: Floats) -> Floats:
    """Fit the logistic model once for every row of ``weights`` f64[B, n], by Newton's method.

    Returns:
        f64[B], the win rate at equal length.
    """
    theta, beta = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        p = _logistic(theta[:, None] + beta[:, None] * length)
        error, curvature = weights * (won - p), weights * p * (1 - p)
        g0, g1 = error.sum(1) - _PRIOR * theta, error @ length - _PRIOR * beta
        h00 = curvature.sum(1) + _PRIOR
        h01 = curvature @ length
        h11 = curvature @ (length * length) + _PRIOR
        determinant = h00 * h11 - h01 * h01
        theta += np.clip((h11 * g0 - h01 * g1) / determinant, -2, 2)
        beta += np.clip((h00 * g1 - h01 * g0) / determinant, -2, 2)
    return _logistic(theta)


def _logistic(x: Floats) -> Floats:
    value: Floats = 1 / (1 + np.exp(-np.clip(x, -40, 40)))
    return value


# --- data and text ----------------------------------------------------------------------------------


def _intervals(tree: object, name: str = "") -> Iterator[tuple[str, BootstrapInterval]]:
    if isinstance(tree, BootstrapInterval):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _intervals(value, str(key))


def _jsonable(tree: object) -> object:
    if isinstance(tree, BootstrapInterval):
        return tree.as_json()
    return {key: _jsonable(value) for key, value in tree.items()} if isinstance(tree, Mapping) else tree


def as_text(report: Report) -> str:
    """Return a report as text, one line for each figure."""
    lines: list[str] = []
    for judge, measures in report["judges"].items():
        share = 100 * measures["failed_share"]
        lines.append(f"judge {judge}: {measures['judgments']} judgments, {share:.1f} % failed")
        lines += [f"  failed {reason}: {count}" for reason, count in measures["failed"].items()]
        lines += _lines({key: value for key, value in measures.items() if isinstance(value, dict) and key != "failed"})
        reliability = (measures.get("stability") or {}).get("reliability")
        if reliability and reliability["high"] < 0.5:
            lines.append(
                "  unreliable: repeated scores of one answer differ more than the scores of different answers,"
            )
            lines.append("  so the averages of models are mostly chance")
    for title, key in (("agreement", "agreement"), ("win rates", "win_rates")):
        if report[key]:
            lines += [title, *_lines(report[key], n=True)]
    if report["biases"]:
        lines += ["biases detected (their 99 % intervals exclude 0):", *(f"  {text}" for text in report["biases"])]
    else:
        lines.append("no bias of position, length or own answers detected (no 99 % interval excludes 0)")
    return "\n".join(lines) + "\n"


def _figure(value: Any, *, n: bool = False) -> str:
    """Return a figure as text: an interval, counts, a list or a number."""
    if isinstance(value, dict) and "low" in value:
        count = f", n = {value['n']}" if n else ""
        return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f}{count})"
    if isinstance(value, dict):
        return ", ".join(f"{key} × {count}" for key, count in value.items())
    return ", ".join(value) if isinstance(value, list) else f"{value:.3f}"


def _lines(tree: Report, label: str = "  ", *, n: bool = False) -> Iterator[str]:
    """Yield a line for each figure of a tree; with ``n``, also from how many observations it was computed."""
    for key, value in tree.items():
        name = f"{label}{key if n else key.replace('_', ' ')}"
        if isinstance(value, dict) and "low" not in value and key != "counts":
            yield from _lines(value, f"{name}, ", n=n)
        elif value is not None:
            yield f"{name}: {_figure(value, n=n)}"
