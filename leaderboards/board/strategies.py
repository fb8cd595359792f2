"""Compare mixing strategies on a board: each one's difference to the baseline, with all training seeds together.

The strategies of one model, recipe and owner are a table like any other: the same rows, statistics, primary comparisons
and marks as in ``moemix table`` (:mod:`leaderboards.comparison`), with the scores of checked submissions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from harness.files import hash_value
from harness.progress import progress
from harness.recipe import Comparisons
from harness.records import RunManifest
from harness.schema import parse
from harness.statistics.columns import Key
from harness.statistics.estimates import FRACTION_DIFFERENCE, UNBOUNDED
from harness.statistics.joint import FEWEST_SEEDS
from leaderboards.board.checked import Cache
from leaderboards.board.pairs import shortened
from leaderboards.board.standings import Standing, Standings
from leaderboards.board.untrusted import read_record
from leaderboards.comparison import fill_cells
from leaderboards.differences import compare_pairs, show_differences
from leaderboards.layout import verdict_notes
from leaderboards.scores import TaskScores
from leaderboards.table import Heading, Row, Scored, Table

BASELINE = "uniform"
Data = dict[str, object]


@dataclass(eq=False)
class SubmittedRow(Row):
    """A strategy with one submission for each seed.

    Attributes:
        at: seed → the submission's position in the standing's rows.
        weights: column → the weight of each task.
        manifests: those of the runs; None where a submission has none.
    """

    at: dict[int, int] = field(default_factory=dict)
    scores: dict[int, dict[Key, TaskScores]] = field(default_factory=dict)
    weights: Mapping[str, Mapping[Key, float]] = field(default_factory=dict)
    manifests: list[RunManifest | None] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        """The seeds that were submitted."""
        return list(self.scores)

    @property
    def trained(self) -> bool:
        """Whether a run took any step, as far as the submissions say it."""
        return any(one is None or (one.result is not None and one.result.steps > 0) for one in self.manifests)

    @property
    def seconds(self) -> float | None:
        """The mean time of training, with the search for the strategy's options; None if a run does not say it."""
        seconds = []
        for manifest in self.manifests:
            if manifest is None or manifest.result is None:
                return None
            spent = manifest.config.strategy.spent
            seconds.append(manifest.result.seconds + (spent.seconds if spent else 0.0))
        return round(sum(seconds) / len(seconds), 1)

    def scored(self, column: str) -> Scored:
        """Return the score vectors of a column by seed."""
        return {seed: {key: held[key] for key in self.weights[column]} for seed, held in self.scores.items()}

    def shares(self, column: str) -> dict[Key, float]:
        """Return the column's task weights."""
        return dict(self.weights[column])


def strategy_data(standings: Standings, standing: Standing) -> Iterator[Data]:
    """Yield each model, recipe and owner with its strategies: scores, differences and verdicts in every column.

    Testing a group takes up to a second. So results are cached beside the verdicts, by what they depend on.
    """
    found: dict[tuple[str, str, str], dict[str, dict[int, int]]] = {}
    for at, number in enumerate(standing.rows):
        submission = standings.submission(number)
        if submission.strategy and submission.seed is not None:
            group = (submission.base_model or "", submission.recipe or "", submission.owner or "")
            found.setdefault(group, {}).setdefault(submission.strategy, {}).setdefault(submission.seed, at)
    groups = {
        group: strategies
        for group, strategies in sorted(found.items())
        if BASELINE in strategies and len(strategies) > 1
    }
    with Cache(standings.board) as cache, progress("compare strategies", len(groups)) as bar:
        clusters = {task: hash_value(numbers.tolist()) for task, numbers in standing.clusters.items()}
        common = [cache.checks, standing.suite.key, list(standing.columns), clusters]
        keys = {
            group: "strategies " + hash_value([common, _members(cache, standings, standing, strategies)])
            for group, strategies in groups.items()
        }
        known = cache.read(keys.values())
        for group, strategies in groups.items():
            data = known.get(keys[group])
            if data is None:
                data = json.dumps(_group(standings, standing, group, strategies)).encode()
                cache.write(keys[group], data)
                cache.commit()  # so that an interrupted build goes on here, and another process can write meanwhile
            bar.advance()
            yield json.loads(data)


def _members(
    cache: Cache, standings: Standings, standing: Standing, strategies: Mapping[str, Mapping[int, int]]
) -> list[object]:
    """Return what the comparison of a group takes from each of its submissions."""
    members: list[object] = []
    for strategy, at in sorted(strategies.items()):
        for seed, position in sorted(at.items()):
            checked = standings.checked[standing.rows[position]]
            members.append([
                strategy, seed, checked.label, cache.digest(checked.label), checked.as_recorded,
                checked.engines.get(standing.suite.key),
            ])  # fmt: skip
    return members


