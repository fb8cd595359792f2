"""Read a run's evaluation as score vectors: one number per question, checked against the summary."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from harness.records import EvalResult, EvalSummary
from harness.samples import read_samples as read_lines
from harness.statistics.clusters import cluster_label, number_clusters
from harness.statistics.columns import Key, column_weights

TOLERANCE = 1e-6  # between a recorded value and the mean of its samples


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task.

    Attributes:
        questions: (doc_id, doc_hash) of each question, by doc_id. Scores of two models pair by these. Empty if their
            order is known to be the same everywhere (on a board).
        values: f64[n], in that order.
        clusters: i64[n], the cluster of each question (:mod:`harness.statistics.clusters`).
        path: the samples file, for errors.
        complete: false if a question may have no score (a judgment failed). A comparison then uses the questions that
            both sides have.
    """

    questions: tuple[tuple[int, str], ...]
    values: NDArray[np.float64]
    clusters: NDArray[np.int64]
    path: Path = Path()
    complete: bool = True

    def on(self, questions: set[tuple[int, str]]) -> TaskScores:
        """Return the scores of some questions only."""
        kept = [i for i, question in enumerate(self.questions) if question in questions]
        if len(kept) == len(self.questions):
            return self
        return replace(
            self,
            questions=tuple(self.questions[i] for i in kept),
            values=self.values[kept],
            clusters=number_clusters(self.clusters[kept].tolist()),
        )


@dataclass
class Evaluation:
    """An evaluation folder: ``summary.json`` and lm-eval's ``samples_<task>.jsonl``, each read once."""

    folder: Path
    summary: EvalSummary
    samples: dict[Key, TaskScores] = field(default_factory=dict)
    _columns: dict[str, dict[Key, TaskScores]] = field(default_factory=dict)
    _shares: dict[str, dict[Key, float]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Evaluation:
        """Open an evaluation folder; its samples are read when they are needed."""
        return cls(folder, EvalSummary.read(folder / "summary.json"))

    @property
    def path(self) -> Path:
        """The summary's file."""
        return self.folder / "summary.json"

    @cached_property
    def results(self) -> dict[Key, EvalResult]:
        """The task results by what they are of."""
        return {Key(result.task, result.metric, result.filter): result for result in self.summary.results}

    def scores(self, key: Key) -> TaskScores:
        """Return the score vector behind one result.

        Raises:
            MoemixError: a malformed line, a question that is missing or comes twice, or a mean that is not the
                summary's value.
        """
        if key not in self.samples:
            self.samples[key] = read_samples(self.folder / f"samples_{key.task}.jsonl", self.results[key])
        return self.samples[key]

    def column(self, name: str) -> dict[Key, TaskScores]:
        """Return the score vectors of a column's task results.

        Raises:
            MoemixError: as :meth:`scores`, and if they do not give the column's value in the summary.
        """
        if name in self._columns:
            return self._columns[name]
        found = {key: self.scores(key) for key in self.shares(name)}
        value = sum(share * float(found[key].values.mean()) for key, share in self.shares(name).items())
        recorded = self.summary.columns[name].value
        if recorded is not None and not _close(value, recorded):
            raise MoemixError(
                f"column {name!r} is {value:.6g} by its samples and {recorded:.6g} by the summary", where=str(self.path)
            )
        self._columns[name] = found
        return found

    def shares(self, name: str) -> dict[Key, float]:
        """Return the weight of each task result in a column; the sum is 1."""
        if name not in self._shares:
            self._shares[name] = column_weights(self.summary.columns, name, self._questions, str(self.path))
        return self._shares[name]

    def missing(self, name: str) -> str | None:
        """Return why a column has no value; None if it has one."""
        column = self.summary.columns.get(name)
        if column is None:
            return "not in this evaluation"
        if column.value is None:
            notes = [r.note for r in self.summary.results if r.task in column.tasks and r.value is None and r.note]
            return f"no score ({'; '.join(notes)})" if notes else "no score"
        empty = [key.task for key in self.shares(name) if self.results[key].value is None]
        return f"no score for {', '.join(empty)}" if empty else None

    def _questions(self, key: Key) -> int:
        if key not in self.results:
            there = [f"{other.metric} ({other.filter})" for other in self.results if other.task == key.task]
            raise MoemixError(f"task {key.task} has no {key.metric} ({key.filter})", where=str(self.path),
                              hint=f"it has {', '.join(there) or 'no result at all'}")  # fmt: skip
        return self.results[key].n


def read_samples(path: Path, result: EvalResult) -> TaskScores:
    """Read the score of each question for ``result`` from lm-eval's samples.

    Raises:
        MoemixError: with file and line, if a line is malformed, a question comes twice, questions are missing, or the
            mean is not the summary's value.
    """
    found: dict[int, tuple[str, float, str]] = {}
    for sample in read_lines(path):
        if sample.filter == result.filter:
            label = cluster_label(sample.record.get("doc"), sample.doc_hash)
            found[sample.doc_id] = (sample.doc_hash, sample.score(result.metric), label)
    if len(found) != result.n:
        raise MoemixError(
            f"{len(found)} questions where the summary says {result.n} ({result.metric} after filter {result.filter})",
            where=str(path),
            hint="the evaluation was cut short or edited; remove its folder and run it again",
        )
    questions = sorted((number, *rest) for number, rest in found.items())
    values = np.array([value for _, _, value, _ in questions], dtype=np.float64)
    mean = float(values.mean()) if questions else math.nan
    if result.value is not None and not _close(mean, result.value):
        raise MoemixError(
            f"{result.metric} is {mean:.6g} by its samples and {result.value:.6g} by the summary", where=str(path)
        )
    clusters = number_clusters(label for *_, label in questions)
    return TaskScores(tuple((number, digest) for number, digest, *_ in questions), values, clusters, path)


def _close(computed: float, recorded: float) -> bool:
    return math.isclose(computed, recorded, abs_tol=TOLERANCE, rel_tol=TOLERANCE)
