"""Verifying a board: every submission by itself, in several processes, then against each other; once per content.

What was verified is kept in ``.moemix/verified.sqlite`` beside the board, on this machine only, and is used again while
no file of a submission (by size and times), no pin and no line of these checks has changed.
"""

from __future__ import annotations

import base64
import functools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from harness.errors import MoemixError
from harness.files import hash_tree, hash_value
from harness.progress import progress
from harness.statistics.columns import Key
from harness.strict import Strict
from harness.submissions import Submission, Verdict, Withdrawal
from leaderboards.board.checks import check_alone
from leaderboards.board.folder import BoardFolder, SubmissionFolder
from leaderboards.board.integrity import Fact, check_integrity, find_duplicates, fingerprints
from leaderboards.board.samples import TaskSamples
from leaderboards.board.untrusted import walk

FEW = 32  # submissions that one process checks as quickly as several
FINAL = ("layout", "schema")  # what not even a withdrawn submission may fail


class Vector(Strict):
    """Scores of one result, packed: a bit a question where all are 0 or 1, else eight bytes."""

    task: str
    metric: str
    filter: str
    n: int
    bits: str = ""
    floats: str = ""

    @classmethod
    def pack(cls, key: Key, values: NDArray[np.float64]) -> Vector:
        fields: dict[str, Any] = {"task": key.task, "metric": key.metric, "filter": key.filter, "n": len(values)}
        if np.isin(values, (0.0, 1.0)).all():
            return cls(**fields, bits=base64.b64encode(np.packbits(values.astype(bool)).tobytes()).decode())
        return cls(**fields, floats=base64.b64encode(values.astype("<f8").tobytes()).decode())

    @property
    def key(self) -> Key:
        return Key(self.task, self.metric, self.filter)

    @property
    def values(self) -> NDArray[np.float64]:
        if self.floats:
            return np.frombuffer(base64.b64decode(self.floats), dtype="<f8").astype(np.float64)
        packed = np.frombuffer(base64.b64decode(self.bits), dtype=np.uint8)
        return np.unpackbits(packed, count=self.n).astype(np.float64)


class Checked(Strict):
    """What is known of a submission after its own checks: enough to rank and show it without its samples."""

    label: str
    submission: Submission | None
    withdrawn: Withdrawal | None
    verdicts: tuple[Verdict, ...]
    prints: dict[str, str]
    vectors: dict[str, tuple[Vector, ...]]
    engines: dict[str, str] = Field(default_factory=dict, description="suite → what answered")
    repeats: dict[str, dict[str, tuple[int, ...]]] = Field(
        default_factory=dict, description="suite → task → cluster of each question, where some share a passage"
    )

    @property
    def failed(self) -> bool:
        return any(verdict.verdict == "fail" for verdict in self.verdicts)


def verify(board: BoardFolder, *, only: str | None = None, jobs: int | None = None) -> list[Checked]:
    """Check every submission of a board, or the one that is named. Duplicates are looked for in all of them.

    Args:
        jobs: processes; by default one per core where there are many submissions.
    """
    folders = board.submissions()
    chosen = board.find(only).label if only else None
    found = _with_duplicates(_check_all(board, folders, jobs or os.cpu_count() or 1))
    found += [_stray(name) for name in board.strays()]
    return [_softened(checked) for checked in found if chosen is None or checked.label == chosen]


def check_one(board: BoardFolder, where: SubmissionFolder) -> Checked:
    """The checks of one submission by itself."""
    found = check_alone(board, where)
    check_integrity(found)
    vectors = {
        suite: tuple(Vector.pack(key, values) for key, values in held.items()) for suite, held in found.vectors.items()
    }
    return Checked(
        label=where.label,
        submission=found.submission,
        withdrawn=found.withdrawn,
        verdicts=tuple(found.verdicts),
        prints=fingerprints(found) if not found.failed else {},
        vectors=vectors,
        engines={suite: _engine(summary.engine) for suite, summary in found.summaries.items()},
        repeats={suite: _repeats(tasks) for suite, tasks in found.tasks.items()},
    )


def _engine(engine: Mapping[str, Any]) -> str:
    return " ".join(str(engine[key]) for key in ("name", "version", "dtype") if engine.get(key))[:120]


def _repeats(tasks: Mapping[str, TaskSamples]) -> dict[str, tuple[int, ...]]:
    found = {}
    for task, samples in tasks.items():
        groups = [samples.groups[number] for number in samples.numbers]
        if len(set(groups)) < len(groups):
            found[task] = tuple(int(i) for i in np.unique(np.array(groups, dtype=object), return_inverse=True)[1])
    return found