def _group(
    standings: Standings, standing: Standing, group: tuple[str, str, str], strategies: Mapping[str, dict[int, int]]
) -> Data:
    model, recipe, owner = group
    ordered = sorted(strategies.items(), key=lambda one: (one[0] != BASELINE, one[0]))
    rows = [_row(standings, standing, strategy, at) for strategy, at in ordered]
    table = _compared(standings, standing, model, rows)
    return {
        "model": model, "recipe": recipe, "owner": owner, "strategies": [row.strategy for row in rows],
        "seeds": [len(row.seeds) for row in rows],
        "ids": [[standings.submission(standing.rows[at]).submission_id for at in row.at.values()] for row in rows],
        "seconds": [row.seconds for row in rows],
        "columns": {heading.name: _column(standing, heading, rows) for heading in table.columns},
        "notes": verdict_notes(table),
    }  # fmt: skip


def _row(standings: Standings, standing: Standing, strategy: str, at: dict[int, int]) -> SubmittedRow:
    scores, manifests = {}, []
    for seed, position in sorted(at.items()):
        number = standing.rows[position]
        scores[seed] = {
            vector.key: TaskScores(
                (), values := vector.values, standing.clusters.get(vector.task, np.arange(len(values)))
            )
            for vector in standings.checked[number].vectors[standing.suite.key]
        }
        path = standings.folder(number) / "run.json"
        known = "run.json" in standings.submission(number).files
        manifests.append(parse(RunManifest, read_record(path), where=str(path)) if known else None)
    return SubmittedRow(
        strategy, strategy, (), at=dict(sorted(at.items())), scores=scores, weights=standing.shares, manifests=manifests
    )


def _compared(standings: Standings, standing: Standing, model: str, rows: list[SubmittedRow]) -> Table:
    """Return the table of a group; rows that another engine evaluated than the baseline are not compared."""
    engines = [{standings.checked[standing.rows[at]].engines.get(standing.suite.key) for at in row.at.values()}
               for row in rows]  # fmt: skip
    for row, used in zip(rows, engines, strict=True):
        row.compared = len(used | engines[0]) == 1
    definitions, higher = standing.suite.columns, standing.suite.higher_is_better
    headings = [
        Heading(
            name, standing.title(name), standing.shares[name], {}, definitions[name].columns, higher,
            decides=definitions[name].decides,
        )
        for name in standing.columns
    ]  # fmt: skip
    table = Table(model, model, BASELINE, list(rows), headings)
    fill_cells(table, Comparisons())
    show_differences(table, compare_pairs([table], Comparisons()))
    return table


def _column(standing: Standing, heading: Heading, rows: list[SubmittedRow]) -> Data:
    """Return what a page shows of a column.

    Scores ``v``, ``r`` whether they are as recorded, differences ``d`` with their interval ``l`` and ``u``, verdicts
    ``s`` with the mark ``m`` that says what they were corrected with, and why there is none ``n``.
    """
    recorded = set(standing.as_recorded(heading.name))
    bounds = FRACTION_DIFFERENCE if heading.fraction else UNBOUNDED
    cells = [row.cells[heading.name] for row in rows]
    tests = [cell.to_base for cell in cells]
    differences = [(test.difference.value, *test.difference.interval(bounds)) if test else (np.nan,) * 3
                   for test in tests]  # fmt: skip
    value, low, high = np.array(differences).T
    return {
        "v": shortened(np.array([cell.score.value if cell.score else np.nan for cell in cells])),
        "r": [not recorded.isdisjoint(row.at.values()) for row in rows],
        "d": shortened(value), "l": shortened(low), "u": shortened(high),
        "s": [test.verdict if test and test.family else None for test in tests],
        "m": [test.sign if test and test.family else "" for test in tests],
        "n": [_why_none(row, heading) for row in rows],
    }  # fmt: skip


def _why_none(row: SubmittedRow, heading: Heading) -> str:
    """Return why a row has no difference or no verdict, as short as a cell; empty if it has both."""
    cell = row.cells[heading.name]
    if row.strategy == BASELINE:
        return "baseline"
    if not row.compared:
        return "another engine"
    if cell.to_base is None:
        return "no seed in common"
    if cell.to_base.family is None:
        return f"needs {FEWEST_SEEDS} seeds" if heading.decides else "no verdicts in this column"
    return ""
