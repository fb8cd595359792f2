"""What the paper's tables and figures are made of: lines as ordinary comparisons, final weights, and gate loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.plan import PlannedRun
from harness.records import Column as SuiteColumn
from harness.records import GateLoads
from harness.samples import read_samples
from harness.statistics.columns import Key
from leaderboards.comparison import fill
from leaderboards.differences import Pair, Tested
from leaderboards.judged import PREFIX
from leaderboards.members import Member
from leaderboards.paper.presets import Preset
from leaderboards.paper.runs import GATE_LOAD, Experiments
from leaderboards.paper.specs import MODELS, SOURCES, Line, baseline_of
from leaderboards.scores import Evaluation
from leaderboards.table import Cell, Row, Table

NO_COUNTERPART = "nothing corresponds to it in preset"
TURNS = {"judge:first_turn": "/1", "judge:second_turn": "/2"}  # how the names of a turn's questions end
Question = tuple[int, str]
Keep = Callable[[Key, Question], bool]


@dataclass(frozen=True)
class Compared:
    """Lines of the paper as ordinary comparisons: one table for each model, all of them one family of tests.

    Attributes:
        tables: model → its table.
        rows: key of a line → its row; a line without runs has none.
        tested: the difference of every pair of rows in every column.
    """

    experiments: Experiments
    tables: Mapping[str, Table]
    rows: Mapping[str, Row]
    tested: Mapping[Pair, Tested]

    @property
    def comparisons(self) -> int:
        """Return the size of the family of tests."""
        return next((table.comparisons for table in self.tables.values()), 0)

    def cell(self, line: Line, quantity: str) -> Cell:
        """Return the cell of a line; an empty one where nothing was measured."""
        name, row = column_name(self.experiments.preset, quantity), self.rows.get(line.key)
        return row.cells.get(name or "", Cell()) if row else Cell()

    def difference(self, line: str, other: str, quantity: str) -> Tested | None:
        """Return the difference of two lines, given by their keys; None where they do not pair."""
        name = column_name(self.experiments.preset, quantity)
        if name is None or line not in self.rows or other not in self.rows:
            return None
        return self.tested.get((name, self.rows[line], self.rows[other]))

    def detectable(self, quantity: str) -> float:
        """Return the difference to the baseline that is detected with 80 % power, the median over models; or nan."""
        name = column_name(self.experiments.preset, quantity)
        found = [h.detectable for table in self.tables.values() for h in table.columns if h.name == name]
        known = [value for value in found if not np.isnan(value)]
        return float(np.median(known)) if known else np.nan

    def missing(self, line: Line, quantity: str) -> tuple[str, ...]:
        """Say why seeds of a line lack a quantity, each reason once."""
        name = column_name(self.experiments.preset, quantity)
        if line.key not in self.rows:
            return (self.experiments.why_none(line.model, line.strategy),)
        if name is None:
            return (f"{NO_COUNTERPART} {self.experiments.preset.name}",)
        row = self.rows[line.key]
        reasons: dict[str, None] = {}
        for member in row.members:
            if member.evaluation is None:
                reasons[problem_of(member) or "; ".join(row.notes)] = None
            elif reason := member.evaluation.missing(name):
                reasons[_judging_problem(member) if quantity.startswith("judge:") else reason] = None
        return tuple(reasons)


def compare_lines(experiments: Experiments, lines: Sequence[Line], quantities: Sequence[str]) -> Compared:
    """Compare lines of the paper in some quantities (``score:gsm8k``, ``judge:average``, …).

    Raises:
        MoemixError: two lines of a model did not answer the same questions, or their records are damaged.
    """
    names = {q: name for q in quantities if (name := column_name(experiments.preset, q)) is not None}
    baseline = baseline_of(lines).strategy
    rows: dict[str, Row] = {}
    tables: dict[str, Table] = {}
    for line in lines:
        members = [_with_parts(m, experiments.preset, names) for m in experiments.members(line.model, line.strategy)]
        if members:
            rows[line.key] = Row(line.title, line.strategy, tuple(members))
            table = tables.setdefault(line.model, Table(line.model, MODELS[line.model], baseline, []))
            table.rows.append(rows[line.key])
    return Compared(experiments, tables, rows, fill(list(tables.values()), set(names.values())))


def column_name(preset: Preset, quantity: str) -> str | None:
    """Return the name of a quantity's column in the comparison; None where the preset has no counterpart."""
    kind, _, name = quantity.partition(":")
    if kind == "score":
        return preset.columns.get(name)
    if kind == "task":
        return quantity if preset.task_prefix is not None else None
    if kind == "judge" and name == "average":
        return f"{PREFIX}{preset.bench}"
    return quantity if kind in ("kind", "judge") else None


def problem_of(member: Member) -> str:
    """Say why a run has no scores, without the place of its log."""
    return (member.problem or "").partition(" (log")[0]


def _judging_problem(member: Member) -> str:
    stages = member.manifest.stages.items() if member.manifest else ()
    failed = [stage.error for name, stage in stages if name.startswith("judge:") and stage.status == "failed"]
    return (
        f"judging failed: {(failed[0] or 'no reason recorded').partition(' (log')[0]}" if failed else "not judged yet"
    )


# --- parts of columns ---------------------------------------------------------------------------------


def _with_parts(member: Member, preset: Preset, names: Mapping[str, str]) -> Member:
    """Add the columns that are a part of another one: a subtask of BBH, a kind of questions, a turn of the judging."""
    evaluation = member.evaluation
    for quantity, name in names.items():
        if evaluation is not None and quantity.partition(":")[0] in ("task", "kind", "judge"):
            evaluation = _with_part(evaluation, name, *_part(evaluation, preset, quantity))
    return replace(member, evaluation=evaluation)


