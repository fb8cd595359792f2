"""The tables of the paper, filled in: the ordinary comparison of their lines with a column of published figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from harness.grid import Number
from harness.statistics.estimates import Estimate, mean_over_seeds
from harness.statistics.families import Family
from leaderboards.paper.measures import NO_COUNTERPART, Compared, compare_lines, final_weights, setting
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import Column, Line, TableSpec, baseline_of, table_spec, with_own_subtasks
from leaderboards.table import Tested


@dataclass
class PaperCell:
    """One cell, in the units of the paper (percent, where it prints percent).

    Attributes:
        published: None where the paper prints a dash.
        ours: None where nothing was measured; ``missing`` then says why.
        difference: ours minus published; None where the scales differ.
        to_base: tested difference of ours to the table's baseline on the same model.
        published_to_base: the same difference of the published figures.
    """

    published: float | None
    ours: Estimate | None
    missing: tuple[str, ...] = ()
    difference: float | None = None
    to_base: Tested | None = None
    published_to_base: float | None = None

    @property
    def significant(self) -> bool:
        """Return whether ours differs from the baseline after the correction."""
        return self.to_base is not None and self.to_base.significant


@dataclass
class PaperTable:
    """A table, filled in.

    Attributes:
        compared: the ordinary comparison of its lines; None for tables 6 and 8, which have no scores.
        shared_notes: notes of the preset, the same under every table.
    """

    spec: TableSpec
    cells: dict[tuple[str, str], PaperCell]
    compared: Compared | None = None
    shared_notes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def baseline(self) -> Line:
        """Return the line that others are compared with."""
        return baseline_of(self.spec.lines)

    @property
    def comparisons(self) -> dict[Family, int]:
        """Return family → how many comparisons the correction is over, in all columns together."""
        return self.compared.tables[0].comparisons if self.compared and self.compared.tables else {}

    @property
    def detectable(self) -> dict[str, float]:
        """Return column → the difference to the baseline that is detected with 80 % power, the median over models."""
        found: dict[str, list[float]] = {}
        for heading in (h for table in (self.compared.tables if self.compared else ()) for h in table.columns):
            column = next(column for column in self.spec.columns if column.quantity == heading.name)
            if not math.isnan(heading.detectable):
                found.setdefault(column.key, []).append((100 if column.percent else 1) * heading.detectable)
        return {key: float(np.median(values)) for key, values in found.items()}

    def difference(self, column: Column, line: str, other: str) -> Tested | None:
        """Return ours of a line minus ours of another, given by their keys; None where the two do not pair."""
        tested = self.compared.difference(line, other, column.quantity) if self.compared else None
        return tested_in_units(tested, column) if tested else None


def tested_in_units(tested: Tested, column: Column) -> Tested:
    """Return a tested difference in the units of a column of the paper."""
    margin = (100 if column.percent else 1) * tested.margin
    return replace(tested, difference=in_units(tested.difference, column), margin=margin)


def in_units(found: Estimate, column: Column) -> Estimate:
    """Return an estimate in the units of a column of the paper; its components are left out."""
    scale = 100.0 if column.percent else 1.0
    return Estimate(scale * found.value, scale * found.se, found.dof, found.clusters, found.seeds)


def fill(name: str, experiments: Experiments) -> PaperTable:
    """Fill in a table of the paper with what the store holds.

    Raises:
        MoemixError: two lines of a model did not answer the same questions, or their records are damaged.
    """
    spec = with_own_subtasks(table_spec(name), experiments.preset.subtasks)
    table = PaperTable(spec, {}, shared_notes=experiments.preset.notes)
    if spec.columns[0].kind not in ("suite", "weight"):
        table.compared = compare_lines(experiments, spec.lines, [column.quantity for column in spec.columns])
    for line in spec.lines:
        for column in spec.columns:
            table.cells[line.key, column.key] = _cell(table, experiments, line, column)
    table.notes = _notes(table, experiments)
    return table


def _cell(table: PaperTable, experiments: Experiments, line: Line, column: Column) -> PaperCell:
    figures = table.spec.figures
    cell = PaperCell(figures[line.key, column.key], None)
    kind, _, name = column.quantity.partition(":")
    if table.compared is not None:
        score = table.compared.cell(line, column.quantity).score
        cell.ours = in_units(score, column) if score else None
        cell.missing = table.compared.missing(line, column.quantity)
    elif kind == "weight":
        weights, cell.missing = final_weights(experiments, line, name)
        cell.ours = in_units(mean_over_seeds(weights), column) if weights else None
    elif (count := setting(experiments, name, line.strategy)) is not None:
        cell.ours = mean_over_seeds([count])
    else:
        cell.missing = (f"{NO_COUNTERPART} {experiments.preset.name}",)
    if cell.ours and cell.published is not None and not (kind == "judge" and experiments.preset.judge_title):
        cell.difference = cell.ours.value - cell.published
    base = f"{line.model}/{table.baseline.strategy}"
    if line.key != base:
        cell.to_base = table.difference(column, line.key, base)
        published = figures.get((base, column.key))
        if published is not None and cell.published is not None:
            cell.published_to_base = cell.published - published
    return cell


def agreement(table: PaperTable) -> tuple[int, int]:
    """Return in how many cells ours and the paper's difference to the baseline have the same sign, and of how many."""
    pairs = [
        (cell.to_base.difference.value, cell.published_to_base)
        for cell in table.cells.values()
        if cell.to_base is not None and cell.to_base.difference.value and cell.published_to_base
    ]
    return sum(ours * published > 0 for ours, published in pairs), len(pairs)


