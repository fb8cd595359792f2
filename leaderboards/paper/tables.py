"""A table of the paper filled in: the published figure, ours with its error bar, and the difference, in every cell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from harness.statistics.estimates import ALPHA, Estimate
from harness.statistics.families import adjust
from harness.statistics.seeds import cautious_detectable, cautious_p_value, pool_seed_variance
from leaderboards.paper.measures import NO_COUNTERPART, Measured, measure, setting
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import Column, Line, TableSpec, table_spec, with_own_subtasks


@dataclass(frozen=True)
class Difference:
    """Ours of one line minus that of another in a column, in the paper's units, corrected inside the table."""

    estimate: Estimate
    p_holm: float

    def turned(self) -> Difference:
        """The other minus the one."""
        return Difference(replace(self.estimate, value=-self.estimate.value), self.p_holm)


@dataclass
class PaperCell:
    """One cell, in the units of the paper (percent, where it prints percent).

    Attributes:
        published: None where the paper prints a dash.
        ours: None where nothing was measured; ``missing`` then says why.
        comparable: whether ours minus published means anything.
        to_base: ours, difference to the table's baseline on the same model, with ``p_holm`` over every pair and column.
        published_to_base: the same difference of the published figures.
    """

    published: float | None
    ours: Estimate | None
    missing: tuple[str, ...] = ()
    comparable: bool = True
    to_base: Estimate | None = None
    p_holm: float = math.nan
    published_to_base: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus published."""
        if self.ours is None or self.published is None or not self.comparable:
            return None
        return self.ours.value - self.published

    @property
    def significant(self) -> bool:
        return self.p_holm < ALPHA


@dataclass
class PaperTable:
    """A table, filled in.

    Attributes:
        shared_notes: of the preset, the same under every table.
        pairs: how many pairs of lines Holm's correction is over, in all columns together.
        differences: (column, line, another line) → the one minus the other, each pair once.
        detectable: column → the smallest difference to the baseline found with 80 % power after correction.
    """

    spec: TableSpec
    cells: dict[tuple[str, str], PaperCell]
    shared_notes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    pairs: int = 0
    differences: dict[tuple[str, str, str], Difference] = field(default_factory=dict)
    detectable: dict[str, float] = field(default_factory=dict)

    def cell(self, line: Line, column: Column) -> PaperCell:
        return self.cells[line.key, column.key]

    @property
    def baseline(self) -> Line:
        """The line that others are compared with: Uniform, and plain Dynamic where the table has no Uniform."""
        by_strategy = {line.strategy: line for line in self.spec.lines}
        return by_strategy.get("uniform") or by_strategy.get("dynamic") or self.spec.lines[0]

    def difference(self, column: str, one: str, other: str) -> Difference | None:
        """Ours of a line minus that of another; None where the two do not pair."""
        if (column, one, other) in self.differences:
            return self.differences[column, one, other]
        turned = self.differences.get((column, other, one))
        return turned.turned() if turned else None


def fill(name: str, experiments: Experiments) -> PaperTable:
    """A table of the paper beside what the store holds."""
    spec = with_own_subtasks(table_spec(name), experiments.preset.subtasks)
    measured = {(line, column): _measured(experiments, line, column) for line in spec.lines for column in spec.columns}
    cells = {}
    for (line, column), found in measured.items():
        scale = 100.0 if column.percent else 1.0
        ours = found.estimate()
        cells[line.key, column.key] = PaperCell(
            published=spec.figures[line.key, column.key],
            ours=scaled(ours, scale) if ours else None,
            missing=found.missing,
            comparable=not (column.quantity.startswith("judge:") and experiments.preset.judge_title),
        )
    table = PaperTable(spec, cells, experiments.preset.notes)
    _compare(table, measured)
    table.notes = _notes(table, experiments, measured)
    return table


def _measured(experiments: Experiments, line: Line, column: Column) -> Measured:
    kind, _, name = column.quantity.partition(":")
    if kind == "suite":
        return setting(experiments, name, line.strategy)
    return measure(experiments, line.model, line.strategy, column.quantity)


def scaled(found: Estimate, scale: float) -> Estimate:
    """In other units, for reading: what it was combined from is left behind."""
    return Estimate(scale * found.value, scale * found.se, found.dof, found.clusters, found.seeds)


def _compare(table: PaperTable, measured: Mapping[tuple[Line, Column], Measured]) -> None:
    """Every pair of lines of one model in every column, one family; each cell gets its difference to the baseline."""
    found: dict[tuple[str, Line, Line], Estimate] = {}
    shared: dict[tuple[str, Line, Line], Estimate] = {}
    models = dict.fromkeys(line.model for line in table.spec.lines)
    # seeds vary as they do for one model and quantity; a base checkpoint does not vary with them: each pooled apart
    for column, model, trained in itertools.product(table.spec.columns, models, (True, False)):
        pairs = {}
        lines = [line for line in table.spec.lines if line.model == model]
        for first, second in itertools.combinations(lines, 2):
            one, other = measured[first, column], measured[second, column]
            difference = one.minus(other) if (one.trained and other.trained) == trained else None
            if difference is not None:
                pairs[column.key, first, second] = difference
        compared = {line for _, first, second in pairs for line in (first, second)}
        found |= pairs
        shared |= dict(zip(pairs, pool_seed_variance(list(pairs.values()), len(compared)), strict=True))
    p_values = [cautious_p_value(pair, shared[key]) for key, pair in found.items()]
    table.pairs = sum(not math.isnan(p) for p in p_values)
    base, effects = table.baseline.strategy, dict[str, list[float]]()
    for (key, pair), p_holm in zip(found.items(), adjust(p_values), strict=True):
        column_key, first, second = key
        scale = 100.0 if next(c for c in table.spec.columns if c.key == column_key).percent else 1.0
        corrected = Difference(scaled(pair, scale), p_holm)
        table.differences[column_key, first.key, second.key] = corrected
        if base in (first.strategy, second.strategy):
            line, to_base = (second, corrected.turned()) if first.strategy == base else (first, corrected)
            cell = table.cells[line.key, column_key]
            cell.to_base, cell.p_holm = to_base.estimate, p_holm
            effects.setdefault(column_key, []).append(scale * cautious_detectable(pair, shared[key], table.pairs))
    for column_key, values in effects.items():
        known = [value for value in values if not math.isnan(value)]
        if known:
            table.detectable[column_key] = float(np.median(known))
    for line, column in itertools.product(table.spec.lines, table.spec.columns):
        told = table.spec.figures.get((f"{line.model}/{base}", column.key))
        cell = table.cell(line, column)
        if line.strategy != base and told is not None and cell.published is not None:
            cell.published_to_base = cell.published - told


def agreement(table: PaperTable) -> tuple[int, int]:
    """In how many cells ours and the paper differ from the baseline in the same direction, and of how many."""
    pairs = [
        (cell.to_base.value, cell.published_to_base)
        for cell in table.cells.values()
        if cell.to_base is not None and cell.to_base.value and cell.published_to_base
    ]
    return sum(ours * published > 0 for ours, published in pairs), len(pairs)


def _notes(table: PaperTable, experiments: Experiments, measured: Mapping[tuple[Line, Column], Measured]) -> list[str]:
    notes: list[str] = []
    quantities = {column.quantity.partition(":")[0] for column in table.spec.columns}
    if "judge" in quantities and experiments.preset.judge_title:
        notes.append(f"MT-Bench, ours: {experiments.preset.judge_title}; not on the paper's scale, so not subtracted.")
    seeds = sorted({len(found.seeds) for found in measured.values() if found.seeds and found.trained})
    if seeds and "suite" not in quantities:
        over = "questions and seeds" if quantities & {"score", "task", "judge"} else "seeds"
        notes.append(f"Ours: mean ± standard error over {over} (seeds: {'/'.join(map(str, seeds))}).")
    if table.pairs:
        (agree, of), base = agreement(table), f"“{table.baseline.title}”"
        notes.append(
            f"* differs from {base} at 5 %, paired by question and seed, after Holm's correction over the table's"
            f" {table.pairs} pairs. The sign of the difference to {base} is the paper's in {agree} of {of} cells."
        )
        told = [_detectable(column, table.detectable[column.key], experiments.preset.judge_highest)
                for column in table.spec.columns if column.key in table.detectable]  # fmt: skip
        if told:
            notes.append(f"Detectable difference to {base} (80 % power after correction): {', '.join(told)}.")
    notes += _missing(table, experiments, measured)
    return notes


def _detectable(column: Column, value: float, judge_highest: float) -> str:
    highest, decimals = (100.0, 1) if column.percent else (judge_highest, 2)
    return f"{column.title} " + (f"{value:.{decimals}f}" if value < highest else f"none below {highest:g}")


def _missing(
    table: PaperTable, experiments: Experiments, measured: Mapping[tuple[Line, Column], Measured]
) -> list[str]:
    """What lacks and why, a line or a column that lacks it everywhere told once; and the command that makes it."""
    places: dict[str, dict[str, None]] = {}
    for (line, column), found in measured.items():
        for reason in found.missing:
            in_line = all(_lacks(measured[line, other], reason) for other in table.spec.columns)
            in_column = all(_lacks(measured[other, column], reason) for other in table.spec.lines)
            place = line.key.strip("/") if in_line else f"{line.key.strip('/')} {column.title}"
            places.setdefault(reason, {})[column.title if in_column and not in_line else place] = None
    notes = []
    for reason, held in places.items():
        named = list(held)
        shown = ", ".join(named[:6]) + (f" and {len(named) - 6} more" if len(named) > 6 else "")
        notes.append(f"Missing: {shown}: {reason}.")
    if any(NO_COUNTERPART not in reason for reason in places):
        notes.append(
            f"To make what is missing and can be made: moemix paper run {table.spec.name}"
            f" --preset {experiments.preset.name}"
        )
    return notes


def _lacks(found: Measured, reason: str) -> bool:
    """Whether a cell lacks a number for this reason, or has no counterpart to begin with."""
    return reason in found.missing or any(NO_COUNTERPART in held for held in found.missing)