def _check_all(board: BoardFolder, folders: list[SubmissionFolder], jobs: int) -> list[Checked]:
    """Those in the cache, and the others checked now, in the order of the folders."""
    with _Cache(board) as cache:
        keys = {where.label: _state(where, cache.checks) for where in folders}
        found = cache.find(keys)
        missing = [where for where in folders if where.label not in found]
        with progress("verifying submissions", len(folders), done=len(folders) - len(missing)) as bar:
            for checked in _checked(board, missing, jobs):
                found[checked.label] = checked
                cache.put(keys[checked.label], checked)
                bar.advance()
        return [found[where.label] for where in folders]


def _checked(board: BoardFolder, folders: list[SubmissionFolder], jobs: int) -> Iterator[Checked]:
    if jobs == 1 or len(folders) <= FEW:
        yield from (check_one(board, where) for where in folders)
        return
    with ProcessPoolExecutor(jobs, initializer=_open_board, initargs=(board.path,)) as pool:
        yield from pool.map(_check_there, folders, chunksize=8)


_board: BoardFolder | None = None  # of a worker process


def _open_board(path: Path) -> None:
    global _board
    _board = BoardFolder(path)


def _check_there(where: SubmissionFolder) -> Checked:
    assert _board is not None
    return check_one(_board, where)


def _with_duplicates(found: list[Checked]) -> list[Checked]:
    live = [c for c in found if c.submission is not None and c.withdrawn is None and c.prints]
    facts = {c.label: Fact(c.submission.created, c.submission.submission_id, c.submission.supersedes)
             for c in live if c.submission}  # fmt: skip
    said = find_duplicates({c.label: c.prints for c in live}, facts)
    judged = []
    for checked in found:
        if checked.label in facts:
            outcome, detail = said.get(checked.label, ("pass", "no other submission has these responses or scores"))
            verdict = Verdict.model_validate(
                {"submission": checked.label, "check": "duplicates", "verdict": outcome, "detail": detail}
            )
            checked = checked.model_copy(update={"verdicts": (*checked.verdicts, verdict)})
        judged.append(checked)
    return judged


def _softened(checked: Checked) -> Checked:
    """A withdrawn submission is history: what is wrong with it is told, and stops nobody."""
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
    detail = "no folder of a submission (submissions/<model>/<submission id>/)"
    verdict = Verdict(submission=name, check="layout", verdict="fail", detail=detail)
    return Checked(label=name, submission=None, withdrawn=None, verdicts=(verdict,), prints={}, vectors={})


# --- what was verified before -----------------------------------------------------------------------


@functools.cache
def _code() -> str:
    return hash_tree(Path(__file__).parent, "*.py")


def executed_before(board: BoardFolder, folders: Iterable[SubmissionFolder]) -> dict[str, Verdict]:
    """What came of running the programs of these submissions, of those that have not changed since."""
    with _Cache(board) as cache:
        found = {where.label: cache.executed(where.label, _state(where, cache.checks)) for where in folders}
    return {label: verdict for label, verdict in found.items() if verdict is not None}


def remember_executed(board: BoardFolder, where: SubmissionFolder, verdict: Verdict) -> None:
    """Keep what came of running a submission's programs."""
    with _Cache(board) as cache:
        cache.keep_executed(where.label, _state(where, cache.checks), verdict)


def _state(where: SubmissionFolder, checks: str) -> str:
    """What a submission's verdicts depend on: its files as the file system tells them, the pins, the checks.

    A folder that may not be walked has a state of its own, never met again, so it is looked at every time.
    """
    try:
        files = [[path, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns] for path, entry in walk(where.path)]
    except (MoemixError, OSError):
        return os.urandom(16).hex()
    return hash_value([checks, files])


class _Cache:
    """``.moemix/verified.sqlite``; without it everything is checked anew, so a damaged one is only removed."""

    _adapter = TypeAdapter(Checked)

    def __init__(self, board: BoardFolder) -> None:
        self.checks = hash_value([_code(), board.board.model_dump(mode="json")])
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

    def find(self, states: Mapping[str, str]) -> dict[str, Checked]:
        rows: Iterable[tuple[str, str, bytes]] = self.file.execute("SELECT label, state, found FROM verified")
        return {label: self._adapter.validate_json(found) for label, state, found in rows if states.get(label) == state}

    def put(self, state: str, checked: Checked) -> None:
        data = self._adapter.dump_json(checked)
        self.file.execute("INSERT OR REPLACE INTO verified VALUES (?, ?, ?)", (checked.label, state, data))

    def executed(self, label: str, state: str) -> Verdict | None:
        row = self.file.execute("SELECT found FROM executed WHERE label = ? AND state = ?", (label, state)).fetchone()
        return Verdict.model_validate_json(row[0]) if row else None

    def keep_executed(self, label: str, state: str, verdict: Verdict) -> None:
        row = (label, state, verdict.model_dump_json())
        self.file.execute("INSERT OR REPLACE INTO executed VALUES (?, ?, ?)", row)
