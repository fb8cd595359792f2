"""A run's evaluation as score vectors: one number per question, checked against what the summary says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError, unknown
from harness.records import Column, EvalResult, EvalSummary
from harness.samples import read_samples as read_lines
from harness.statistics.clusters import cluster_label, number_clusters

TOLERANCE = 1e-6  # between a recorded value and the mean of its samples


@dataclass(frozen=True)
class Key:
    """What a score is of: a task, one of its metrics, and the answer filter it was computed after."""

    task: str
    metric: str
    filter: str


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task.

    Attributes:
        questions: (doc_id, doc_hash) of each question, by doc_id: what pairs two models' scores.
        values: f64[n], in that order.
        clusters: i64[n]; questions about one passage, or a question that the benchmark holds twice, are one cluster.
        path: the samples file.
        complete: false where some questions may have no score (a judgment failed): what is compared is then what both
            sides have.
    """

    questions: tuple[tuple[int, str], ...]
    values: NDArray[np.float64]
    clusters: NDArray[np.int64]
    path: Path
    complete: bool = True

    def on(self, questions: set[tuple[int, str]]) -> TaskScores:
        """The scores of some questions only."""
        kept = [i for i, question in enumerate(self.questions) if question in questions]
        if len(kept) == len(self.questions):
            return self
        _, clusters = np.unique(self.clusters[kept], return_inverse=True)
        return replace(
            self,
            questions=tuple(self.questions[i] for i in kept),
            values=self.values[kept],
            clusters=clusters.astype(np.int64),
        )


@dataclass
class Evaluation:
    """An evaluation folder: ``summary.json`` and lm-eval's ``samples_<task>.jsonl``, each read once."""

    folder: Path
    summary: EvalSummary
    samples: dict[Key, TaskScores] = field(default_factory=dict)
    _columns: dict[str, dict[Key, float]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Evaluation:
        return cls(folder, EvalSummary.read(folder / "summary.json"))

    @cached_property
    def results(self) -> dict[Key, EvalResult]:
        return {Key(result.task, result.metric, result.filter): result for result in self.summary.results}

    def scores(self, key: Key) -> TaskScores:
        """The score vector behind one result.

        Raises:
            MoemixError: a bad line, a question twice or missing, or samples that contradict the summary.
        """
        if key not in self.samples:
            self.samples[key] = read_samples(self.folder / f"samples_{key.task}.jsonl", self.results[key])
        return self.samples[key]

    def column(self, name: str) -> dict[Key, TaskScores]:
        """The score vectors that a column is computed from.

        Raises:
            MoemixError: as :meth:`scores`, and if they do not give the value that the summary records.
        """
        found = {key: self.scores(key) for key in self.shares(name)}
        value = sum(share * float(found[key].values.mean()) for key, share in self.shares(name).items())
        recorded = self.summary.columns[name].value
        if recorded is not None and not _close(value, recorded):
            raise MoemixError(
                f"column {name!r} is {value:.6g} by its samples and {recorded:.6g} by the summary",
                where=str(self.folder / "summary.json"),
            )
        return found

    def shares(self, name: str) -> dict[Key, float]:
        """How much each task's mean counts in a column, averages resolved into their tasks. The shares sum to 1."""
        if name not in self._columns:
            self._columns[name] = self._shares(name, above=())
        return self._columns[name]

    def missing(self, name: str) -> str | None:
        """Why a column has no value; None if it has one."""
        column = self.summary.columns.get(name)
        if column is None:
            return "not in this evaluation"
        if column.value is None:
            notes = [r.note for r in self.summary.results if r.task in column.tasks and r.value is None and r.note]
            return f"no score ({'; '.join(notes)})" if notes else "no score"
        empty = [key.task for key in self.shares(name) if self.results[key].value is None]
        return f"no score for {', '.join(empty)}" if empty else None

    def _shares(self, name: str, above: tuple[str, ...]) -> dict[Key, float]:
        where = f"{self.folder / 'summary.json'}: columns.{name}"
        column = self.summary.columns.get(name)
        if column is None:
            raise unknown("column", name, self.summary.columns, where=str(self.folder / "summary.json"))
        if name in above:
            raise MoemixError(f"the column is a mean of itself ({' → '.join((*above, name))})", where=where)
        if bool(column.tasks) == bool(column.columns):
            raise MoemixError("a column is computed from either `tasks` or `columns`", where=where)
        if column.tasks:
            keys = [self._key(task, column, where) for task in column.tasks]
            sizes = [self.results[key].n if column.aggregation == "micro" else 1 for key in keys]
            return {key: size / (sum(sizes) or 1) for key, size in zip(keys, sizes, strict=True)}
        shares: dict[Key, float] = {}
        for part in column.columns:
            for key, share in self._shares(part, (*above, name)).items():
                shares[key] = shares.get(key, 0.0) + share / len(column.columns)
        return shares

    def _key(self, task: str, column: Column, where: str) -> Key:
        key = Key(task, column.metric or "", column.filter)
        if key not in self.results:
            held = [f"{other.metric} ({other.filter})" for other in self.results if other.task == task]
            raise MoemixError(f"task {task} has no {column.metric} ({column.filter})", where=where,
                              hint=f"it has {', '.join(held) or 'no result at all'}")  # fmt: skip
        return key


def read_samples(path: Path, result: EvalResult) -> TaskScores:
    """The per-question values of ``result`` from lm-eval's samples (one line per question and filter).

    Raises:
        MoemixError: with file and line, if a line is malformed, a question comes twice, questions are missing, or the
            mean is not the value that the summary records.
    """
    found: dict[int, tuple[str, float, str]] = {}
    for sample in read_lines(path):
        if sample.filter == result.filter:
            digest = sample.doc_hash
            label = cluster_label(sample.record.get("doc"), digest)
            found[sample.doc_id] = (digest, sample.score(result.metric), label)
    if len(found) != result.n:
        raise MoemixError(
            f"{len(found)} questions where the summary says {result.n} ({result.metric} after filter {result.filter})",
            where=str(path),
            hint="the evaluation was cut short or edited; remove its folder and run it again",
        )
    ids = sorted(found)
    values = np.array([found[i][1] for i in ids], dtype=np.float64)
    mean = float(values.mean()) if ids else math.nan
    if result.value is not None and not _close(mean, result.value):
        raise MoemixError(
            f"{result.metric} is {mean:.6g} by its samples and {result.value:.6g} by the summary", where=str(path)
        )
    digests = [found[i][0] for i in ids]
    clusters = number_clusters(found[i][2] for i in ids)
    return TaskScores(tuple(zip(ids, digests, strict=True)), values, clusters, path)


def _close(computed: float, recorded: float) -> bool:
    return math.isclose(computed, recorded, abs_tol=TOLERANCE, rel_tol=TOLERANCE)
