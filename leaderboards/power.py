"""Say what a comparison could show with other seeds and questions, and what that costs (``moemix power``)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from harness.grid import NOTHING, Grid, Number, Section, json_text
from harness.statistics.estimates import POWER, Floats, estimate, quantile
from harness.statistics.joint import rows_apart
from harness.statistics.power import Variances, accuracy_of_questions, accuracy_of_seeds, variances, winner, worth
from leaderboards.differences import difference, parts
from leaderboards.drawing import Panel, Point, draw_panels
from leaderboards.table import Comparison, Heading, Row, Table

SHARES = (0.25, 1.0, 4.0)  # of the questions that there are
SEEDS = (3, 5, 8, 12, 20)


@dataclass(frozen=True)
class ColumnPower:
    """What a column of a table can show; numbers are in the column's unit (fractions, for accuracies).

    Attributes:
        score: variances of one score with one seed.
        pair: variances of the difference of two rows with one seed.
        signal: the best row's mean minus the worst's; ``snr`` is this over the standard deviation over seeds.
        by_seeds: number of seeds → share of choices of so many seeds in which the row that wins on everything wins.
        by_questions: share of the questions → the same.
        of_main: share of single seeds in which the best row of this column is the best of the main column.
        detectable: seeds and share of the questions, the difference that they detect, and the hours that they take.
        seeds_for_margin: seeds that detect the margin on the questions that there are; None if 200 are not enough.
        seeds_for_signal: seeds that detect a difference as large as that between the best and the worst row here.
    """

    name: str
    title: str
    primary: bool
    percent: bool
    margin: float
    score: Variances
    pair: Variances
    signal: float
    snr: float
    by_seeds: dict[int, float]
    by_questions: dict[float, float]
    of_main: float | None
    detectable: list[tuple[int, float, float, float]]
    seeds_for_margin: int | None
    seeds_for_signal: int | None

    def number(self, value: float) -> Number:
        """Return a number of this column for reading."""
        return Number(100 * value if self.percent else value, decimals=1 if self.percent else 3)


@dataclass(frozen=True)
class Power:
    """What one table can show.

    Attributes:
        main: the column whose winner the others should pick: the first primary one.
        train_hours: hours of one more seed of every trained row; ``eval_hours`` those of its evaluations and judgings.
        few: rows that lack some of these seeds, which nothing here is about.
        left_out: rows whose seeds vary too much to be pooled; the forecasts are for pairs of the others.
        problem: why there is nothing to say, if there is nothing.
    """

    suite: str
    model: str
    rows: list[str]
    seeds: int
    main: str = ""
    train_hours: float = math.nan
    eval_hours: float = math.nan
    columns: list[ColumnPower] = field(default_factory=list)
    few: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    problem: str = ""


def power_of(comparison: Comparison) -> list[Power]:
    """Return what each table of a comparison can show."""
    return [_power(comparison.suite, table) for table in comparison.tables]


def _power(suite: str, table: Table) -> Power:
    every = [row for row in table.rows if row.varies and row.compared and row.evaluations]
    rows, seeds = _with_same_seeds(every)
    few = [row.label for row in every if not set(row.evaluations) >= set(seeds)]
    if len(rows) < 2 or len(seeds) < 2:
        problem = f"needs two trained rows with two seeds in common; there are {len(rows)} rows with {len(seeds)}"
        return Power(suite, table.model, [row.label for row in rows], len(seeds), problem=problem)
    shown = [h for h in table.columns if all(row.scored(h.name).keys() >= set(seeds) for row in rows)]
    shown.sort(key=lambda heading: not heading.primary)
    scores = {heading.name: _by_seed(rows, heading, seeds) for heading in shown}
    apart = rows_apart(np.stack(list(scores.values()), axis=1)) if scores else np.zeros(len(rows), dtype=bool)
    steady = [row for row, varies in zip(rows, apart, strict=True) if not varies]
    left_out = [row.label for row, varies in zip(rows, apart, strict=True) if varies]
    hours = _hours(rows, train=True), _hours(rows, train=False)
    main = shown[0].name if shown else ""
    comparisons = sum(heading.primary for heading in shown) * (len(rows) - 1) or 1
    columns = [
        column
        for heading in shown
        if (column := _column(rows, steady, heading, seeds, scores, main, hours, comparisons)) is not None
    ]
    return Power(suite, table.model, [row.label for row in rows], len(seeds), main, *hours, columns, few, left_out)


def _with_same_seeds(rows: Sequence[Row]) -> tuple[list[Row], list[int]]:
    """Return rows and the seeds that all of them have, so that together they have the most degrees of freedom."""
    sets = [set(row.evaluations) for row in rows]
    candidates = [set.intersection(*sets), *sets] if sets else [set()]
    seeds = max(candidates, key=lambda some: (sum(its >= some for its in sets) - 1) * (len(some) - 1))
    return [row for row, its in zip(rows, sets, strict=True) if its >= seeds], sorted(seeds)


def _column(
    rows: Sequence[Row],
    steady: Sequence[Row],
    heading: Heading,
    seeds: Sequence[int],
    scores: dict[str, Floats],
    main: str,
    hours: tuple[float, float],
    comparisons: float,
) -> ColumnPower | None:
    tasks = [parts(row.scored(heading.name), heading.shares, seeds) for row in rows]
    score = variances([estimate(one) for one in tasks])
    pairs = [difference(*two, heading) for two in itertools.combinations(steady, 2)]
    pair = variances([found for found in pairs if found is not None])
    if score is None or pair is None:
        return None
    count = _worth(rows, heading) or comparisons
    here = scores[heading.name]
    truth, best, signal = winner(here), winner(scores[main]), float(np.ptp(here.mean(axis=1)))
    by_task: list[tuple[float, Floats]] = []
    sign = 1 if heading.higher_is_better else -1
    for same in zip(*tasks, strict=True):
        if len({part.scores.shape[1] for part in same}) == 1:  # else judgments failed: rows have other questions
            by_task.append((same[0].weight, sign * np.stack([part.scores.mean(axis=0) for part in same])))
    grid = [
        (n, share, pair.detectable(n, share, len(rows), count), n * (hours[0] + share * hours[1]))
        for n in SEEDS
        for share in SHARES
    ]
    return ColumnPower(
        heading.name, heading.title, heading.primary, heading.fraction, heading.margin, score, pair, signal,
        signal / score.noise if score.noise else math.inf,
        {n: accuracy_of_seeds(here, n, truth) for n in range(1, len(seeds))},
        {share: accuracy_of_questions(by_task, share, truth) for share in (0.5, 0.25, 0.125)} if by_task else {},
        None if heading.name == main else accuracy_of_seeds(here, 1, best),
        grid,
        pair.seeds_for(heading.margin, rows=len(rows), comparisons=count),
        pair.seeds_for(signal, rows=len(rows), comparisons=count),
    )  # fmt: skip


def _by_seed(rows: Sequence[Row], heading: Heading, seeds: Sequence[int]) -> Floats:
    """Return f64[R, S], higher always better."""
    sign = 1 if heading.higher_is_better else -1
    found = [parts(row.scored(heading.name), heading.shares, seeds) for row in rows]
    return np.array([sign * sum(part.weight * part.scores.mean(axis=1) for part in one) for one in found])


def _worth(rows: Sequence[Row], heading: Heading) -> float | None:
    """Return how many independent comparisons the table's correction is worth here; None if it has none."""
    for row in rows:
        test = row.cells[heading.name].to_base
        if test is not None and not math.isnan(test.detectable):
            dof = test.difference.dof
            return worth(test.detectable / test.difference.se - float(quantile(POWER, dof)), dof)
    return None


