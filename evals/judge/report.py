"""Measure the judges of judging folders: the report of ``moemix judge report``, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from evals.judge import biases, verdicts
from evals.judge.accuracy import auc
from evals.judge.journal import resolved_request
from evals.judge.verdicts import PERSON, JudgmentSet, Pair, Rating, Unit, by_rater, read_human
from evals.judge.win_rates import bradley_terry, length_controlled, win_rate
from harness.errors import MoemixError
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, as_json

# report key → the bias that is detected if the 99 % interval excludes 0
BIASES = {
    "first_place": "prefers answers because of their position",
    "longer_wins": "prefers answers because of their length",
    "excess": "prefers its own answers",
}
Report = dict[str, Any]  # nested dictionaries of intervals and numbers
_CHANCE = 0.5  # a judge whose reliability surely lies below this is called unreliable
_MANY = 20  # verdicts from which it means something that all are the same


def make_report(folders: Sequence[Path], human: Path | None) -> Report:
    """Return everything that judging folders, finished or not, say about their judges, ready for JSON.

    ``human`` is a file of people's verdicts (:func:`evals.judge.verdicts.read_human`).

    Raises:
        MoemixError: a folder has no judging, nothing was judged yet, or the file of human verdicts is invalid.
    """
    protocols = {request.protocol for folder in folders if (request := resolved_request(folder))}
    judgments = JudgmentSet(apart={"strict", "faithful"} <= protocols)
    for folder in folders:
        judgments.read(folder)
    if not judgments.asked:
        what = "only the reference grader has graded" if judgments.right else "nothing has been judged yet"
        raise MoemixError(what, where=", ".join(map(str, folders)), hint="give the folder of a judging by a judge")
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
        "judges": as_json(judges),
        "agreement": as_json(_agreements(list(judgments.asked), pairs, ratings)),
        "win_rates": as_json(_win_rates(judgments.pairs)),
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
        both_orders = [pair for pair in my_pairs if pair.preference is None]
        measures["position"] = biases.position(both_orders) if both_orders else None
        measures["verbosity"] = biases.verbosity(my_pairs, pairs)
        measures["self_preference"] = biases.self_preference(judge, model, my_pairs, pairs)
        measures["repeats"] = biases.pair_stability(my_pairs)
        measures["ties"] = sum(pair.winner == "tie" for pair in my_pairs) / len(my_pairs)
    if my_ratings:
        measures["distribution"] = biases.distribution(my_ratings)
        measures["verbosity_of_scores"] = biases.verbosity_of_scores(my_ratings, ratings)
        measures["self_preference_of_scores"] = biases.self_preference_of_scores(judge, model, my_ratings, ratings)
        measures["stability"] = biases.stability(my_ratings)
    measures["against_checks"] = _against_checks(my_ratings, my_pairs, judgments.right)
    measures["unreliable"] = _unreliable(measures, my_ratings, my_pairs)
    return measures


def _against_checks(ratings: Sequence[Rating], pairs: Sequence[Pair], right: Mapping[Unit, bool]) -> Report | None:
    """Return how a judge's verdicts agree with the reference grader; None where it graded none of these answers.

    ``auc`` is the probability that a right answer has a higher score than a wrong one (chance: ½), ``accuracy`` the
    share of pairs of a right and a wrong answer that the right one wins, a tie counting half.
    """
    rated = [rating for rating in ratings if rating.unit in right]
    graded = [(pair, [right.get((pair.question, pair.turn, model)) for model in pair.models]) for pair in pairs]
    decided = [(pair, pair.models[goods.index(True)]) for pair, goods in graded if set(goods) == {True, False}]
    if not rated and not decided:
        return None
    return {
        "auc": auc([r.score for r in rated], [right[r.unit] for r in rated], [r.question for r in rated]),
        "accuracy": ClusterBootstrap(pair.question for pair, _ in decided).mean(
            [(pair.value(better) + 1) / 2 for pair, better in decided]
        ),
    }


def _unreliable(measures: Report, ratings: Sequence[Rating], pairs: Sequence[Pair]) -> list[str]:
    """Return why a judge's verdicts are mostly chance, or say nothing."""
    found = []
    reliability = (measures.get("stability") or {}).get("reliability")
    if reliability and reliability.high < _CHANCE:
        found.append("repeated scores of one answer differ more than the scores of different answers")
    if len(ratings) >= _MANY and len({rating.score for rating in ratings}) == 1:
        found.append(f"every score is {ratings[0].score:g}")
    orders = (measures.get("position") or {}).get("alpha")
    if orders and orders.high < _CHANCE:
        found.append("two answers shown in the other order mostly get another verdict")
    if len(pairs) >= _MANY and all(pair.games == ("tie", "tie") for pair in pairs):
        found.append("every verdict is a tie")
    return found


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
        plain, styled = bradley_terry(mine, style=False), bradley_terry(mine, style=True)
        found[judge] = {
            model: {
                "adjusted": win_rate(mine, model),
                "length_controlled": length_controlled(mine, model),
                "bradley_terry": plain.get(model),
                "style_controlled": styled.get(model),
            }
            for model in sorted({model for pair in mine for model in pair.models})
        }
    return found


# --- data and text ----------------------------------------------------------------------------------


def _intervals(tree: object, name: str = "") -> Iterator[tuple[str, BootstrapInterval]]:
    if isinstance(tree, BootstrapInterval):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _intervals(value, str(key))


def as_text(report: Report) -> str:
    """Return a report as text, one line for each figure."""
    lines: list[str] = []
    for judge, measures in report["judges"].items():
        share = 100 * measures["failed_share"]
        lines.append(f"judge {judge}: {measures['judgments']} judgments, {share:.1f} % failed")
        lines += [f"  failed {reason}: {count}" for reason, count in measures["failed"].items()]
        lines += _lines({key: value for key, value in measures.items() if isinstance(value, dict) and key != "failed"})
        lines += [f"  unreliable: {text}; what it says of models is mostly chance" for text in measures["unreliable"]]
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
