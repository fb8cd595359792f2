"""Compare runs: rows are strategies over their seeds, columns are tasks and averages.

Strategies are compared within one model and question by question. A row whose run failed, is missing, or was evaluated
under other conditions stays in the table with a note that says why it has no number or no comparison.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import MoemixError
from harness.recipe import Comparisons
from harness.records import RunConfig
from harness.statistics.columns import Key
from harness.statistics.estimates import estimate
from harness.store import Run
from leaderboards.contamination import footnote
from leaderboards.differences import Look, Pair, compare_pairs, mark_best, parts, show_differences
from leaderboards.measures import MEAN
from leaderboards.members import View, conditions, open_member, rows_by_model, unlike
from leaderboards.scores import TaskScores
from leaderboards.table import Cell, Comparison, Heading, Row, Table, Tested


def compare(  # noqa: PLR0913  (all that a table is made from)
    runs: Sequence[Run],
    eval_folders: Mapping[str, Path],
    baseline: str,
    suite: str = "",
    planned: Mapping[Path, RunConfig] | None = None,
    judgings: Mapping[str, Mapping[str, Path]] | None = None,
    view: View = "scores",
    declared: Comparisons | None = None,
    *,
    checkpoints: bool = False,
    look: Look | None = None,
) -> Comparison:
    """Compare runs on one suite.

    Args:
        runs: in the order of the rows; runs that differ only in their seed become one row.
        eval_folders: run id → folder of its evaluation, which may not exist yet.
        baseline: label of the row that the others are compared with.
        suite: its name, for the heading.
        planned: folder → configuration, for runs that may have no manifest yet.
        judgings: bench → run id → folder of its judging; each bench becomes a column.
        view: which measures to show; the primary comparisons are those of the scores and of the mean held-out loss.
        declared: the primary comparisons and the margins; by default the strategies against the baseline.
        checkpoints: compare every run as the checkpoint that it is, over questions, and not strategies over seeds.
        look: the level of the primary comparisons, and what is decided already.

    Raises:
        MoemixError: damaged records, samples that contradict their summary, or two rows that are the baseline.
    """
    members = [open_member(run, eval_folders, planned or {}, judgings or {}, view) for run in runs]
    models = rows_by_model(members, checkpoints=checkpoints)
    short = {model_id: re.sub(r"-[0-9a-f]{12}$", "", model_id) for model_id in models}  # without its hash
    tables = []
    for model_id, rows in models.items():
        unique = list(short.values()).count(short[model_id]) == 1
        tables.append(Table(model_id, short[model_id] if unique else model_id, baseline, rows))
        fill(tables[-1:], declared, primary=view.startswith("scores"), suite=suite, look=look)
    return Comparison(suite, tables)


def fill(
    tables: Sequence[Table],
    declared: Comparisons | None = None,
    columns: Sequence[str] | None = None,
    *,
    primary: bool = True,
    suite: str = "",
    look: Look | None = None,
) -> dict[Pair, Tested]:
    """Fill tables that have only rows, and return the difference of every pair of rows in every column.

    The families are over all the tables. ``columns`` are the names of those to show, by default of all; ``primary``
    says whether any comparison is primary; the suite's name is what ``look`` knows as decided.

    Raises:
        MoemixError: samples that contradict their summary, or two rows that are the baseline.
    """
    declared = declared or Comparisons()
    for table in tables:
        fill_scores(table, declared, columns, primary=primary)
    tested = compare_pairs(tables, declared, suite, look)
    for table in tables:
        show_differences(table, tested)
        mark_best(table, tested)
    return tested


def fill_scores(
    table: Table, declared: Comparisons, columns: Sequence[str] | None = None, *, primary: bool = True
) -> None:
    """Fill in columns, scores and notes, arguments as in :func:`fill`."""
    for row in table.rows:
        row.notes += [row.of_seed(member.seed, member.problem) for member in row.members if member.problem]
        row.notes += [row.of_seed(member.seed, text) for member in row.members for text in member.remarks]
    base = table.base
    if base is None:
        table.notes.append(f"No row is {table.baseline!r}: there is no baseline for differences.")
    _set_aside_unlike(table, base)
    table.columns = [heading for heading in _headings(table.rows) if columns is None or heading.name in columns]
    _check_same_questions(table)
    for heading in table.columns:
        _judge_column(table, heading)
        heading.note = " ".join(filter(None, (heading.note, footnote(table, heading)))) or None
    fill_cells(table, declared, primary=primary)


def fill_cells(table: Table, declared: Comparisons, *, primary: bool = True) -> None:
    """Fill in the scores of a table that has rows and columns, and what is primary in it."""
    for heading in table.columns:
        for row in table.rows:
            row.cells[heading.name] = _cell(row, heading)
        vectors = [s.values for row in table.rows for v in row.scored(heading.name).values() for s in v.values()]
        heading.fraction = heading.higher_is_better and all(
            vector.min() >= 0 and vector.max() <= 1 for vector in vectors
        )
    _declare(table, declared, primary=primary)


def _judge_column(table: Table, heading: Heading) -> None:
    """Take over what the rows' evaluations say of the column as a whole: a note, and whether it may decide."""
    columns = [held.summary.columns.get(heading.name) for row in table.rows for held in row.evaluations.values()]
    known = [column for column in columns if column is not None]
    heading.note = " ".join(dict.fromkeys(column.note for column in known if column.note)) or None
    heading.decides = all(column.decides for column in known)


