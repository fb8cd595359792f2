"""``moemix judge report``: the judge measured, as data and in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from evals.judge import biases
from evals.judge.agreement import agreement, krippendorff, people_agree
from evals.judge.verdicts import Held, Pair, Score, by_unit, read_folders, read_human
from evals.judge.win_rates import length_controlled, win_rate
from harness.errors import MoemixError
from harness.statistics.bootstrap import BootstrapInterval

# report key → what the judge is accused of when the 99 % interval excludes 0
FAULTS = {
    "first_place": "prefers an answer for its place",
    "longer_wins": "prefers an answer for its length",
    "excess": "prefers its own answers",
}


def make_report(folders: Sequence[Path], human: Path | None) -> dict[str, Any]:
    """Everything that judging folders say about their judges.

    Raises:
        MoemixError: a folder without judgments, or a bad file of human verdicts.
    """
    held = read_folders(folders)
    if not held.asked:
        raise MoemixError("nothing has been judged yet", where=", ".join(map(str, folders)))
    pairs_of_people, scores_of_people = read_human(human) if human else ([], [])
    pairs, scores = [*held.pairs, *pairs_of_people], [*held.scores, *scores_of_people]
    report: dict[str, Any] = {
        "folders": [str(folder) for folder in folders],
        "judges": {judge: _judge(judge, held, pairs, scores) for judge in held.judges},
        "agreement": _agreements(held, pairs, scores),
        "win_rates": _win_rates(held),
    }
    report["accusations"] = [
        f"{judge} {FAULTS[key]}: {_words(found)}"
        for judge, said in report["judges"].items()
        for key, found in _intervals(said)
        if key in FAULTS and found.flagged
    ]
    return _jsonable(report)  # type: ignore[no-any-return]


def _judge(judge: str, held: Held, pairs: Sequence[Pair], scores: Sequence[Score]) -> dict[str, Any]:
    mine = [pair for pair in held.pairs if pair.judge == judge]
    ratings = [score for score in held.scores if score.judge == judge]
    failed = dict(sorted(held.failed.get(judge, {}).items()))
    found: dict[str, Any] = {
        "judgments": held.asked[judge],
        "failed": failed,
        "failed_share": sum(failed.values()) / held.asked[judge],
    }
    if mine:
        found["position"] = biases.position(mine)
        found["verbosity"] = biases.verbosity(mine, pairs)
        found["self_preference"] = biases.self_preference(judge, mine, pairs)
        found["repeats"] = biases.pair_stability(mine)
        found["ties"] = sum(pair.outcome == "tie" for pair in mine) / len(mine)
    if ratings:
        found["distribution"] = biases.distribution(ratings)
        found["verbosity_of_scores"] = biases.verbosity_of_scores(ratings, scores)
        found["self_preference_of_scores"] = biases.self_preference_of_scores(judge, ratings, scores)
        found["stability"] = biases.stability(ratings)
    return found


def _agreements(held: Held, pairs: Sequence[Pair], scores: Sequence[Score]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    units = by_unit(pairs)
    people = sorted({pair.judge for pair in pairs if pair.judge.startswith("human:")})
    judges = [judge for judge in held.judges if any(pair.judge == judge for pair in held.pairs)]
    others = [(one, other) for i, one in enumerate(judges) for other in judges[i + 1 :]]
    others += [(judge, "human") for judge in judges if people]
    for one, other in others:
        found[f"{one} and {other}"] = {
            name: {
                "with_ties": agreement(units, one, other, turn=turn, ties=True),
                "without_ties": agreement(units, one, other, turn=turn, ties=False),
            }
            for name, turn in (("all", None), ("turn_1", 1), ("turn_2", 2))
        }
    if len(people) > 1:
        found["people among themselves"] = {
            name: {
                "with_ties": people_agree(units, turn=turn, ties=True),
                "without_ties": people_agree(units, turn=turn, ties=False),
            }
            for name, turn in (("all", None), ("turn_1", 1), ("turn_2", 2))
        }
    if len(judges) + len(people) > 1:
        found["alpha_of_verdicts"] = krippendorff(units, [*judges, *people], scale="nominal")
    rated: dict[tuple[Any, ...], dict[str, list[Any]]] = {}
    for score in scores:
        rated.setdefault((score.question, score.turn, score.model), {}).setdefault(score.judge, []).append(score.score)
    raters = list(dict.fromkeys(score.judge for score in scores))
    if len(raters) > 1:
        found["alpha_of_scores"] = krippendorff(rated, raters, scale="interval")
    return found


def _win_rates(held: Held) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for judge in dict.fromkeys(pair.judge for pair in held.pairs):
        pairs = [pair for pair in held.pairs if pair.judge == judge]
        for model in sorted({model for pair in pairs for model in pair.models}):
            found.setdefault(judge, {})[model] = {
                "adjusted": win_rate(pairs, model),
                "length_controlled": length_controlled(pairs, model),
            }
    return found


def _intervals(tree: Any, name: str = "") -> Iterable[tuple[str, BootstrapInterval]]:
    if isinstance(tree, BootstrapInterval):
        yield name, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _intervals(value, key)


def _jsonable(tree: Any) -> Any:
    if isinstance(tree, BootstrapInterval):
        return tree.as_json()
    if isinstance(tree, dict):
        return {key: _jsonable(value) for key, value in tree.items()}
    return [_jsonable(value) for value in tree] if isinstance(tree, list) else tree


def _words(found: BootstrapInterval) -> str:
    return f"{found.value:+.3f} (95 % interval {found.low:+.3f} to {found.high:+.3f}, n = {found.n})"


def in_words(report: dict[str, Any]) -> str:
    """The report as text: one line for each figure, what it means beside it."""
    lines: list[str] = []
    for judge, said in report["judges"].items():
        lines.append(f"judge {judge}: {said['judgments']} judgments, {100 * said['failed_share']:.1f} % failed")
        lines += [f"  failed {reason}: {count}" for reason, count in said["failed"].items()]
        for section, values in said.items():
            if isinstance(values, dict) and section != "failed":
                lines += _section(section, values)
        reliability = said.get("stability", {}).get("reliability")
        if reliability and reliability["high"] < 0.5:
            lines.append("  unreliable: asked again about an answer it differs with itself more than between answers,")
            lines.append("  so what its averages tell of models is mostly chance")
    for title, tree in (("agreement", report["agreement"]), ("win rates", report["win_rates"])):
        if tree:
            lines.append(title)
            lines += _tree(tree, "  ")
    if report["accusations"]:
        lines += ["found (99 % interval without 0):", *(f"  {text}" for text in report["accusations"])]
    else:
        lines.append("no pull of place, length or own answers was found (no 99 % interval is without 0)")
    return "\n".join(lines) + "\n"


def _section(name: str, values: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in values.items():
        label = f"  {name.replace('_', ' ')}, {key.replace('_', ' ')}"
        if isinstance(value, dict) and "low" in value:
            lines.append(f"{label}: {value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})")
        elif isinstance(value, dict):
            lines.append(f"{label}: " + ", ".join(f"{k} × {v}" for k, v in value.items()))
        elif isinstance(value, list):
            lines.append(f"{label}: {', '.join(value)}")
        elif value is not None:
            lines.append(f"{label}: {value:.3f}")
    return lines


def _tree(tree: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict) and "low" in value:
            lines.append(
                f"{indent}{key}: {value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f}, n = {value['n']})"
            )
        elif isinstance(value, dict):
            lines += [f"{indent}{key}", *_tree(value, indent + "  ")]
    return lines
