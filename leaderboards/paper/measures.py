"""Quantities from the records: score vectors by seed for what questions make, one number a seed for everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.files import read_jsonl
from harness.plan import PlannedRun
from harness.records import GateLoads
from harness.samples import read_samples
from harness.statistics.estimates import Estimate, Part, estimate
from leaderboards.paper.presets import subtask
from leaderboards.paper.runs import GATE_LOAD, JUDGING, SCORES, Experiments
from leaderboards.paper.specs import SOURCES

NO_COUNTERPART = "nothing stands for it in preset"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Vector:
    """Some questions' scores under one seed, and their share in the quantity."""

    share: float
    questions: tuple[object, ...]
    values: Floats
    clusters: NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """A quantity of a strategy.

    Attributes:
        vectors: seed → what it is computed from, where it rests on questions.
        numbers: seed → the number, where it does not.
        missing: why seeds lack it, each reason once.
        trained: false for the base checkpoint, which is the same under every seed.
    """

    vectors: dict[int, tuple[Vector, ...]] = field(default_factory=dict)
    numbers: dict[int, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    trained: bool = True

    @property
    def seeds(self) -> list[int]:
        return sorted(self.vectors or self.numbers)

    def estimate(self) -> Estimate | None:
        """Mean and standard error over questions and seeds, or over seeds alone; None where nothing was measured."""
        if self.vectors:
            return estimate(_parts([self.vectors[seed] for seed in self.seeds]))
        if not self.numbers:
            return None
        return over_seeds([self.numbers[seed] for seed in self.seeds])

    def minus(self, other: Measured) -> Estimate | None:
        """The difference, paired by question and seed; None where nothing pairs.

        Raises:
            MoemixError: the two did not answer the same questions.
        """
        here, there = self.vectors, other.vectors
        if here and there and not self.trained:
            here = dict.fromkeys(there, next(iter(here.values())))
        elif here and there and not other.trained:
            there = dict.fromkeys(here, next(iter(there.values())))
        seeds = sorted(here.keys() & there.keys())
        if not seeds:
            return None
        mine, theirs = (_parts([held[seed] for seed in seeds]) for held in (here, there))
        for seed in seeds:
            if [v.questions for v in here[seed]] != [v.questions for v in there[seed]]:
                raise MoemixError("two rows of the table did not answer the same questions")
        return estimate([Part(a.weight, a.scores - b.scores, a.clusters) for a, b in zip(mine, theirs, strict=True)])


def over_seeds(numbers: Sequence[float]) -> Estimate:
    """The mean over seeds, its standard error theirs; unknown with one seed."""
    count = len(numbers)
    se = float(np.std(numbers, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(np.mean(numbers)), se, count - 1 if count > 1 else math.nan, count, count)


def _parts(by_seed: Sequence[tuple[Vector, ...]]) -> list[Part]:
    if any([v.questions for v in vectors] != [v.questions for v in by_seed[0]] for vectors in by_seed):
        raise MoemixError("the seeds of a strategy did not answer the same questions")
    return [
        Part(vectors[0].share, np.stack([vector.values for vector in vectors]), vectors[0].clusters)
        for vectors in zip(*by_seed, strict=True)
    ]


def measure(experiments: Experiments, model: str, strategy: str, quantity: str) -> Measured:
    """A quantity (``score:gsm8k``, ``judge:average``, ``weight:sharegpt``, …) of a strategy over its seeds."""
    planned_runs = experiments.runs(model, strategy)
    if not planned_runs:
        return Measured(missing=(experiments.why_none(model, strategy),))
    kind, _, name = quantity.partition(":")
    vectors: dict[int, tuple[Vector, ...]] = {}
    numbers: dict[int, float] = {}
    missing: dict[str, None] = {}
    for planned in planned_runs:
        try:
            if kind in ("score", "task"):
                vectors[planned.config.seed] = _scores(experiments, planned, kind, name)
            elif kind == "kind":
                vectors[planned.config.seed] = _of_kind(experiments, planned, name)
            elif kind == "judge":
                vectors[planned.config.seed] = _judged(experiments, planned, name)
            else:
                numbers[planned.config.seed] = _weight(experiments, planned, name)
        except NotMeasured as reason:
            missing[str(reason)] = None
    trained = planned_runs[0].config.strategy.name != "none"
    return Measured(vectors, numbers, tuple(missing), trained)


class NotMeasured(Exception):
    """The reason why a run has no number."""


def require(experiments: Experiments, planned: PlannedRun, need: str) -> None:
    """Raises :class:`NotMeasured` unless what is needed of a run is there."""
    if experiments.finished(planned, need):
        return
    if not planned.run.manifest_path.is_file():
        raise NotMeasured("not run yet")
    for name, stage in planned.run.manifest.stages.items():
        if stage.status == "failed":
            raise NotMeasured(f"{name} failed: {(stage.error or 'no reason recorded').partition(' (log')[0]}")
    raise NotMeasured("not trained yet" if not planned.run.trained else f"no {need} yet")


def _scores(experiments: Experiments, planned: PlannedRun, kind: str, name: str) -> tuple[Vector, ...]:
    preset = experiments.preset
    found_name = preset.columns.get(name) if kind == "score" else subtask(preset, name)
    if found_name is None:
        raise NotMeasured(f"{NO_COUNTERPART} {experiments.preset.name}")
    require(experiments, planned, SCORES)
    evaluation = experiments.evaluation(planned)
    if kind == "task":
        keys = [key for key in evaluation.results if key.task == found_name]
        if not keys:
            raise NotMeasured(f"task {found_name} was not evaluated")
        shares = {keys[0]: 1.0}
    else:
        if reason := evaluation.missing(found_name):
            raise NotMeasured(reason)
        shares = evaluation.shares(found_name)
        evaluation.column(found_name)  # checks the samples against the summary
    found = {key: evaluation.scores(key) for key in shares}
    return tuple(Vector(shares[key], held.questions, held.values, held.clusters) for key, held in found.items())


def _of_kind(experiments: Experiments, planned: PlannedRun, title: str) -> tuple[Vector, ...]:
    """Those questions of the column that stands for BBH whose right answer begins as the preset says."""
    require(experiments, planned, SCORES)
    evaluation = experiments.evaluation(planned)
    vectors = []
    for key in evaluation.column(experiments.preset.columns["bbh"]):
        held = evaluation.scores(key)
        start = experiments.preset.subtasks[title]
        samples = [sample for sample in read_samples(held.path) if str(sample.target).startswith(start)]
        kept = held.on({(sample.doc_id, sample.doc_hash) for sample in samples})
        if kept.questions:
            vectors.append((len(kept.questions), kept))
    if not vectors:
        raise NotMeasured(f"no question of {title}")
    total = sum(count for count, _ in vectors)
    return tuple(Vector(count / total, kept.questions, kept.values, kept.clusters) for count, kept in vectors)


def _judged(experiments: Experiments, planned: PlannedRun, name: str) -> tuple[Vector, ...]:
    require(experiments, planned, JUDGING)
    turn = {"first_turn": 1, "second_turn": 2}.get(name)
    lines = [
        line
        for line in read_jsonl(experiments.judging(planned) / "scores.jsonl")
        if line["score"] is not None and turn in (None, line["turn"])
    ]
    if not lines:
        raise NotMeasured("no turn was judged")
    lines.sort(key=lambda line: (str(line["question_id"]), line["turn"]))
    _, clusters = np.unique([str(line["question_id"]) for line in lines], return_inverse=True)
    values = np.array([line["score"] for line in lines], dtype=np.float64)
    questions = tuple((line["question_id"], line["turn"]) for line in lines)
    return (Vector(1.0, questions, values, clusters.astype(np.int64)),)


def _weight(experiments: Experiments, planned: PlannedRun, name: str) -> float:
    if not planned.run.trained:
        require(experiments, planned, SCORES)
    result = planned.run.manifest.result
    source = experiments.preset.sources[name]
    if result is None or source not in result.final_weights:
        raise NotMeasured(f"its mixture has no {SOURCES[name]}")
    return result.final_weights[source]


def setting(experiments: Experiments, what: str, benchmark: str) -> Measured:
    """How a benchmark is evaluated (``tasks`` or ``shots``), from the first evaluation there is."""
    column = experiments.preset.columns.get(benchmark, benchmark)
    for planned in experiments.plan.runs if experiments.plan else ():
        if not experiments.finished(planned, SCORES):
            continue
        evaluation = experiments.evaluation(planned)
        if evaluation.missing(column):
            break
        keys = evaluation.shares(column)
        return Measured(numbers={0: len(keys) if what == "tasks" else max(evaluation.results[k].shots for k in keys)})
    return Measured(missing=(f"{NO_COUNTERPART} {experiments.preset.name}",))


# --- gate loads -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loads:
    """Shares of tokens by expert of the last MoE layer, as the paper takes them: f64[K, E], a row a source."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    shares: Floats

    @property
    def distances(self) -> Floats:
        """f64[K, K], L2 distances between the rows."""
        return np.linalg.norm(self.shares[:, None] - self.shares[None], axis=2)

    @property
    def cv_squared(self) -> float:
        """CV(load)² over experts, each source counting equally; unbiased variance, as in the balance loss."""
        load = self.shares[[kind == "source" for kind in self.kinds]].mean(axis=0)
        return float(load.var(ddof=1) / load.mean() ** 2)


def gate_loads(experiments: Experiments, planned: PlannedRun, need: str = GATE_LOAD) -> Loads:
    """The measured gate load of a run's checkpoint.

    Raises:
        NotMeasured: it is not there.
    """
    require(experiments, planned, need)
    held = GateLoads.read(experiments.gate_load(planned, need) / "summary.json")
    last = np.array([layers[-1] for layers in held.counts], dtype=np.float64)
    return Loads(held.names, held.kinds, last / last.sum(axis=1, keepdims=True))