def _hours(rows: Sequence[Row], *, train: bool) -> float:
    """Return the hours that one seed of all rows takes, if one job runs after the other."""
    total = 0.0
    for row in rows:
        stages = [member.manifest.stages for member in row.members if member.manifest and member.evaluation]
        total += float(np.mean([sum(s.seconds or 0.0 for name, s in found.items() if (name == "train") == train)
                                for found in stages]))  # fmt: skip
    return total / 3600


# --- writing ------------------------------------------------------------------------------------------


def sections(found: Sequence[Power]) -> list[Section]:
    """Lay out for reading, two grids and some sentences a table."""
    return [_section(power) for power in found]


def _section(power: Power) -> Section:
    title = " · ".join(name for name in (power.suite, power.model) if name)
    if power.problem:
        return Section(title, Grid(["column"], []), [f"Nothing to say: {power.problem}."])
    rows = []
    for c in power.columns:
        sds = [c.number(math.sqrt(v)) for v in (c.score.seed, c.score.question, c.score.rest)]
        accuracy = [_share(c.by_seeds.get(1)), _share(c.by_questions.get(0.25)), _share(c.of_main)]
        rows.append([c.title + ("" if c.primary else " °"), *map(str, sds), f"{c.snr:.1f}", *accuracy,
                     _seeds(c.seeds_for_margin), _seeds(c.seeds_for_signal)])  # fmt: skip
    header = ["column", "sd by seed", "by question", "by the rest", "signal/noise", "1 seed", "1/4 of questions",
              "1 seed, main", "seeds for margin", "seeds for signal"]  # fmt: skip
    effects = []
    for c in power.columns:
        if c.primary:
            effects += [[c.title, str(n), f"{share:g}", str(c.number(size)), f"{hours:.2f}"]
                        for n, share, size, hours in c.detectable]  # fmt: skip
    more = [Grid(["column", "seeds", "questions ×", "detectable", "hours"], effects, "Detectable differences")]
    return Section(title, Grid(header, rows), _notes(power), more=more)


