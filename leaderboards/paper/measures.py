"""What the paper's tables and figures are made of: lines as ordinary comparisons, final weights, and gate loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.jobs import PlannedRun
from harness.records import Column as SuiteColumn
from harness.records import GateLoads
from harness.samples import read_samples
from harness.statistics.columns import Key
from leaderboards.comparison import fill, fill_scores
from leaderboards.differences import Pair
from leaderboards.judged import PREFIX
from leaderboards.paper.presets import Preset
from leaderboards.paper.runs import GATE_LOAD, Experiments
from leaderboards.paper.specs import MODELS, SOURCES, Line, baseline_of
from leaderboards.scores import Evaluation
from leaderboards.table import Cell, Member, Row, Table, Tested

NO_COUNTERPART = "nothing corresponds to it in preset"
Keep = Callable[[Key, tuple[int, str]], bool]  # whether a question of a task belongs to a part of a column


@dataclass(frozen=True)
class Compared:
    """Lines of the paper as ordinary comparisons: one table for each model, all of them one family of tests.

    Attributes:
        rows: key of a line → its row; a line without runs has none.
        tested: the difference of every pair of rows in every quantity.
    """

    experiments: Experiments
    tables: Sequence[Table]
    rows: Mapping[str, Row]
    tested: Mapping[Pair, Tested]

    def cell(self, line: Line, quantity: str) -> Cell:
        """Return the cell of a line; an empty one where nothing was measured."""
        return self.rows[line.key].cells.get(quantity, Cell()) if line.key in self.rows else Cell()

    def difference(self, line: str, other: str, quantity: str) -> Tested | None:
        """Return the difference of two lines, given by their keys; None where they do not pair."""
        if line not in self.rows or other not in self.rows:
            return None
        return self.tested.get((quantity, self.rows[line], self.rows[other]))

    def missing(self, line: Line, quantity: str) -> tuple[str, ...]:
        """Say why seeds of a line lack a quantity, each reason once."""
        preset = self.experiments.preset
        if line.key not in self.rows:
            return (self.experiments.why_none(line.model, line.strategy),)
        if (part := _part(preset, quantity)) is None:
            return (f"{NO_COUNTERPART} {preset.name}",)
        reasons: dict[str, None] = {}
        for member in self.rows[line.key].members:
            if member.evaluation is None:
                reasons[problem_of(member) or "; ".join(self.rows[line.key].notes)] = None
            elif reason := member.evaluation.missing(quantity):
                stage = member.manifest.stages.get(f"judge:{preset.bench}") if member.manifest else None
                if quantity.startswith("judge:"):
                    reason = f"judging failed: {stage.error}" if stage and stage.error else "not judged yet"
                else:
                    reason = member.evaluation.missing(part[0]) or reason
                reasons[reason.partition(" (log")[0]] = None
        return tuple(reasons)


def compare_lines(
    experiments: Experiments, lines: Sequence[Line], quantities: Sequence[str], *, test: bool = True
) -> Compared:
    """Compare lines of the paper in some quantities (``score:gsm8k``, ``judge:average``, …).

    Every line against the baseline in every quantity is primary. Without ``test``, no pair is tested.

    Raises:
        MoemixError: two lines of a model did not answer the same questions, or their records are damaged.
    """
    baseline = baseline_of(lines).strategy
    rows: dict[str, Row] = {}
    tables: dict[str, Table] = {}
    for line in lines:
        members = experiments.members(line.model, line.strategy)
        if members:
            named = tuple(_with_quantities(member, experiments.preset, quantities) for member in members)
            rows[line.key] = Row(line.title, line.strategy, named)
            table = tables.setdefault(line.model, Table(line.model, MODELS[line.model], baseline, []))
            table.rows.append(rows[line.key])
    margins = experiments.comparisons.margins
    parts = {quantity: _part(experiments.preset, quantity) for quantity in quantities}
    margins = {name: margins[part[0]] for name, part in parts.items() if part and part[0] in margins}
    update = {"rows": (), "columns": tuple(quantities), "margins": margins}
    declared = experiments.comparisons.model_copy(update=update)
    held = list(tables.values())
    if not test:
        for table in held:
            fill_scores(table, declared, quantities)
    return Compared(experiments, held, rows, fill(held, declared, quantities) if test else {})


def problem_of(member: Member) -> str:
    """Say why a run has no scores, without the place of its log."""
    return (member.problem or "").partition(" (log")[0]


# --- quantities as columns ----------------------------------------------------------------------------


def _with_quantities(member: Member, preset: Preset, quantities: Sequence[str]) -> Member:
    """Add each quantity as a column: a column of the suite or the judging under the quantity's name, or a part of one.

    Subtasks of BBH, kinds of questions and turns of the judging are parts.
    """
    evaluation = member.evaluation
    for quantity in quantities:
        part = _part(preset, quantity)
        if evaluation is None or part is None or evaluation.missing(part[0]):
            continue
        whole, keep = part
        if quantity.startswith("kind:"):
            keep = _answers_beginning(evaluation, whole, preset.subtasks[quantity.removeprefix("kind:")])
        if keep is not None:
            evaluation = _with_part(evaluation, quantity, whole, keep)
        else:
            columns = evaluation.summary.columns
            summary = evaluation.summary.model_copy(update={"columns": {**columns, quantity: columns[whole]}})
            evaluation = replace(evaluation, summary=summary)
    return replace(member, evaluation=evaluation)


def _part(preset: Preset, quantity: str) -> tuple[str, Keep | None] | None:
    """Return the column that a quantity is or is a part of, and which questions belong to it; None without one."""
    kind, _, name = quantity.partition(":")
    if kind == "score":
        return (preset.columns[name], None) if name in preset.columns else None
    if kind == "judge":
        turn = {"first_turn": "/1", "second_turn": "/2"}.get(name)  # how the names of a turn's questions end
        return f"{PREFIX}{preset.bench}", (lambda _, question: question[1].endswith(turn)) if turn else None
    if kind == "task":
        task = f"{preset.task_prefix}{name.lower().replace(' ', '_')}"
        return (preset.columns["bbh"], lambda key, _: key.task == task) if preset.task_prefix else None
    return preset.columns["bbh"], None


def _answers_beginning(evaluation: Evaluation, column: str, start: str) -> Keep:
    """Return a filter for the questions of a column whose right answer begins with ``start``."""
    paths = {scores.path for scores in evaluation.column(column).values()}
    samples = (sample for path in paths for sample in read_samples(path))
    wanted = {(sample.doc_id, sample.doc_hash) for sample in samples if str(sample.target).startswith(start)}
    return lambda _, question: question in wanted


def _with_part(evaluation: Evaluation, name: str, whole: str, keep: Keep) -> Evaluation:
    """Add a column of those questions of the column ``whole`` that are to be kept; nothing if there are none."""
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
