"""Hold a comparison as data: tables of rows, columns and cells, which every format prints."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from harness.errors import MoemixError
from harness.records import RunConfig, RunManifest
from harness.statistics.columns import Key
from harness.statistics.estimates import ALPHA, Estimate
from harness.statistics.families import Family, Verdict, verdict
from harness.store import Run
from leaderboards.scores import Evaluation, TaskScores

Scored = dict[int, dict[Key, TaskScores]]  # seed → the score vectors of a column


@dataclass(frozen=True)
class Member:
    """A run with its evaluation on one suite, or with the problem why it has none.

    Attributes:
        manifest: None for a planned run that never started.
        remarks: what a reader must know about its scores.
    """

    run: Run
    config: RunConfig
    manifest: RunManifest | None
    evaluation: Evaluation | None = None
    problem: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """The training seed."""
        return self.config.seed

    @property
    def trained(self) -> bool:
        """Whether any step was taken; the base checkpoint itself is the same for every seed."""
        return self.manifest is not None and self.manifest.result is not None and self.manifest.result.steps > 0


@dataclass(frozen=True)
class Tested:
    """The difference of two rows in a column, tested.

    Attributes:
        difference: paired by question and seed, with the error that the test uses.
        p: two-sided p-value of the difference alone.
        family: what it was corrected with; None if the rows have too few seeds for a verdict.
        p_adjusted: corrected for the family; nan without one.
        p_equal: of the hypothesis that the difference is larger than ``margin``, corrected for the family.
        detectable: the true difference that the test finds with 80 % power.
        level: what corrected p-values must be below; smaller if seeds are added until comparisons are decided.
    """

    difference: Estimate
    p: float = math.nan
    family: Family | None = None
    p_adjusted: float = math.nan
    p_equal: float = math.nan
    margin: float = math.nan
    higher_is_better: bool = True
    detectable: float = math.nan
    level: float = ALPHA

    @property
    def verdict(self) -> Verdict:
        """Whether the first row is better, worse, equal within the margin, or none of these can be said."""
        value, better = self.difference.value, self.higher_is_better
        return verdict(value, self.p_adjusted, self.p_equal, higher_is_better=better, level=self.level)

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after correction."""
        return self.verdict in ("better", "worse")

    @property
    def sign(self) -> str:
        """What stands behind a difference: ``*`` significant, ``°`` significant but exploratory, ``=`` equal."""
        if self.significant:
            return "°" if self.family == "exploratory" else "*"
        return "=" if self.verdict == "equal" else ""

    def reversed(self) -> Tested:
        """Return the same test of the second row minus the first."""
        return replace(self, difference=replace(self.difference, value=-self.difference.value))


@dataclass
class Cell:
    """A row's score in a column, in the metric's own unit (fractions, for accuracies).

    Attributes:
        n: number of questions.
        to_base: the tested difference to the baseline; None for the baseline and if nothing pairs.
        best: whether it is the column's best score; ``tied``: whether it does not differ significantly from the best.
        ranks: the best and the worst rank that it may have.
        note: why something is missing.
    """

    score: Estimate | None = None
    n: int = 0
    to_base: Tested | None = None
    best: bool = False
    tied: bool = False
    ranks: tuple[int, int] | None = None
    note: str | None = None

    @property
    def difference(self) -> Estimate | None:
        """The difference to the baseline."""
        return self.to_base.difference if self.to_base else None

    @property
    def significant(self) -> bool:
        """Whether the difference to the baseline is significant after correction."""
        return self.to_base is not None and self.to_base.significant


@dataclass
class Heading:
    """A column of a table.

    Attributes:
        shares: the weight of each task.
        shots: few-shot examples in each task's prompts.
        columns: the columns of an average; empty for a column of tasks.
        fraction: whether every score is in [0, 1]; such scores are printed in percent.
        primary: whether its comparisons with the baseline are primary.
        margin: the difference below which two rows count as equal.
        detectable: smallest difference to the baseline that is detected with 80 % power, median over rows.
        note: test questions that are in the training data, or what is known of the judge.
        decides: whether its differences may have verdicts.
        groups: labels of the rows that do not differ significantly; a row may be in several groups.
    """

    name: str
    title: str
    shares: dict[Key, float]
    shots: dict[Key, int]
    columns: tuple[str, ...]
    higher_is_better: bool
    fraction: bool = True
    primary: bool = False
    margin: float = math.nan
    detectable: float = math.nan
    note: str | None = None
    decides: bool = True
    groups: list[list[str]] = field(default_factory=list)


@dataclass(eq=False)
class Row:
    """A strategy with its seeds; equal only to itself.

    Attributes:
        notes: why some of its runs have no scores, or why it is not compared.
        compared: false if it was evaluated under other conditions than the other rows.
        checkpoint: whether it stands for its checkpoint alone, and not for a strategy over its seeds.
    """

    label: str
    strategy: str
    members: tuple[Member, ...]
    cells: dict[str, Cell] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    compared: bool = True
    checkpoint: bool = False

    @property
    def evaluations(self) -> dict[int, Evaluation]:
        """The evaluations by seed, of the seeds that have one."""
        return {member.seed: member.evaluation for member in self.members if member.evaluation is not None}

    @property
    def seeds(self) -> list[int]:
        """The training seeds that were evaluated."""
        return list(self.evaluations)

    @property
    def trained(self) -> bool:
        """Whether a run took any step; the base checkpoint itself is the same for every seed."""
        return any(member.trained for member in self.members)

    @property
    def varies(self) -> bool:
        """Whether its scores depend on the training seed."""
        return self.trained and not self.checkpoint

    def of_seed(self, seed: int, text: str) -> str:
        """Return a note on one seed, which names the seed if the row has several."""
        return f"seed {seed}: {text}" if len(self.members) > 1 else text

    def scored(self, column: str) -> Scored:
        """Return the score vectors of a column by seed, of the seeds that have it."""
        return {seed: held.column(column) for seed, held in self.evaluations.items() if not held.missing(column)}

    def shares(self, column: str) -> dict[Key, float]:
        """Return the column's task weights in this row; another version of the suite may define them differently."""
        return next(held.shares(column) for held in self.evaluations.values() if not held.missing(column))


@dataclass
class Table:
    """The rows of one model.

    Attributes:
        conditions: how the compared rows were evaluated.
        comparisons: family → the number of its comparisons.
        notes: notes on the whole table.
    """

    model_id: str
    model: str
    baseline: str
    rows: list[Row]
    columns: list[Heading] = field(default_factory=list)
    conditions: dict[str, str] = field(default_factory=dict)
    comparisons: dict[Family, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def base(self) -> Row | None:
        """The baseline; None if no row is.

        Raises:
            MoemixError: several rows could be.
        """
        found = [row for row in self.rows if row.strategy == self.baseline]
        if len(found) > 1:
            raise MoemixError(
                f"{len(found)} rows could be the baseline: {'; '.join(row.label for row in found)}",
                hint="name the run folders to compare, or another --baseline",
            )
        return found[0] if found else None

    def cells(self, heading: Heading) -> list[Cell]:
        """Return the cells of a column, in the order of the rows."""
        return [row.cells[heading.name] for row in self.rows]


@dataclass
class Comparison:
    """The tables of one suite, one per model."""

    suite: str
    tables: list[Table]