def _notes(power: Power) -> list[str]:
    main = next((c.title for c in power.columns if c.name == power.main), "")
    hours = power.train_hours + power.eval_hours
    notes = [
        f"{len(power.rows)} trained rows, {power.seeds} seeds in common. One more seed of these rows takes"
        f" {hours:.2f} h one job at a time, {power.eval_hours:.2f} h of them evaluations.",
        "sd: standard deviation of one run's score by its seed, by the choice of questions, and by the rest.",
        "Signal/noise: the best row's mean minus the worst's, over the standard deviation over seeds on the same"
        " questions.",
        "1 seed, 1/4 of questions: how often these pick the row that wins on everything (which contains them). 1 seed,"
        f" main: how often one seed of this column picks the winner of {main}.",
        "Seeds for margin: what detects the recipe's margin with 80 % power after correction. Seeds for signal: what"
        " detects a difference as large as that of the best and the worst row here; this flatters small data.",
    ]
    if power.few:
        notes.append(f"Left out: {', '.join(power.few)}, which lack some of these seeds.")
    if power.left_out:
        notes.append(f"Seeds for margin and signal leave out {', '.join(power.left_out)}, whose seeds vary too much.")
    for c in power.columns:
        if c.primary and c.seeds_for_margin:
            need = f"{c.number(c.margin)} on {c.title}: {c.seeds_for_margin} seeds, {c.seeds_for_margin * hours:.1f} h"
            fewer = [o for o in power.columns
                     if o.seeds_for_signal and o.seeds_for_signal < (c.seeds_for_signal or math.inf)]  # fmt: skip
            if fewer:
                best = min(fewer, key=lambda o: o.seeds_for_signal or 0)
                need += f"; rows as far apart as these need {best.seeds_for_signal} seeds with {best.title},"
                need += f" and {_seeds(c.seeds_for_signal)} with {c.title}"
            notes.append(f"{need}.")
    return notes


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.0f} %"


def _seeds(count: int | None) -> str:
    return "> 200" if count is None else str(count)


def as_json(found: Sequence[Power]) -> str:
    """Write everything in full."""
    return json_text({"schema_version": 1, "tables": [asdict(power) for power in found]})


def draw(found: Sequence[Power], path: Path) -> None:
    """Draw what can be detected in each primary column against the hours that it takes."""
    panels = []
    for power in found:
        for c in (c for c in power.columns if c.primary):
            scale = 100 if c.percent else 1
            points = [Point(f"{share:g} × questions", hours, scale * size) for _, share, size, hours in c.detectable]
            ends = [min(p.x for p in points), max(p.x for p in points)]
            points += [Point("margin", x, scale * c.margin) for x in ends]
            title = " · ".join(name for name in (power.suite, power.model, c.title) if name)
            panels.append(Panel(title, "lines", f"hours (for {SEEDS[0]} to {SEEDS[-1]} seeds)", "detectable difference",
                                tuple(points)))  # fmt: skip
    if panels:
        draw_panels(panels, "What more seeds and questions would show", path)
