"""Compare two submissions in every column: for the site's pages, and for ``moemix board compare``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.grid import Cell, Grid, Number, Section
from harness.statistics.ranking import EXACT_ROWS
from leaderboards.board.standings import Standing, Standings

_NOTES = (
    "Differences are in percentage points, paired by question, each with its own 95 % interval.",
    "A * marks a difference that is significant at 5 % after correction for all pairs of submissions in all columns.",
    "Better / worse: number of questions on which the first submission scores higher / lower.",
)


def has_pair_pages(standing: Standing) -> bool:
    """Return whether the site holds the difference of every pair; on larger boards it holds the verdicts only."""
    return len(standing.rows) <= EXACT_ROWS


def pair_data(standings: Standings, standing: Standing) -> Iterator[dict[str, object]]:
    """Yield, for each submission in the order of the rows, its differences to all submissions after it.

    Each is column → ``d`` difference, ``l`` and ``u`` interval, ``p`` alone, ``q`` corrected, ``m`` and ``w`` the
    numbers of questions with a higher (more) and a lower score.
    """
    scores = _scores_by_column(standings, standing, range(len(standing.rows)))
    for at in range(len(standing.rows)):
        others = np.arange(at + 1, len(standing.rows))
        columns: dict[str, object] = {}
        for name, values in scores.items():
            pairs = standing.ranking.against(name, at, others)
            higher, lower = _question_counts(values, at, others)
            columns[name] = {
                "d": shortened(pairs.values), "l": shortened(pairs.lower), "u": shortened(pairs.upper),
                "p": shortened(pairs.p), "q": shortened(pairs.p_adjusted), "m": higher, "w": lower,
            }  # fmt: skip
        yield columns


def shortened(values: NDArray[np.float64]) -> list[float | None]:
    """Return numbers for a page: five decimals, and null for nan."""
    return [None if np.isnan(value) else round(value, 5) for value in values.tolist()]


def _scores_by_column(
    standings: Standings, standing: Standing, positions: Iterable[int]
) -> dict[str, NDArray[np.float64]]:
    """Return column → f64[P, n], the scores of some submissions on the column's questions."""
    vectors = [
        {vector.key: vector.values for vector in standings.checked[standing.rows[at]].vectors[standing.suite.key]}
        for at in positions
    ]
    return {
        name: np.stack([np.concatenate([held[key] for key in standing.shares[name]]) for held in vectors])
        for name in standing.columns
    }


def _question_counts(scores: NDArray[np.float64], at: int, others: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    higher: list[int] = (scores[at] > scores[others]).sum(axis=1).tolist()
    lower: list[int] = (scores[at] < scores[others]).sum(axis=1).tolist()
    return higher, lower


def compare(standings: Standings, first: str, second: str) -> list[Section]:
    """Return a table of the differences between two submissions for each suite version that both were evaluated on.

    Raises:
        MoemixError: a submission is not in the ranking, or there is no such suite version.
    """
    rows = {standings.checked[row].label: row for row in range(len(standings.checked))}
    for label in (first, second):
        if label not in rows or standings.status[rows[label]][0] != "current":
            raise MoemixError("the submission is not in the ranking", where=label,
                              hint="`moemix board verify` shows failed checks; superseded and withdrawn submissions are"
                              " not compared")  # fmt: skip
    sections = []
    for standing in standings.suites:
        if rows[first] in standing.rows and rows[second] in standing.rows:
            pair = standing.rows.index(rows[first]), standing.rows.index(rows[second])
            sections.append(_section(standings, standing, pair, (first, second)))
    if not sections:
        raise MoemixError("the submissions were not evaluated on the same suite version", where=f"{first}, {second}")
    return sections


def _section(standings: Standings, standing: Standing, pair: tuple[int, int], labels: tuple[str, str]) -> Section:
    one, two = pair
    scores = _scores_by_column(standings, standing, pair)
    rows: list[list[Cell | str]] = []
    for name, ranked in standing.columns.items():
        test = standing.ranking.against(name, one, np.array([two]))
        star = "" if test.verdicts[0] == "undecided" else " *"
        low, high = (Number(100 * float(end[0]), decimals=1, signed=True) for end in (test.lower, test.upper))
        (higher,), (lower,) = _question_counts(scores[name], 0, np.array([1]))
        rows.append([
            standing.title(name),
            *(str(Number(100 * ranked.values[at], 100 * ranked.half[at], 1)) for at in pair),
            Cell(Number(100 * float(test.values[0]), decimals=1, signed=True), note=star),
            f"{low} to {high}",
            _p_text(float(test.p[0])),
            test.verdicts[0],
            f"{higher} / {lower}",
        ])  # fmt: skip
    header = ["Column", *labels, "Difference", "95 % interval", "p (alone)", "Verdict", "Better / worse"]
    return Section(f"{labels[0]} minus {labels[1]} on {standing.suite.key}", Grid(header, rows), _NOTES)


def _p_text(p: float) -> str:
    if np.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