# --- notes --------------------------------------------------------------------------------------------


def _notes(table: PaperTable, experiments: Experiments) -> list[str]:
    notes: list[str] = []
    kinds, preset = {column.kind for column in table.spec.columns}, experiments.preset
    if "judge" in kinds and preset.judge_title:
        notes.append(f"MT-Bench, ours: {preset.judge_title}. Its scale is not the paper's, so nothing is subtracted.")
    trained = [cell.ours for (line, _), cell in table.cells.items() if not line.endswith("/none")]
    seeds = sorted({ours.seeds for ours in trained if ours})
    if seeds and "suite" not in kinds:
        over = "seeds" if "weight" in kinds else "questions and seeds"
        notes.append(f"Ours: mean ± standard error over {over} (seeds: {'/'.join(map(str, seeds))}).")
    (agree, of), base = agreement(table), f"“{table.baseline.title}”"
    if of:
        notes.append(f"The sign of the difference to {base} is the paper's in {agree} of {of} cells.")
    if primary := table.comparisons.get("primary"):
        notes.append(
            f"* differs from {base} at 5 %, paired by question and seed, corrected over the table's {primary}"
            f" comparisons with {base}."
        )
        found = []
        for column in (column for column in table.spec.columns if column.key in table.detectable):
            value, highest = table.detectable[column.key], 100.0 if column.percent else preset.judge_highest
            shown = str(Number(value, decimals=1 if column.percent else 2))
            found.append(f"{column.title} {shown if value < highest else f'none below {highest:g}'}")
        if found:
            notes.append(f"Detectable difference to {base} (80 % power after correction): {', '.join(found)}.")
    return [*notes, *_remarks(table), *_missing(table, experiments)]


def _remarks(table: PaperTable) -> list[str]:
    """Say what a reader has to know about the runs behind the lines, such as flags of a judging."""
    lines: dict[str, dict[str, None]] = {}
    for row in table.compared.rows.values() if table.compared else ():
        for text in (text for member in row.members for text in member.remarks):
            lines.setdefault(text, {})[row.label] = None
    return [f"{', '.join(names)}: {text}." for text, names in lines.items()]


def _missing(table: PaperTable, experiments: Experiments) -> list[str]:
    """Say what is missing and why, and the command that makes it; a whole line or column is named once."""

    def lacks(at: tuple[str, str], reason: str) -> bool:
        missing = table.cells[at].missing
        return reason in missing or any(NO_COUNTERPART in other for other in missing)

    places: dict[str, dict[str, None]] = {}
    for line in table.spec.lines:
        for column in table.spec.columns:
            for reason in table.cells[line.key, column.key].missing:
                in_line = all(lacks((line.key, other.key), reason) for other in table.spec.columns)
                in_column = all(lacks((other.key, column.key), reason) for other in table.spec.lines)
                place = line.key.strip("/") + ("" if in_line else f" {column.title}")
                places.setdefault(reason, {})[column.title if in_column and not in_line else place] = None
    notes = []
    for reason, held in places.items():
        names = list(held)
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        notes.append(f"Missing: {shown}: {reason}.")
    if any(NO_COUNTERPART not in reason for reason in places):
        command = f"moemix paper run {table.spec.name} --preset {experiments.preset.name}"
        notes.append(f"To make what is missing and can be made: {command}")
    return notes
