"""Verify a board: check each submission by itself, in several processes, then compare submissions with each other.

The same verdicts decide what ``moemix board verify`` prints and what ``moemix board build`` shows.
"""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from harness.errors import MoemixError
from harness.progress import progress
from leaderboards.board.checked import Cache, Checked, Vector, files_of, state_of
from leaderboards.board.checks import check_alone
from leaderboards.board.execution import execute
from leaderboards.board.folder import BoardFolder, SubmissionFolder
from leaderboards.board.integrity import check_integrity, fingerprints, marks
from leaderboards.board.origins import History, history
from leaderboards.board.relations import check_relations
from leaderboards.board.samples import TaskSamples
from leaderboards.board.submissions import FileEntry

FEW = 32  # one process checks so many submissions as quickly as several do
FINAL = ("layout", "schema", "owner")  # checks that a withdrawn submission must pass, too


def verify(
    board: BoardFolder,
    *,
    only: str | None = None,
    jobs: int | None = None,
    executing: bool = False,
    order: History | None = None,
) -> list[Checked]:
    """Check every submission of a board, or only one; copies are searched in all of them.

    ``jobs`` is the number of processes, by default one for each core if there are many submissions. If ``executing``,
    programs among the responses are run again. ``order`` says when submissions came; by default the repository does.
    """
    folders = board.submissions()
    chosen = board.find(only).label if only else None
    order = order or history(board)
    results = _check_all(board, folders, jobs or os.cpu_count() or 1)
    results = [one.model_copy(update={"arrived": order.arrived.get(one.label, "")}) for one in results]
    results = check_relations(results, order)
    results += [_stray(name) for name in board.strays()]
    results = [one for one in results if chosen is None or one.label == chosen]
    if executing:
        results = execute(board, results)
    return [_softened(_required(board, _replayed(board, checked))) for checked in results]


def check_one(board: BoardFolder, where: SubmissionFolder, files: Mapping[str, FileEntry] | None = None) -> Checked:
    """Check one submission by itself. ``files`` are its :func:`files_of`, if they were read already."""
    findings = check_alone(board, where, files_of(where) if files is None else files)
    check_integrity(findings, board.board.rules)
    engines = {suite: summary.engine for suite, summary in findings.summaries.items()}
    return Checked(
        label=where.label,
        submission=findings.submission,
        withdrawn=findings.withdrawn,
        verdicts=tuple(findings.verdicts),
        prints=fingerprints(findings) if not findings.failed else {},
        marks={suite: base64.b64encode(found.tobytes()).decode() for suite, found in marks(findings).items()},
        vectors={
            suite: tuple(Vector.pack(key, values) for key, values in vectors.items())
            for suite, vectors in findings.vectors.items()
        },
        as_recorded=tuple((suite, key.task, key.metric, key.filter) for suite, key in findings.as_recorded),
        judged=findings.judged,
        engines={
            suite: " ".join(str(engine[key]) for key in ("name", "version", "dtype") if engine.get(key))[:120]
            for suite, engine in engines.items()
        },
        repeats={suite: _clusters(tasks) for suite, tasks in findings.tasks.items()},
    )


def _clusters(tasks: Mapping[str, TaskSamples]) -> dict[str, tuple[int, ...]]:
    """Return the cluster of each question, of the tasks in which some questions share one."""
    found = {task: samples.clusters for task, samples in tasks.items()}
    return {task: tuple(held.tolist()) for task, held in found.items() if held.max(initial=-1) < len(held) - 1}


def _check_all(board: BoardFolder, folders: Sequence[SubmissionFolder], jobs: int) -> list[Checked]:
    """Return the cached results, and check the other submissions now, in the order of the folders."""
    named = {where.label: where for where in folders}
    with Cache(board) as cache:
        states = {label: state_of(where) for label, where in named.items()}
        changed = [named[label] for label in cache.changed(states)]
        with _mapping(jobs if len(changed) > FEW else 1) as each:
            files = dict(zip([where.label for where in changed], each(files_of, changed), strict=True))
            for label, held in files.items():
                cache.remember(label, states[label], held)
            keys = {label: cache.key(label) for label in named}
            known = cache.read(keys.values())
            results = {label: Checked.model_validate_json(known[key]) for label, key in keys.items() if key in known}
            missing = [where for where in folders if where.label not in results]
            with progress("verifying submissions", len(folders), done=len(folders) - len(missing)) as bar:
                given = [files.get(where.label) for where in missing]
                verdicts = each(functools.partial(_encoded, board), missing, given)
                for where, encoded in zip(missing, verdicts, strict=True):
                    results[where.label] = Checked.model_validate_json(encoded)
                    cache.write(keys[where.label], encoded)
                    bar.advance()
        return [results[where.label] for where in folders]


def _encoded(board: BoardFolder, where: SubmissionFolder, files: Mapping[str, FileEntry] | None) -> bytes:
    return check_one(board, where, files).model_dump_json().encode()


@contextmanager
def _mapping(jobs: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a function like ``map`` that works in several processes."""
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield functools.partial(pool.map, chunksize=FEW)


def _replayed(board: BoardFolder, checked: Checked) -> Checked:
    """Add the verdict of a maintainer's replay, if there was one."""
    if checked.submission is None:
        return checked
    try:
        record = board.replayed(checked.submission.submission_id)
    except MoemixError as error:
        return checked.with_verdict("replay", "skip", str(error))
    if record is None or record.submission_id != checked.submission.submission_id:
        return checked
    detail = f"{record.date[:10]}, {record.engine} {record.dtype}: {record.detail}"
    return checked.with_verdict("replay", record.verdict, detail)


def _required(board: BoardFolder, checked: Checked) -> Checked:
    """Let a submission fail that lacks a check which the board requires."""
    if checked.submission is None or checked.failed or checked.withdrawn:
        return checked
    for check in (name for name in board.board.rules.require if name != "qualified"):  # a rule for pins
        missing = checked.as_recorded if check == "execution" else checked.outcome("replay") != "pass"
        if missing:
            reason = "no replay is recorded" if check == "replay" else "programs were not run again"
            checked = checked.with_verdict(check, "fail", f"the board requires {check}, and {reason}")
    return checked


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
    nothing = Checked(label=name, submission=None, withdrawn=None, verdicts=(), prints={}, vectors={})
    detail = "not the folder of a submission (submissions/<model>/<submission id>/)"
    return nothing.with_verdict("layout", "fail", detail)