def _declare(table: Table, declared: Comparisons, *, primary: bool) -> None:
    """Mark the primary columns, and set the margin of every column."""
    tasks = [heading for heading in table.columns if heading.name != MEAN]
    averages = [heading for heading in tasks if heading.columns] or tasks
    names = declared.columns or (*(heading.name for heading in averages), MEAN)
    for heading in table.columns:
        heading.primary = primary and heading.decides and heading.name in names
        scores = {row.strategy: row.cells[heading.name].score for row in table.rows}
        base = scores.get(table.baseline) or next(filter(None, scores.values()), None)
        if heading.name in declared.margins:
            heading.margin = declared.margins[heading.name] / (100 if heading.fraction else 1)
        else:
            heading.margin = declared.margin / 100 * (1.0 if heading.fraction or base is None else abs(base.value))
    missing = set(declared.columns) - {heading.name for heading in table.columns}
    if missing and table.columns and primary:
        table.notes.append(f"No column {', '.join(sorted(missing))} here, which `comparisons.columns` names.")


def _set_aside_unlike(table: Table, base: Row | None) -> None:
    """Mark rows that were evaluated under other conditions than the baseline (or the first row) as not compared."""
    evaluated = [row for row in ([base] if base else []) + table.rows if row.evaluations]
    if not evaluated:
        return
    table.conditions = _conditions(evaluated[0])[0]
    for row in table.rows:
        held = _conditions(row)
        if mixed := next((text for other in held[1:] if (text := unlike(other, held[0]))), None):
            row.members = tuple(dataclasses.replace(member, evaluation=None) for member in row.members)
            row.notes.append(f"no scores: its seeds were evaluated under different conditions ({mixed})")
        elif held and (text := unlike(held[0], table.conditions)):
            row.compared = False
            row.notes.append(f"NOT COMPARED with the other rows: {text}")


def _conditions(row: Row) -> list[dict[str, str]]:
    return [conditions(evaluation.summary) for evaluation in row.evaluations.values()]


def _headings(rows: Sequence[Row]) -> list[Heading]:
    """Return every column that some row has, in the order of first appearance."""
    found: dict[str, Heading] = {}
    for evaluation in (held for row in rows for held in row.evaluations.values()):
        for name, column in evaluation.summary.columns.items():
            if name in found or evaluation.missing(name):
                continue
            shares = evaluation.shares(name)
            directions = {evaluation.results[key].higher_is_better for key in shares}
            if len(directions) > 1:
                raise MoemixError(
                    f"column {name!r} averages metrics that are better high with metrics that are better low",
                    where=str(evaluation.folder / "summary.json"),
                )
            shots = {key: evaluation.results[key].shots for key in shares}
            found[name] = Heading(name, column.title or name, shares, shots, column.columns, directions.pop())
    return list(found.values())


def _check_same_questions(table: Table) -> None:
    """Check that runs evaluated under the same conditions answered the same questions."""
    first: dict[tuple[str, Key], TaskScores] = {}
    for row in table.rows:
        scope = "compared" if row.compared else f"row {row.label}"
        for heading in table.columns:
            for key, here in ((k, s) for scores in row.scored(heading.name).values() for k, s in scores.items()):
                there = first.setdefault((scope, key), here)
                if here.complete and there.complete and here.questions != there.questions:
                    odd = min(set(here.questions) ^ set(there.questions))
                    raise MoemixError(
                        f"question {odd[0]} of {key.task} is not the one in {there.path}",
                        where=str(here.path),
                        hint="the conditions are the same: remove the evaluation that is wrong and run it again",
                    )


def _cell(row: Row, heading: Heading) -> Cell:
    absent = {seed: held.missing(heading.name) for seed, held in row.evaluations.items()}
    note = "; ".join(row.of_seed(seed, text) for seed, text in absent.items() if text) or None
    scored = row.scored(heading.name)
    if not scored:
        return Cell(note=note)
    found = parts(scored, row.shares(heading.name), list(scored))
    return Cell(estimate(found), n=sum(part.scores.shape[1] for part in found), note=note)
