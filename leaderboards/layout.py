"""A comparison laid out for reading: what stands in each cell and each note, before any format's own marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from harness.statistics.estimates import Estimate
from leaderboards.facts import RunFacts, run_facts
from leaderboards.judged import PREFIX
from leaderboards.table import Cell, Comparison, Heading, Table

NOTHING = "—"
MOST_SOURCES = 12  # columns of the mixture table; beyond that a table is unreadable, and the JSON has them all

MOST_TASKS = 6  # of a column that a note names one by one


@dataclass(frozen=True)
class Entry:
    """A table cell: its text, a second line below it, and whether it is the column's best or tied with it."""

    text: str
    below: str = ""
    mark: Literal["", "best", "tied"] = ""


@dataclass(frozen=True)
class Grid:
    """A table, its first column the names of the rows."""

    caption: str
    header: list[str]
    rows: list[list[Entry]]


@dataclass(frozen=True)
class Section:
    """One model on one suite: the scores, the runs behind them, and what a reader has to know."""

    title: str
    scores: Grid
    runs: list[Grid]
    marked: bool
    notes: list[str]


def lay_out(comparison: Comparison) -> list[Section]:
    """A section per model."""
    return [_section(comparison.suite, table) for table in comparison.tables]


@dataclass
class _Footnotes:
    """Reasons by number; the same reason keeps its number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"


def _section(suite: str, table: Table) -> Section:
    footnotes = _Footnotes()
    facts = [fact for row in table.rows for fact in run_facts(row)]
    scores = _scores(table, footnotes)
    runs = [_mixture(facts), _cost(facts)] if any(fact.weights for fact in facts) else []
    numbered = [f"[{number}] {text}" for number, text in enumerate(footnotes.texts, 1)]
    return Section(
        title=" · ".join(name for name in (suite, table.model) if name),
        scores=scores,
        runs=runs,
        marked=any(cell.best for row in table.rows for cell in row.cells.values()),
        notes=[*numbered, *table.notes, *_reading(table), *_columns(table), *_task_notes(table), *_conditions(table)],
    )


# --- scores -----------------------------------------------------------------------------------------


def _scores(table: Table, footnotes: _Footnotes) -> Grid:
    rows = []
    for row in table.rows:
        label = " ".join([row.label, *(footnotes.mark(note) for note in row.notes)])
        rows.append([Entry(label), *(_entry(row.cells[column.name], column, footnotes) for column in table.columns)])
    if table.columns:
        rows.append([Entry("questions"), *(Entry(_questions(table, column)) for column in table.columns)])
    if any(not math.isnan(column.detectable) for column in table.columns):
        detectable = (Entry(_number(column.detectable, column)) for column in table.columns)
        rows.append([Entry("detectable difference"), *detectable])
    header = [
        column.title
        + ("" if column.higher_is_better else " ↓")
        + (f" {footnotes.mark(column.note)}" if column.note else "")
        for column in table.columns
    ]
    return Grid("", ["strategy", *header], rows)


def _entry(cell: Cell, column: Heading, footnotes: _Footnotes) -> Entry:
    note = f" {footnotes.mark(cell.note)}" if cell.note else ""
    if cell.score is None:
        return Entry(NOTHING + note)
    below = ""
    if cell.difference is not None:
        below = f"({_estimate(cell.difference, column, signed=True)}{'*' if cell.significant else ''})"
    return Entry(_estimate(cell.score, column) + note, below, "best" if cell.best else "tied" if cell.tied else "")


def _estimate(found: Estimate, column: Heading, *, signed: bool = False) -> str:
    error = "?" if math.isnan(found.se) else _number(found.se, column)
    return f"{_number(found.value, column, signed=signed)} ± {error}"


def _number(value: float, column: Heading, *, signed: bool = False) -> str:
    """In percent with one decimal where the scores are fractions, else with two decimals."""
    if math.isnan(value):
        return NOTHING
    text = _fixed(100 * value, 1, signed) if column.fraction else _fixed(value, 2, signed)
    return text.replace("-", "−")


def _fixed(value: float, decimals: int, signed: bool) -> str:
    rounded = round(value, decimals) + 0.0  # no negative zero
    return f"{rounded:{'+' if signed else ''}.{decimals}f}"


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
    rows = []
    for fact in facts:
        marked = f"{fact.name} (loss)" if fact.scales == "loss" else fact.name
        rows.append([Entry(marked), *(_mix_entry(fact, name) for name in names)])
    return Grid(caption, ["run", *names], rows)


def _mix_entry(fact: RunFacts, source: str) -> Entry:
    if source not in fact.weights:
        return Entry(NOTHING)
    drawn = (_percent(share.get(source)) for share in (fact.examples_share, fact.tokens_share))
    return Entry(_percent(fact.weights[source]), f"({' / '.join(drawn)})")


def _cost(facts: Sequence[RunFacts]) -> Grid:
    header = ["run", "steps", "examples", "tokens", "seconds", "mixing seconds", "mixing %"]
    caption, dependent = "Training, and what the mixing itself took of it", any(fact.needed for fact in facts)
    if dependent:
        header += ["needed first", "total tokens", "total seconds"]
        caption += "; totals with the runs that were needed first"
    rows = []
    for fact in facts:
        texts = [_count(fact.steps), _count(fact.examples), _count(fact.tokens), _time(fact.seconds)]
        texts += [_time(fact.mixing_seconds), _percent(fact.mixing_share, decimals=2)]
        if dependent:
            texts += [", ".join(fact.needed) or NOTHING, _count(fact.total_tokens), _time(fact.total_seconds)]
        rows.append([Entry(text) for text in (fact.name, *texts)])
    return Grid(caption, header, rows)


def _count(count: int | None) -> str:
    return NOTHING if count is None else f"{count:,}"


def _time(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds:,.1f}"


def _percent(share: float | None, decimals: int = 1) -> str:
    return NOTHING if share is None else _fixed(100 * share, decimals, signed=False)


# --- notes ------------------------------------------------------------------------------------------


def _reading(table: Table) -> list[str]:
    """How to read the numbers."""
    if not table.columns:
        return []
    several = any(len(row.evaluations) > 1 for row in table.rows)
    unit = (
        "Scores in % ± standard error"
        if all(column.fraction for column in table.columns)
        else "Scores ± standard error"
    )
    notes = [f"{unit} over questions{' and seeds' if several else ''}."]
    if any(cell.difference for row in table.rows for cell in row.cells.values()):
        notes.append(
            f"In brackets: difference to {table.baseline}, paired by question{' and seed' if several else ''};"
            f" * significant at 5 % (two-sided) after Holm's correction over the table's {table.comparisons} pairs"
            f"{', by the seed variance of its own and of all pairs' if several else ''}."
        )
    if any(not math.isnan(column.detectable) for column in table.columns):
        notes.append(
            "Detectable difference: what such a comparison finds with 80 % power after correction"
            " (median over rows); smaller true differences may well go unseen."
        )
    cells = [cell for row in table.rows for cell in row.cells.values() if cell.score]
    if any(cell.score and cell.score.se == 0 for cell in cells):
        notes.append("± 0.0: every question scored the same, which leaves no spread to estimate an error from.")
    if any(cell.score and math.isnan(cell.score.se) for cell in cells):
        notes.append("± ?: a single question has no standard error.")
    return notes + _groups(table) + _seeds(table)


def _groups(table: Table) -> list[str]:
    """The tied groups of the last column, which is the average where there is one; the JSON has every column's."""
    last = table.columns[-1]
    ranked = sum(cell.ranks is not None for cell in table.cells(last))
    if ranked < 3 or max(map(len, last.groups)) < 2:
        return []
    return [f"Tied in {last.title}: " + "; ".join(", ".join(group) for group in last.groups) + "."]