def _part(evaluation: Evaluation, preset: Preset, quantity: str) -> tuple[str, Keep]:
    """Return the column that a quantity is a part of, and which of its questions belong to it."""
    kind, _, title = quantity.partition(":")
    if kind == "task":
        task = f"{preset.task_prefix}{title.lower().replace(' ', '_')}"
        return preset.columns["bbh"], lambda key, _: key.task == task
    if kind == "kind":
        wanted = _answers_beginning(evaluation, preset.columns["bbh"], preset.subtasks[title])
        return preset.columns["bbh"], lambda _, question: question in wanted
    end = TURNS.get(quantity, "")
    return f"{PREFIX}{preset.bench}", lambda _, question: question[1].endswith(end)


def _answers_beginning(evaluation: Evaluation, column: str, start: str) -> set[Question]:
    """Return the questions of a column whose right answer begins with ``start``."""
    if evaluation.missing(column):
        return set()
    paths = {scores.path for scores in evaluation.column(column).values()}
    samples = (sample for path in paths for sample in read_samples(path))
    return {(sample.doc_id, sample.doc_hash) for sample in samples if str(sample.target).startswith(start)}


def _with_part(evaluation: Evaluation, name: str, whole: str, keep: Keep) -> Evaluation:
    """Add a column of those questions of the column ``whole`` that are to be kept; nothing if there are none."""
    if name == whole or evaluation.missing(whole):
        return evaluation
    column, results, samples = evaluation.summary.columns[whole], [], dict(evaluation.samples)
    for key, scores in evaluation.column(whole).items():
        kept = scores.on({question for question in scores.questions if keep(key, question)})
        if kept.questions:
            part = replace(key, task=f"{name} of {key.task}")
            value = float(kept.values.mean())
            update = {"task": part.task, "value": value, "stderr": None, "n": len(kept.values)}
            results.append(evaluation.results[key].model_copy(update=update))
            samples[part] = kept
    if not results:
        return evaluation
    total = sum(result.n for result in results)
    added = SuiteColumn(
        value=sum(result.n * (result.value or 0.0) for result in results) / total, stderr=None, n=total,
        tasks=tuple(result.task for result in results), metric=column.metric, filter=column.filter,
        aggregation="micro",
    )  # fmt: skip
    summary = evaluation.summary
    update = {"results": (*summary.results, *results), "columns": {**summary.columns, name: added}}
    return replace(evaluation, summary=summary.model_copy(update=update), samples=samples)


# --- other quantities ---------------------------------------------------------------------------------


def final_weights(experiments: Experiments, line: Line, source: str) -> tuple[list[float], tuple[str, ...]]:
    """Return the final weight of a source of the paper under each seed, and why other seeds have none."""
    members = experiments.members(line.model, line.strategy)
    if not members:
        return [], (experiments.why_none(line.model, line.strategy),)
    weights: list[float] = []
    missing: dict[str, None] = {}
    for member in members:
        result = member.manifest.result if member.manifest else None
        if result is None:
            missing[problem_of(member) or "not trained yet"] = None
        elif (name := experiments.preset.sources[source]) in result.final_weights:
            weights.append(result.final_weights[name])
        else:
            missing[f"its mixture has no {SOURCES[source]}"] = None
    return weights, tuple(missing)


def setting(experiments: Experiments, what: str, benchmark: str) -> int | None:
    """Return how a benchmark is evaluated (number of ``tasks`` or ``shots``), from the first evaluation found."""
    column = experiments.preset.columns.get(benchmark, benchmark)
    for planned in experiments.plan.runs if experiments.plan else ():
        evaluation = experiments.member(planned).evaluation
        if evaluation is not None:
            if evaluation.missing(column):
                return None
            keys = evaluation.shares(column)
            return len(keys) if what == "tasks" else max(evaluation.results[key].shots for key in keys)
    return None


@dataclass(frozen=True)
class Loads:
    """Shares of tokens by expert of the last MoE layer, as the paper takes them: f64[K, E], a row for each source."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    shares: NDArray[np.float64]

    @property
    def distances(self) -> NDArray[np.float64]:
        """Return f64[K, K], the L2 distances between the rows."""
        found: NDArray[np.float64] = np.linalg.norm(self.shares[:, None] - self.shares[None], axis=2)
        return found

    @property
    def cv_squared(self) -> float:
        """Return CV(load)² over experts, each source counting equally; unbiased variance, as in the balance loss."""
        load = self.shares[[kind == "source" for kind in self.kinds]].mean(axis=0)
        return float(load.var(ddof=1) / load.mean() ** 2)


def gate_loads(experiments: Experiments, planned: PlannedRun, need: str = GATE_LOAD) -> Loads | str:
    """Return the measured gate load of a run's checkpoint, or the reason why there is none."""
    path = experiments.gate_load(planned, need) / "summary.json"
    if not planned.run.trained:
        return problem_of(experiments.member(planned)) or "not trained yet"
    if not path.is_file():
        return f"no {need} yet"
    measured = GateLoads.read(path)
    if measured.checkpoint_hash != planned.run.manifest.checkpoint_hash:
        return f"the {need} is of another checkpoint"
    last = np.array([layers[-1] for layers in measured.counts], dtype=np.float64)
    return Loads(measured.names, measured.kinds, last / last.sum(axis=1, keepdims=True))
