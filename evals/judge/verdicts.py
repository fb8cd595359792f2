"""The verdicts of judges and people as a report reads them, and how far the raters agree."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from evals.judge.journal import journal_path, match_games, read_judgments, resolved_request
from evals.judge.records import Line, QuestionId, pair_outcome
from harness.errors import MoemixError
from harness.files import read_jsonl
from harness.requests import RESOLVED
from harness.statistics.bootstrap import BootstrapInterval, ClusterBootstrap, percentile_interval, resampling_weights
from harness.statistics.estimates import Floats

PERSON = "human:"  # the names of people begin with this
TURNS = {"all": None, "turn_1": 1, "turn_2": 2}
_HUMAN_WINNERS = {"model_a": "model_1", "model_b": "model_2", "model_1": "model_1", "model_2": "model_2"}


Unit = tuple[QuestionId | str, ...]  # what several raters may have judged: a question, a turn, and one or two models


@dataclass(frozen=True)
class Rating:
    """A judge's score of an answer with ``length`` characters."""

    judge: str
    question: QuestionId
    turn: int
    model: str
    category: str
    repeat: int
    score: float
    length: int

    @property
    def unit(self) -> Unit:
        """What is rated."""
        return self.question, self.turn, self.model


@dataclass(frozen=True)
class Pair:
    """A judge's verdict on two answers.

    Attributes:
        games: the winner with the first model shown first, and with it shown second; a person's verdict counts twice.
        lengths: characters of the two answers.
        marks: headers, list items and bold passages of the two answers.
        preference: from 0 to 1, how much the first model is preferred, where the judge stated that instead of a winner;
            only one order was then shown.
        strengths: for how many wins each game counts in a Bradley–Terry model: 3 for much better in Arena-Hard.
    """

    judge: str
    question: QuestionId
    turn: int
    models: tuple[str, str]
    category: str
    repeat: int
    games: tuple[str, str]
    lengths: tuple[int, int]
    marks: tuple[tuple[int, ...], tuple[int, ...]] = ((0, 0, 0), (0, 0, 0))
    preference: float | None = None
    strengths: tuple[float, float] = (1, 1)

    @property
    def styles(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Characters and Markdown marks of the two answers (:func:`evals.judge.style.style_of`)."""
        return (self.lengths[0], *self.marks[0]), (self.lengths[1], *self.marks[1])

    @property
    def unit(self) -> Unit:
        """What is compared; the models are in alphabetical order."""
        return self.question, self.turn, *sorted(self.models)

    @property
    def winner(self) -> str:
        """The name of the model that wins both games, or ``tie``."""
        return {"model_1": self.models[0], "model_2": self.models[1]}.get(pair_outcome(*self.games), "tie")

    def value(self, model: str) -> float:
        """Return 1 where ``model`` wins, −1 where it loses, 0 for a tie, or what lies between for a preference."""
        if self.preference is not None:
            return (2 * self.preference - 1) * (1.0 if model == self.models[0] else -1.0)
        return {model: 1.0, "tie": 0.0}.get(self.winner, -1.0)


Item = TypeVar("Item", Rating, Pair)
Vote = TypeVar("Vote", str, float)
Votes = Mapping[Unit, Mapping[str, Sequence[Vote]]]  # unit → rater → its verdicts


@dataclass
class JudgmentSet:
    """All judgments that a report is about.

    Attributes:
        apart: whether a judge under each protocol counts as a judge of its own: ``name (strict)``.
        failed: judge → reason → number of failed judgments.
        asked: judge → number of judgments, failed ones included.
        right: whether the reference grader found an answer right; it is a rule, and not one of the judges.
    """

    apart: bool = False
    ratings: list[Rating] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    failed: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    asked: Counter[str] = field(default_factory=Counter)
    right: dict[Unit, bool] = field(default_factory=dict)

    def read(self, folder: Path) -> None:
        """Add the judgments of a judging folder, whether it is finished or not.

        Raises:
            MoemixError: the folder has no judging.
        """
        request = resolved_request(folder)
        if request is None:
            raise MoemixError(f"the folder has no judging: {RESOLVED} is missing", where=str(folder))
        if request.protocol == "reference":
            for line in read_judgments(journal_path(folder, request.judges[0].name, request.mode)):
                if not line["reason"]:
                    self.right[_rating(line).unit] = line["score"] > 0
            return
        for judge in request.judges:
            label = f"{judge.name} ({request.protocol})" if self.apart else judge.name
            read = read_judgments(journal_path(folder, judge.name, request.mode))
            lines = self._counted({**line, "judge": [label, *line["judge"][1:]]} for line in read)
            if request.mode == "pairwise":
                self.pairs += [pair_of(*games) for games in match_games(lines) if not any(g["reason"] for g in games)]
            else:
                self.ratings += [_rating(line) for line in lines if not line["reason"]]

    def _counted(self, lines: Iterable[Line]) -> Iterator[Line]:
        for line in lines:
            self.asked[line["judge"][0]] += 1
            if reason := line["reason"]:
                self.failed[line["judge"][0]][reason] += 1
            yield line


def _rating(line: Line) -> Rating:
    return Rating(
        line["judge"][0], line["question_id"], line["turn"], line["model"], line["category"], line["repeat"],
        line["score"], line["lengths"][0],
    )  # fmt: skip


def pair_of(one: Line, two: Line) -> Pair:
    """Return the verdict of two games."""
    first, second = one["lengths"]
    marks = [tuple(style[1:]) for style in one.get("styles", ())] or [(0, 0, 0)] * 2  # 0.1 stored no styles
    return Pair(
        one["judge"][0], one["question_id"], one["turn"], (one["model_1"], one["model_2"]), one["category"],
        one["repeat"], (one["winner"], two["winner"]), (first, second), (marks[0], marks[1]),
        one.get("preference"), (one.get("strength", 1), two.get("strength", 1)),
    )  # fmt: skip


def read_human(file: Path) -> tuple[list[Pair], list[Rating]]:
    """Read people's verdicts: pairs as MT-Bench publishes them, or ratings.

    A row of pairs has ``question_id``, ``turn``, ``judge``, ``model_a``, ``model_b`` and ``winner``; a row of ratings
    has ``model`` and ``score`` in place of the last three.

    Raises:
        MoemixError: the file is missing, or a row is not a verdict (with file and line).
    """
    if not file.is_file():
        raise MoemixError("the file of human verdicts does not exist", where=str(file))
    pairs, ratings = [], []
    for number, row in enumerate(read_jsonl(file), 1):
        try:
            person = row.get("judge", "human")
            name = f"{PERSON}{person[0] if isinstance(person, list) else person}"
            question, turn = row["question_id"], int(row.get("turn", 1))
            if "score" in row:
                ratings.append(Rating(name, question, turn, row["model"], "", 0, float(row["score"]), 0))
                continue
            models = (row.get("model_a") or row["model_1"], row.get("model_b") or row["model_2"])
            stated = str(row["winner"])
            winner = "tie" if stated.startswith("tie") else _HUMAN_WINNERS[stated]
            pairs.append(Pair(name, question, turn, models, "", 0, (winner, winner), (0, 0)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            hint = "expected question_id, turn, judge and model_a, model_b, winner; or model and score"
            raise MoemixError(f"not a human verdict: {error!r}", where=f"{file}:{number}", hint=hint) from None
    return pairs, ratings


def by_rater(items: Iterable[Item], vote: Callable[[Item], Vote]) -> dict[Unit, dict[str, list[Vote]]]:
    """Group verdicts by what they are about and by rater."""
    votes: dict[Unit, dict[str, list[Vote]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        votes[item.unit][item.judge].append(vote(item))
    return votes


def mean_of_others(votes: Mapping[str, Sequence[float]], judge: str) -> float | None:
    """Return the mean of all raters' values but one judge's; None where nobody else rated."""
    others = [value for name, values in votes.items() if name != judge for value in values]
    return sum(others) / len(others) if others else None


# --- agreement --------------------------------------------------------------------------------------

Agreement = dict[str, dict[str, BootstrapInterval | None]]  # turn → with_ties, without_ties
Compare = Callable[[Mapping[str, Sequence[str]]], Iterable[tuple[str, str]]]  # all verdicts on a unit → pairs of them


def agreement(votes: Votes[str], one: str, other: str) -> Agreement:
    """Return the share of equal verdicts of two judges, over every pair of their verdicts on the same answers.

    The other may be ``human``, for all people together.
    """

    def compared(own: Mapping[str, Sequence[str]]) -> Iterable[tuple[str, str]]:
        names = [name for name in own if name == other or (other == "human" and name.startswith(PERSON))]
        return itertools.product(own.get(one, ()), [vote for name in names for vote in own[name]])

    return _equal_share(votes, compared)


def agreement_of_people(votes: Votes[str]) -> Agreement:
    """Return the share of equal verdicts of any two people, which is what a judge can be measured against."""
    return _equal_share(
        votes, lambda own: itertools.combinations([own[name][0] for name in own if name.startswith(PERSON)], 2)
    )


def _equal_share(votes: Votes[str], compared: Compare) -> Agreement:
    pairs = [(unit, pair) for unit, own in votes.items() for pair in compared(own)]

    def share(turn: int | None, ties: bool) -> BootstrapInterval | None:
        chosen = [p for p in pairs if turn in (None, p[0][1]) and (ties or "tie" not in p[1])]
        equal = [float(one == other) for _, (one, other) in chosen]
        return ClusterBootstrap(unit[0] for unit, _ in chosen).mean(equal)

    return {name: {"with_ties": share(t, True), "without_ties": share(t, False)} for name, t in TURNS.items()}


def krippendorff_of_verdicts(votes: Votes[str], raters: Sequence[str]) -> BootstrapInterval | None:
    """Return Krippendorff's alpha of nominal verdicts; of repeated verdicts by one rater the first counts."""
    levels = sorted({vote for own in votes.values() for values in own.values() for vote in values})
    firsts = {unit: [levels.index(own[r][0]) for r in raters if own.get(r)] for unit, own in votes.items()}
    return _krippendorff(firsts, 1.0 - np.eye(len(levels)))


def krippendorff_of_orders(pairs: Sequence[Pair]) -> BootstrapInterval | None:
    """Return Krippendorff's alpha of the verdicts in both orders, as of two raters."""
    winners = [[pair.models[int(game[-1]) - 1] if game != "tie" else "tie" for game in pair.games] for pair in pairs]
    levels = sorted({winner for both in winners for winner in both})
    numbers = {
        (*pair.unit, str(pair.repeat)): [levels.index(winner) for winner in both]
        for pair, both in zip(pairs, winners, strict=True)
    }
    return _krippendorff(numbers, 1.0 - np.eye(len(levels)))


def krippendorff_of_scores(votes: Votes[float], raters: Sequence[str]) -> BootstrapInterval | None:
    """Return Krippendorff's alpha of scores on an interval scale; repeated scores by one rater count as their mean."""
    means = {unit: [round(float(np.mean(own[r])), 6) for r in raters if own.get(r)] for unit, own in votes.items()}
    levels = sorted({value for values in means.values() for value in values})
    numbers = {unit: [levels.index(value) for value in values] for unit, values in means.items()}
    return _krippendorff(numbers, np.subtract.outer(levels, levels) ** 2)


def _krippendorff(rated: Mapping[Unit, Sequence[int]], distance: Floats) -> BootstrapInterval | None:
    """Return alpha with its interval over questions; raters need not have rated everything.

    ``α = 1 − D_o / D_e`` with the observed disagreement inside units and the disagreement expected by chance from all
    values together (Krippendorff, Content Analysis, 2004, ch. 11). ``rated`` has the number of the level that each
    rater gave a unit, ``distance`` the disagreement of two levels, f64[levels, levels].
    """
    rated = {unit: values for unit, values in rated.items() if len(values) > 1}
    if len(rated) < 2:
        return None
    place = {question: i for i, question in enumerate(dict.fromkeys(unit[0] for unit in rated))}
    counts = np.zeros((len(place), len(distance)))  # [questions, levels]
    observed = np.zeros(len(place))
    for unit, values in rated.items():
        histogram = np.bincount(values, minlength=len(distance)).astype(np.float64)
        counts[place[unit[0]]] += histogram
        observed[place[unit[0]]] += histogram @ distance @ histogram / (len(values) - 1)

    def alpha(weights: Floats) -> Floats:
        totals = weights @ counts  # [resamples, levels]
        expected = np.einsum("ri,ij,rj->r", totals, distance, totals) / np.maximum(totals.sum(axis=1) - 1, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            values: Floats = 1 - (weights @ observed) / expected
        return values

    return percentile_interval(alpha(np.ones((1, len(place))))[0], alpha(resampling_weights(len(place))), len(rated))
