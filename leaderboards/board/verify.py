"""Verify a board: check each submission by itself, in several processes, then compare submissions with each other.

Results are cached in ``.moemix/verified.sqlite`` beside the board, on this machine only. A cached result is used as
long as no file of the submission (by size and times), no pin and no line of these checks has changed.
"""

from __future__ import annotations

import base64
import functools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from harness.errors import MoemixError
from harness.files import hash_tree, hash_value
from harness.progress import progress
from harness.schema import Strict
from harness.statistics.clusters import number_clusters
from harness.statistics.columns import Key
from leaderboards.board.checks import check_alone
from leaderboards.board.folder import BoardFolder, SubmissionFolder
from leaderboards.board.integrity import Origin, check_integrity, find_duplicates, fingerprints
from leaderboards.board.samples import TaskSamples
from leaderboards.board.submissions import Submission, Verdict, Withdrawal
from leaderboards.board.untrusted import walk

FEW = 32  # one process checks so many submissions as quickly as several do
FINAL = ("layout", "schema")  # checks that a withdrawn submission must pass, too


class Vector(Strict):
    """The scores of one result, packed: one bit for each question if all are 0 or 1, otherwise eight bytes."""

    task: str
    metric: str
    filter: str
    n: int
    bits: str = ""
    floats: str = ""

    @classmethod
    def pack(cls, key: Key, values: NDArray[np.float64]) -> Vector:
        """Pack the scores f64[n] of a result."""
        bits = floats = ""
        if np.isin(values, (0.0, 1.0)).all():
            bits = base64.b64encode(np.packbits(values.astype(bool)).tobytes()).decode()
        else:
            floats = base64.b64encode(values.astype("<f8").tobytes()).decode()
        return cls(task=key.task, metric=key.metric, filter=key.filter, n=len(values), bits=bits, floats=floats)

    @property
    def key(self) -> Key:
        """The result that the scores belong to."""
        return Key(self.task, self.metric, self.filter)

    @property
    def values(self) -> NDArray[np.float64]:
        """The scores, f64[n]."""
        if self.floats:
            return np.frombuffer(base64.b64decode(self.floats), dtype="<f8").astype(np.float64)
        packed = np.frombuffer(base64.b64decode(self.bits), dtype=np.uint8)
        return np.unpackbits(packed, count=self.n).astype(np.float64)


class Checked(Strict):
    """A submission after its own checks: enough to rank and show it without its samples."""

    label: str
    submission: Submission | None
    withdrawn: Withdrawal | None
    verdicts: tuple[Verdict, ...]
    prints: dict[str, str]
    vectors: dict[str, tuple[Vector, ...]]
    engines: dict[str, str] = Field(default_factory=dict, description="suite → name, version and dtype of the engine")
    repeats: dict[str, dict[str, tuple[int, ...]]] = Field(
        default_factory=dict, description="suite → task → cluster of each question, if questions share a passage"
    )

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(verdict.verdict == "fail" for verdict in self.verdicts)


_CHECKED = TypeAdapter(Checked)


def verify(board: BoardFolder, *, only: str | None = None, jobs: int | None = None) -> list[Checked]:
    """Check every submission of a board, or only one. Duplicates are searched in all of them.

    Args:
        board: the board.
        only: id of the submission to return.
        jobs: number of processes; by default one for each core if there are many submissions.
    """
    folders = board.submissions()
    chosen = board.find(only).label if only else None
    results = _with_duplicates(_check_all(board, folders, jobs or os.cpu_count() or 1))
    results += [_stray(name) for name in board.strays()]
    return [_softened(checked) for checked in results if chosen is None or checked.label == chosen]


def check_one(board: BoardFolder, where: SubmissionFolder) -> Checked:
    """Check one submission by itself."""
    findings = check_alone(board, where)
    check_integrity(findings)
    engines = {suite: summary.engine for suite, summary in findings.summaries.items()}
    return Checked(
        label=where.label,
        submission=findings.submission,
        withdrawn=findings.withdrawn,
        verdicts=tuple(findings.verdicts),
        prints=fingerprints(findings) if not findings.failed else {},
        vectors={
            suite: tuple(Vector.pack(key, values) for key, values in vectors.items())
            for suite, vectors in findings.vectors.items()
        },
        engines={
            suite: " ".join(str(engine[key]) for key in ("name", "version", "dtype") if engine.get(key))[:120]
            for suite, engine in engines.items()
        },
        repeats={suite: _clusters(tasks) for suite, tasks in findings.tasks.items()},
    )


def _clusters(tasks: Mapping[str, TaskSamples]) -> dict[str, tuple[int, ...]]:
    """Return the cluster of each question, of the tasks in which some questions share one."""
    clusters = {}
    for task, samples in tasks.items():
        groups = [samples.groups[number] for number in samples.numbers]
        if len(set(groups)) < len(groups):
            clusters[task] = tuple(number_clusters(groups).tolist())
    return clusters


