"""Compare submissions with each other: copies, names that look alike, and who supersedes whom.

Of two submissions that cannot both stand, the later one fails. The repository's history says which one that is. Where
it does not, both stay with a warning: nothing that a submission says about itself may remove another.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaderboards.board.checked import Checked
from leaderboards.board.origins import History, supersedes_fault
from leaderboards.board.submissions import Outcome, Submission, skeleton

FEWEST = 20  # with fewer equal answers, chance may explain them
COPIED = 0.5  # share of equal log-likelihoods by which a submission is a copy
ALIKE = 0.9  # share of equal wrong texts by which a submission looks like a copy
COMMON = 8  # a wrong text that more submissions give says nothing about copying


@dataclass
class _Row:
    """A submission that passed its own checks.

    Attributes:
        place: position in the history; what is not committed yet comes last, and shares one place.
        family: the first of the submissions that replace each other.
    """

    checked: Checked
    submission: Submission
    place: int
    family: str

    def add(self, check: str, verdict: Outcome, detail: str) -> None:
        self.checked = self.checked.with_verdict(check, verdict, detail)


def check_relations(results: list[Checked], order: History) -> list[Checked]:
    """Add the verdicts that need other submissions, to those that passed their own checks."""
    places = order.order([one.label for one in results])
    rows = [
        _Row(one, one.submission, places[one.label], one.label)
        for one in results
        if one.submission is not None and not one.failed and one.withdrawn is None
    ]
    rows.sort(key=lambda row: (row.place, row.checked.label))
    unknown = f"; which came first is unknown: {order.problem or 'they are not committed yet'}"
    _check_supersedes(rows, {one.submission.submission_id: one.submission for one in results if one.submission})
    for key in ("submission_id", "model"):
        _check_names(rows, key, unknown)
    _check_copies(rows, unknown)
    done = {row.checked.label: row.checked for row in rows}
    return [done.get(one.label, one) for one in results]


def _check_supersedes(rows: list[_Row], every: dict[str, Submission]) -> None:
    families = {row.submission.submission_id: row for row in rows}
    for row in rows:
        if row.submission.supersedes is None:
            continue
        fault = supersedes_fault(row.submission, every.get(row.submission.supersedes))
        earlier = families.get(row.submission.supersedes)
        if fault is None and earlier is not None and earlier.place > row.place:
            fault = f"{row.submission.supersedes} came later"
        if fault:
            row.add("owner", "fail", fault)
        elif earlier is not None:
            row.family = earlier.family


def _check_names(rows: list[_Row], key: str, unknown: str) -> None:
    """Refuse an id that is taken, and a model's name that looks like another one's."""
    holders: dict[str, _Row] = {}
    for row in rows:
        name = str(getattr(row.submission, key))
        first = holders.setdefault(skeleton(name), row)
        other = str(getattr(first.submission, key))
        if first is row or row.checked.failed or (key == "model" and other == name):
            continue
        earlier = first.place < row.place
        row.add("names", "fail" if earlier else "warn",
                f"{name!r} looks like {other!r} of {first.checked.label}{'' if earlier else unknown}")  # fmt: skip


def _check_copies(rows: list[_Row], unknown: str) -> None:
    """Find submissions with the answers of an earlier one, wholly or in good part."""
    found: dict[int, tuple[Outcome, str]] = {}
    for at, other, kind, share in (*_equal(rows), *_alike(rows)):
        row, first = rows[at], rows[other]
        if first.checked.failed or row.checked.failed:
            continue
        earlier = first.place < row.place
        same_owner = row.submission.owner is not None and row.submission.owner == first.submission.owner
        verdict: Outcome = "fail" if earlier and kind in ("response", "log-likelihood") and not (
            same_owner and kind != "response") else "warn"  # fmt: skip
        many = f"every {kind}" if share is None else f"{share:.0%} of the {kind}s"
        detail = f"{many} {{}} also in {{}}{'' if earlier else unknown}"
        verb = "is" if share is None else "are"
        if at not in found or (verdict == "fail" and found[at][0] != "fail"):
            found[at] = (verdict, detail.format(verb, first.checked.label))
        found.setdefault(other, ("warn", detail.format(verb, row.checked.label)))
    for at, row in enumerate(rows):
        row.add("duplicates", *found.get(at, ("pass", "no other submission has these responses")))


def _equal(rows: Sequence[_Row]) -> Iterator[tuple[int, int, str, float | None]]:
    """Yield each submission with the first one whose responses, or scores, are all the same."""
    holders: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(rows):
        for kind, digest in row.checked.prints.items():
            holders.setdefault((kind, digest), []).append(at)
    for (kind, _), held in sorted(holders.items()):
        thing = "response" if kind.startswith("answers") else "score"
        for at in held[1:]:
            other = next((one for one in held if one < at and rows[one].family != rows[at].family), None)
            if other is not None:
                yield at, other, thing, None


def _alike(rows: Sequence[_Row]) -> Iterator[tuple[int, int, str, float | None]]:
    """Yield each submission with an earlier one that has many of its answers."""
    for kind in sorted({kind for row in rows for kind in row.checked.marks}):
        held = [at for at, row in enumerate(rows) if kind in row.checked.marks]
        marks = [np.frombuffer(base64.b64decode(rows[at].checked.marks[kind]), dtype="<u4") for at in held]
        if len({len(one) for one in marks}) != 1 or not len(marks[0]):
            continue
        matrix = np.stack(marks)
        text = kind.startswith("text")
        pairs = np.concatenate([_pairs(column, COMMON if text else len(held)) for column in matrix.T])
        for pair, count in zip(*np.unique(pairs, return_counts=True), strict=True):
            at, other = held[int(pair) // len(held)], held[int(pair) % len(held)]
            compared = int(np.count_nonzero((matrix[int(pair) // len(held)] > 0) & (matrix[int(pair) % len(held)] > 0)))
            share = int(count) / compared
            if count >= FEWEST and share >= (ALIKE if text else COPIED) and rows[at].family != rows[other].family:
                yield at, other, "wrong text" if text else "log-likelihood", share


def _pairs(column: NDArray[np.uint32], most: int) -> NDArray[np.int64]:
    """Return ``later · N + earliest`` of all rows that have one mark, if at most ``most`` have it."""
    order = np.argsort(column, kind="stable")
    values = column[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    sizes = np.diff(np.append(starts, len(values)))
    earliest = np.repeat(order[starts], sizes)
    kept = (order != earliest) & (values > 0) & np.repeat(sizes <= most, sizes)
    found: NDArray[np.int64] = order[kept] * len(column) + earliest[kept]
    return found
