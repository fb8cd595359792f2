"""The layout of a comparison for reading: what each cell and each note says, whatever the format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from harness import grid
from harness.grid import NOTHING, Grid, Number, Section
from harness.statistics.estimates import ALPHA
from harness.statistics.joint import FEWEST_SEEDS
from leaderboards.facts import RunFacts, run_facts
from leaderboards.judged import PREFIX
from leaderboards.table import Cell, Comparison, Heading, Table

MOST_SOURCES = 12  # columns of the mixture table; beyond that a table is unreadable, and the JSON has them all
MOST_TASKS = 6  # of a column that a note names one by one
LEGEND = {"best": "best of its column", "tied": "not significantly different from the best (5 %, after correction)"}


def lay_out(comparison: Comparison, *, training: bool = True) -> list[Section]:
    """Return one section for each model, with what training did below the scores unless ``training`` is false."""
    return [_section(comparison.suite, table, training=training) for table in comparison.tables]


@dataclass
class _Footnotes:
    """Reasons by number; the same reason keeps its number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str | None) -> str:
        """Return `` [1]`` for the first reason, and so on; nothing where there is no reason."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f" [{self.texts.index(text) + 1}]"


def _section(suite: str, table: Table, *, training: bool) -> Section:
    footnotes = _Footnotes()
    facts = [fact for row in table.rows for fact in run_facts(row)]
    scores = _scores(table, footnotes)
    numbered = [f"[{number}] {text}" for number, text in enumerate(footnotes.texts, 1)]
    columns = [f"{column.title}: {_definition(column, table)}." for column in table.columns]
    shown = ("suite", "tasks", "questions per task", "engine", "precision", "evaluation seed")
    conditions = "; ".join(f"{name} {table.conditions[name]}" for name in shown if table.conditions)
    evaluated = [f"Evaluated under: {conditions}."] if conditions else []
    return Section(
        title=" · ".join(name for name in (suite, table.model) if name),
        grid=scores,
        notes=[
            *numbered,
            *table.notes,
            *_reading(table),
            *columns,
            *_task_notes(table),
            *_training_rows(table),
            *evaluated,
        ],
        legend=LEGEND,
        more=[_mixture(facts), _cost(facts)] if training and any(fact.weights for fact in facts) else [],
    )


def _training_rows(table: Table) -> list[str]:
    """State what became of the rows of each source; where runs read them differently, each reading once."""
    found: dict[str, None] = {}
    for member in (member for row in table.rows for member in row.members):
        result = member.manifest.result if member.manifest is not None else None
        for name, rows in (result.rows if result is not None else {}).items():
            left_out = sum(rows.left_out.values())
            counts = f"{rows.read:,} read, {rows.examples:,} used, {left_out:,} left out, {rows.truncated:,} cut"
            found[f"{name} {counts}"] = None
    return [f"Rows of the training data: {'; '.join(found)}."] if found else []


# --- scores -----------------------------------------------------------------------------------------


def _scores(table: Table, footnotes: _Footnotes) -> Grid:
    rows: list[list[grid.Cell | str | int]] = []
    for row in table.rows:
        label = row.label + "".join(footnotes.mark(note) for note in row.notes)
        rows.append([label, *(_cell(row.cells[column.name], column, footnotes) for column in table.columns)])
    if table.columns:
        rows.append(["questions", *(_questions(table, column) for column in table.columns)])
    if any(not math.isnan(column.detectable) for column in table.columns):
        rows.append(["detectable difference", *(str(_number(c.detectable, c)) for c in table.columns)])
    titles = (
        column.title + ("" if column.higher_is_better else " ↓") + footnotes.mark(column.note)
        for column in table.columns
    )
    return Grid(["strategy", *titles], rows)


def _cell(cell: Cell, column: Heading, footnotes: _Footnotes) -> grid.Cell:
    note = footnotes.mark(cell.note)
    if cell.score is None:
        return grid.Cell(NOTHING, note)
    below = ""
    if (found := cell.to_base) is not None:
        difference = _number(found.difference.value, column, found.difference.se, signed=True)
        below = f"({difference}{found.sign.replace('=', ' =')})"
    mark: grid.Mark = "best" if cell.best else "tied" if cell.tied else ""
    return grid.Cell(_number(cell.score.value, column, cell.score.se), note, below, mark)


def _number(value: float, column: Heading, error: float | None = None, *, signed: bool = False) -> Number:
    """Return fractions in percent with one decimal, other scores with two decimals."""
    scale, decimals = (100, 1) if column.fraction else (1, 2)
    return Number(scale * value, None if error is None else scale * error, decimals, signed)


def _questions(table: Table, column: Heading) -> str:
    counts = sorted({cell.n for cell in table.cells(column) if cell.score is not None})
    return "/".join(f"{count:,}" for count in counts)


# --- runs -------------------------------------------------------------------------------------------


def _mixture(facts: Sequence[RunFacts]) -> Grid:
    names = sorted({name for fact in facts for name in fact.weights})
    caption = "Final weights in %; below, what was really drawn: share of examples / share of tokens"
    if len(names) > MOST_SOURCES:
        heaviest = sorted(names, key=lambda name: -max(fact.weights.get(name, 0.0) for fact in facts))[:MOST_SOURCES]
        caption += f" (the {MOST_SOURCES} heaviest of {len(names)} sources)"
        names = sorted(heaviest)
    if any(fact.scales == "loss" for fact in facts):
        caption += "; (loss): the weights scale the loss, and draws stay even"
    rows = [
        [grid.Cell(fact.name, " (loss)" * (fact.scales == "loss"))]
        + [
            grid.Cell(
                _percent(fact.weights[name]),
                below=f"({_percent(fact.examples_share.get(name))} / {_percent(fact.tokens_share.get(name))})",
            )
            if name in fact.weights
            else grid.Cell(NOTHING)
            for name in names
        ]
        for fact in facts
    ]
    return Grid(["run", *names], rows, caption)


def _cost(facts: Sequence[RunFacts]) -> Grid:
    header = ["run", "steps", "examples", "tokens", "seconds", "mixing seconds", "mixing %"]
    caption, dependent = "Training, and what the mixing itself took of it", any(fact.needed for fact in facts)
    if dependent:
        header += ["needed first", "total tokens", "total seconds"]
        caption += "; totals with the runs that were needed first"
    rows = []
    for fact in facts:
        row = [fact.name, _count(fact.steps), _count(fact.examples), _count(fact.tokens), _time(fact.seconds)]
        row += [_time(fact.mixing_seconds), _percent(fact.mixing_share, decimals=2)]
        if dependent:
            row += [", ".join(fact.needed) or NOTHING, _count(fact.total_tokens), _time(fact.total_seconds)]
        rows.append(row)
    return Grid(header, rows, caption)


def _count(count: int | None) -> str:
    return NOTHING if count is None else f"{count:,}"


def _time(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds:,.1f}"


def _percent(share: float | None, decimals: int = 1) -> str:
    return NOTHING if share is None else str(Number(100 * share, decimals=decimals))


# --- notes ------------------------------------------------------------------------------------------


def _reading(table: Table) -> list[str]:
    """Explain how to read the numbers."""
    if not table.columns:
        return []
    several = any(len(row.evaluations) > 1 for row in table.rows)
    percent = " in %" if all(column.fraction for column in table.columns) else ""
    notes = [f"Scores{percent} ± standard error over questions{' and seeds' if several else ''}."]
    if any(cell.to_base for row in table.rows for cell in row.cells.values()):
        paired = f"paired by question{' and seed' if several else ''}"
        notes.append(f"In brackets: difference to {table.baseline}, {paired} ± standard error.")
        notes += verdict_notes(table)
    if any(not math.isnan(column.detectable) for column in table.columns):
        notes.append(
            "Detectable difference: the true difference that such a comparison finds with 80 % power after correction"
            " (with three seeds, about 70 %; median over rows); smaller ones are likely to be missed."
        )
    scores = [cell.score for row in table.rows for cell in row.cells.values() if cell.score]
    if any(score.se == 0 for score in scores):
        notes.append("± 0.0: all questions have the same score, so no error can be estimated.")
    if any(math.isnan(score.se) for score in scores):
        notes.append("± ?: a single question has no standard error.")
    return notes + _groups(table) + _seeds(table)


def verdict_notes(table: Table) -> list[str]:
    """Explain the signs of the verdicts, or why there are none."""
    notes, sizes = [], table.comparisons
    deciding = {column.name for column in table.columns if column.decides}
    cells = [cell for row in table.rows for name, cell in row.cells.items() if name in deciding]
    tests = [cell.to_base for cell in cells if cell.to_base]
    if few := [test.difference.seeds for test in tests if test.family is None]:
        who = "No verdicts: they" if len(few) == len(tests) else "Some differences have no verdict: it"
        need = "need" if len(few) == len(tests) else "needs"
        notes.append(
            f"{who} {need} at least {FEWEST_SEEDS} training seeds of both rows, and there are {_range(few)}. These"
            " differences say what the runs did, and not what their strategies do: add `seeds` to the recipe"
            " (`moemix power` says how many), or compare the checkpoints alone with `moemix table --checkpoints`."
        )
    if "pairs" in sizes:
        notes.append(
            f"* significant at 5 % (two-sided) after Holm's correction over the {sizes['pairs']} pairs of checkpoints"
            " in all columns. It holds for these checkpoints, and not for the strategies that made them."
        )
    if "primary" in sizes:
        titles = ", ".join(column.title for column in table.columns if column.primary)
        notes.append(
            f"* significant at 5 % (two-sided), corrected over the {sizes['primary']} primary comparisons"
            f" ({table.baseline} with the others in {titles}) by their joint distribution over seeds and questions."
        )
    if any(test.level < ALPHA for test in tests):
        seeds = _range([test.difference.seeds for test in tests if test.level < ALPHA])
        notes.append(
            "Seeds were added until the primary comparisons were decided. The looks at the data share the 5 %, so each"
            f" asks for less. Comparisons are shown as they were decided, or at the last look ({seeds} seeds)."
        )
    if "exploratory" in sizes:
        notes.append(
            f"° significant after correction over the other {sizes['exploratory']} pairs of rows and columns."
            " Exploratory: a hint for a next experiment, and no verdict. Ties with the best and ranks are exploratory"
            " too."
        )
    if any(test.verdict == "equal" for test in tests):
        margins = [f"{column.title} {_number(column.margin, column)}" for column in table.columns]
        notes.append(f"= equal: the difference is surely smaller than the margin ({', '.join(margins)}).")
    return notes


def _range(counts: Sequence[int]) -> str:
    return "/".join(map(str, sorted(set(counts))))


def _groups(table: Table) -> list[str]:
    """List the tied groups of the last column, which is the average where there is one; the JSON has all columns'."""
    last = table.columns[-1]
    ranked = sum(cell.ranks is not None for cell in table.cells(last))
    if ranked < 3 or max(map(len, last.groups), default=0) < 2:
        return []
    return [f"Tied in {last.title}: " + "; ".join(", ".join(group) for group in last.groups) + "."]