def _seeds(table: Table) -> list[str]:
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
        told = f"Seeds {', '.join(map(str, sets.pop()))} of every trained strategy; errors span questions and seeds"
    else:
        told = "Seeds: " + "; ".join(f"{r.label} {', '.join(map(str, sorted(r.evaluations)))}" for r in trained)
    spread = list(filter(None, (_seed_error(table, column) for column in table.columns)))
    return [
        f"{told}." + (f" Of ±, training seeds alone make (median over rows): {', '.join(spread)}." if spread else "")
    ]


def _seed_error(table: Table, column: Heading) -> str:
    known = [s.seed_se for cell in table.cells(column) if (s := cell.score) and not math.isnan(s.seed_se)]
    return f"{column.title} {_number(float(np.median(known)), column)}" if known else ""


def _columns(table: Table) -> list[str]:
    titles = {column.name: column.title for column in table.columns}
    return [f"{column.title}: {_judged(column, table) or _definition(column, titles)}." for column in table.columns]


def _judged(column: Heading, table: Table) -> str:
    """By whom and how a column was judged; empty for one that was not."""
    (task, *_) = (key.task for key in column.shares)
    if not task.startswith(PREFIX):
        return ""
    how = table.conditions.get(task, "").removeprefix("version ").removesuffix(", 0-shot")
    return f"mean over the turns of its questions ({how})"


def _definition(column: Heading, titles: Mapping[str, str]) -> str:
    if column.columns:
        return f"mean of {', '.join(titles.get(name, name) for name in column.columns)}"
    metrics = sorted({key.metric if key.filter == "none" else f"{key.metric} ({key.filter})" for key in column.shares})
    shots = sorted(set(column.shots.values()))
    tasks = [key.task for key in column.shares]
    what = ", ".join(tasks) if len(tasks) <= MOST_TASKS else f"{len(tasks)} tasks"
    mean = "the mean of " if len(tasks) > 1 else ""
    return f"{', '.join(metrics)} of {mean}{what}, {'/'.join(map(str, shots))}-shot"


def _conditions(table: Table) -> list[str]:
    if not table.conditions:
        return []
    shown = ("suite", "tasks", "questions per task", "engine", "precision", "evaluation seed")
    return ["Evaluated under: " + "; ".join(f"{name} {table.conditions[name]}" for name in shown) + "."]


def _task_notes(table: Table) -> list[str]:
    """What the evaluations themselves had to say, each with the tasks it is about."""
    tasks: dict[str, dict[str, None]] = {}
    for evaluation in (held for row in table.rows for held in row.evaluations.values()):
        for result in evaluation.summary.results:
            if result.note:
                tasks.setdefault(result.note, {})[result.task] = None
    return [f"{', '.join(names)}: {note}" for note, names in tasks.items()]