def _check_all(board: BoardFolder, folders: list[SubmissionFolder], jobs: int) -> list[Checked]:
    """Return the cached results, and check the other submissions now, in the order of the folders."""
    with _Cache(board) as cache:
        states = {where.label: cache.state(where) for where in folders}
        results = {label: _CHECKED.validate_json(data) for label, data in cache.read("verified", states).items()}
        missing = [where for where in folders if where.label not in results]
        with progress("verifying submissions", len(folders), done=len(folders) - len(missing)) as bar:
            for checked in _check(board, missing, jobs):
                results[checked.label] = checked
                cache.write("verified", checked.label, states[checked.label], _CHECKED.dump_json(checked))
                bar.advance()
        return [results[where.label] for where in folders]


def _check(board: BoardFolder, folders: list[SubmissionFolder], jobs: int) -> Iterator[Checked]:
    check = functools.partial(check_one, board)
    if jobs == 1 or len(folders) <= FEW:
        yield from map(check, folders)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(check, folders, chunksize=FEW)


def _with_duplicates(results: list[Checked]) -> list[Checked]:
    """Add the verdict ``duplicates`` to the submissions that take part in the ranking."""
    origins = {
        c.label: Origin(c.submission.created, c.submission.submission_id, c.submission.supersedes)
        for c in results
        if c.submission is not None and c.withdrawn is None and c.prints
    }
    duplicates = find_duplicates({c.label: c.prints for c in results if c.label in origins}, origins)
    every = []
    for checked in results:
        if checked.label in origins:
            outcome, detail = duplicates.get(checked.label, ("pass", "no other submission has these responses"))
            verdict = Verdict(submission=checked.label, check="duplicates", verdict=outcome, detail=detail)
            checked = checked.model_copy(update={"verdicts": (*checked.verdicts, verdict)})
        every.append(checked)
    return every


def _softened(checked: Checked) -> Checked:
    """Turn the failures of a withdrawn submission into warnings: it is history, and must not stop the others."""
    if checked.withdrawn is None:
        return checked
    verdicts = [
        v.model_copy(update={"verdict": "warn", "detail": f"withdrawn; {v.detail}"})
        if v.verdict == "fail" and v.check not in FINAL
        else v
        for v in checked.verdicts
    ]
    return checked.model_copy(update={"verdicts": tuple(verdicts)})


def _stray(name: str) -> Checked:
    detail = "not the folder of a submission (submissions/<model>/<submission id>/)"
    verdict = Verdict(submission=name, check="layout", verdict="fail", detail=detail)
    return Checked(label=name, submission=None, withdrawn=None, verdicts=(verdict,), prints={}, vectors={})


# --- the cache --------------------------------------------------------------------------------------


def cached_executions(board: BoardFolder, folders: Iterable[SubmissionFolder]) -> dict[str, Verdict]:
    """Return the cached results of running programs, of the submissions that have not changed since."""
    with _Cache(board) as cache:
        found = cache.read("executed", {where.label: cache.state(where) for where in folders})
    return {label: Verdict.model_validate_json(data) for label, data in found.items()}


def cache_execution(board: BoardFolder, where: SubmissionFolder, verdict: Verdict) -> None:
    """Cache the result of running a submission's programs."""
    with _Cache(board) as cache:
        cache.write("executed", where.label, cache.state(where), verdict.model_dump_json().encode())


class _Cache:
    """The cache file. If it is damaged it is removed, and everything is checked again."""

    def __init__(self, board: BoardFolder) -> None:
        code = hash_tree(Path(__file__).parent, "*.py")
        self.checks = hash_value([code, board.board.model_dump(mode="json")])
        self.path = board.work / "verified.sqlite"

    def __enter__(self) -> _Cache:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)
            self._open()
        return self

    def _open(self) -> None:
        self.file = sqlite3.connect(self.path, timeout=60)
        for table in ("verified", "executed"):
            self.file.execute(f"CREATE TABLE IF NOT EXISTS {table} (label TEXT PRIMARY KEY, state TEXT, found BLOB)")

    def __exit__(self, *_: object) -> None:
        self.file.commit()
        self.file.close()

    def state(self, where: SubmissionFolder) -> str:
        """Return a hash of what a submission's verdicts depend on: its files' sizes and times, the pins, the checks.

        A folder that cannot be walked gets a random state, so it is checked every time.
        """
        try:
            files = [[path, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for path, s in walk(where.path)]
        except (MoemixError, OSError):
            return os.urandom(16).hex()
        return hash_value([self.checks, files])

    def read(self, table: str, states: Mapping[str, str]) -> dict[str, bytes]:
        """Return label → result of the submissions that are still in the given state."""
        rows: Iterable[tuple[str, str, bytes]] = self.file.execute(f"SELECT label, state, found FROM {table}")
        return {label: data for label, state, data in rows if states.get(label) == state}

    def write(self, table: str, label: str, state: str, data: bytes) -> None:
        """Store the result of a submission."""
        self.file.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", (label, state, data))