def _seeds(table: Table) -> list[str]:
    """Say which training seeds the rows have, and what the seeds alone add to the errors."""
    trained = [row for row in table.rows if row.trained and row.evaluations]
    if not trained:
        return []
    if all(len(row.evaluations) == 1 for row in trained):
        seeds = sorted({seed for row in trained for seed in row.evaluations})
        return [
            f"One training run per strategy (seed {', '.join(map(str, seeds))}): the errors are over questions only"
            " and do not say what another training seed would give."
        ]
    sets = {tuple(sorted(row.evaluations)) for row in trained}
    if len(sets) == 1:
        text = f"Seeds {', '.join(map(str, sets.pop()))} of every trained strategy; errors span questions and seeds"
    else:
        text = "Seeds: " + "; ".join(f"{r.label} {', '.join(map(str, sorted(r.evaluations)))}" for r in trained)
    spread = []
    for column in table.columns:
        known = [s.seed_se for cell in table.cells(column) if (s := cell.score) and not math.isnan(s.seed_se)]
        if known:
            spread.append(f"{column.title} {_number(float(np.median(known)), column)}")
    alone = f" The standard error of training seeds alone (median over rows): {', '.join(spread)}." if spread else ""
    return [f"{text}.{alone}"]


def _definition(column: Heading, table: Table) -> str:
    """Say what a column is computed from."""
    tasks = [key.task for key in column.shares]
    if tasks[0].startswith(PREFIX):
        how = table.conditions.get(tasks[0], "").removeprefix("version ").removesuffix(", 0-shot")
        return f"mean over the turns of its questions ({how})"
    if column.columns:
        titles = {other.name: other.title for other in table.columns}
        return f"mean of {', '.join(titles.get(name, name) for name in column.columns)}"
    metrics = sorted({key.metric if key.filter == "none" else f"{key.metric} ({key.filter})" for key in column.shares})
    shots = sorted(set(column.shots.values()))
    what = ", ".join(tasks) if len(tasks) <= MOST_TASKS else f"{len(tasks)} tasks"
    mean = "the mean of " if len(tasks) > 1 else ""
    return f"{', '.join(metrics)} of {mean}{what}, {'/'.join(map(str, shots))}-shot"


def _task_notes(table: Table) -> list[str]:
    """Repeat the notes of the evaluations, each with the tasks that it is about."""
    tasks: dict[str, dict[str, None]] = {}
    for evaluation in (held for row in table.rows for held in row.evaluations.values()):
        for result in evaluation.summary.results:
            if result.note:
                tasks.setdefault(result.note, {})[result.task] = None
    return [f"{', '.join(names)}: {note}" for note, names in tasks.items()]
