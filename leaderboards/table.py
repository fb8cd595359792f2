"""What a comparison is, as data: tables of rows, columns and cells, ready to be printed in any format."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from harness.statistics.columns import Key
from harness.statistics.estimates import ALPHA, Estimate
from leaderboards.members import Member
from leaderboards.scores import Evaluation, TaskScores

Scored = dict[int, dict[Key, TaskScores]]  # seed → the score vectors that a column is computed from


@dataclass
class Cell:
    """A row's score in a column, in the metric's own unit (fractions, for accuracies).

    Attributes:
        n: questions behind the score.
        difference: to the baseline row, by question and seed; None for the baseline itself and where nothing pairs.
        p: of the difference, two-sided; ``p_holm`` is corrected for all pairs of rows in all columns of the table.
        best, tied: the best score of the column, and those that cannot be told apart from it.
        ranks: the best and the worst rank it may have, as far as differences are significant.
        note: why something is missing here.
    """

    score: Estimate | None = None
    n: int = 0
    difference: Estimate | None = None
    p: float = math.nan
    p_holm: float = math.nan
    best: bool = False
    tied: bool = False
    ranks: tuple[int, int] | None = None
    note: str | None = None

    @property
    def significant(self) -> bool:
        return self.p_holm < ALPHA


@dataclass
class Heading:
    """A column: what it is computed from, and what it can show.

    Attributes:
        shares: how much each task counts.
        shots: few-shot examples in each task's prompts.
        columns: the columns it is the mean of; empty for one that is computed from tasks.
        fraction: every score lies in [0, 1], so it may be printed in percent.
        detectable: smallest difference to the baseline found with 80 % power after correction, median over rows.
        note: test questions that stand in training data.
        groups: labels of rows that cannot be told apart, largest groups first met; a row may stand in several.
    """

    name: str
    title: str
    shares: dict[Key, float]
    shots: dict[Key, int]
    columns: tuple[str, ...]
    higher_is_better: bool
    fraction: bool = True
    detectable: float = math.nan
    note: str | None = None
    groups: list[list[str]] = field(default_factory=list)


@dataclass(eq=False)
class Row:
    """A strategy with its seeds; equal only to itself.

    Attributes:
        notes: why runs of it have no scores, or why it is not compared.
        compared: false where its evaluation is unlike that of the other rows.
    """

    label: str
    strategy: str
    members: tuple[Member, ...]
    cells: dict[str, Cell] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    compared: bool = True

    @property
    def evaluations(self) -> dict[int, Evaluation]:
        """Seed → evaluation, of the seeds that have one."""
        return {member.seed: member.evaluation for member in self.members if member.evaluation is not None}

    @property
    def trained(self) -> bool:
        """False for a row that is the base checkpoint itself, which no seed changes."""
        return any(member.trained for member in self.members)

    def of_seed(self, seed: int, text: str) -> str:
        """What is said of one seed, which is named where there are several."""
        return f"seed {seed}: {text}" if len(self.members) > 1 else text

    def scored(self, column: str) -> Scored:
        """The score vectors of a column, in the seeds that have it."""
        return {seed: held.column(column) for seed, held in self.evaluations.items() if not held.missing(column)}

    def shares(self, column: str) -> dict[Key, float]:
        """What the column is computed from in this row: another version of the suite may define it differently."""
        return next(held.shares(column) for held in self.evaluations.values() if not held.missing(column))


@dataclass
class Table:
    """The rows of one model.

    Attributes:
        conditions: how the compared rows were evaluated.
        comparisons: how many pairs of rows Holm's correction is over, in all columns together.
        notes: what holds for the whole table.
    """

    model_id: str
    model: str
    baseline: str
    rows: list[Row]
    columns: list[Heading] = field(default_factory=list)
    conditions: dict[str, str] = field(default_factory=dict)
    comparisons: int = 0
    notes: list[str] = field(default_factory=list)

    def heading(self, name: str) -> Heading:
        return next(heading for heading in self.columns if heading.name == name)

    def cells(self, heading: Heading) -> list[Cell]:
        """A column's cells, in the order of the rows."""
        return [row.cells[heading.name] for row in self.rows]


@dataclass
class Comparison:
    """One suite over all models."""

    suite: str
    tables: list[Table]
