"""Review a pull request: it adds one submission, or its owner withdraws one; the base branch's pins decide.

Nothing of the pull request is checked out or run, besides its submission's programs in the sandbox. Its files are read
as git's objects, and only those of one submission are laid into a copy of the base branch.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MoemixError
from harness.grid import Grid, markdown_table, markdown_text
from leaderboards.board.checks import summarise
from leaderboards.board.folder import SIGNATURE, SUBMISSION, WITHDRAWN, BoardFolder, SubmissionFolder, is_member
from leaderboards.board.origins import git, history, withdrawal_fault
from leaderboards.board.submissions import ID, NAME, Outcome, Verdict
from leaderboards.board.verify import verify

WITHDRAWALS = {WITHDRAWN, WITHDRAWN + SIGNATURE}
_PLACE = re.compile(rf"submissions/({NAME[1:-1]})/({ID[1:-1]})/(.+)")


@dataclass(frozen=True)
class _Change:
    """A file that a pull request changes: git's mode, object and status, and its path in the board."""

    mode: str
    blob: str
    status: str
    path: str


def review(board: BoardFolder, base: str, head: str, author: str | None) -> list[Verdict]:
    """Return the verdicts on what the commit ``head`` would bring to the branch ``base`` of the board's git.

    ``author`` is the login of who opened the pull request; it is needed if the board's owners are logins.

    Raises:
        MoemixError: git refuses, or one of the commits does not exist.
    """
    with _copy(board, base) as copy:
        changes = list(_changes(board.path, base, head))
        places = {match.group(1, 2) for change in changes if (match := _PLACE.fullmatch(change.path))}
        fault = _not_one_folder(changes, places, copy)
        if fault is not None:
            trusted = author is not None and author in copy.board.rules.maintainers
            return [_verdict("the pull request", "skip" if trusted else "fail", fault)]
        ((model, name),) = places
        where = SubmissionFolder(model, name, copy.path / "submissions" / model / name)
        if fault := _lay(copy, where, changes, board.path):
            return [_verdict(where.label, "fail", fault)]
        if (where.path / WITHDRAWN).is_file() and all(change.path.endswith((*WITHDRAWALS,)) for change in changes):
            return [_withdrawal(copy, where, author)]
        return _submission(copy, where, author)


def _verdict(label: str, outcome: Outcome, detail: str) -> Verdict:
    return Verdict(submission=label, check="pull request", verdict=outcome, detail=detail)


@contextmanager
def _copy(board: BoardFolder, base: str) -> Iterator[BoardFolder]:
    """Yield the board as the base branch has it, in a folder of its own that keeps this machine's cache."""
    prefix = git(board.path, "rev-parse", "--show-prefix").decode().strip()
    commit = git(board.path, "rev-parse", "--verify", "--end-of-options", f"{base}^{{commit}}").decode().strip()
    with tempfile.TemporaryDirectory(prefix="moemix-review-") as scratch:
        tree = Path(scratch) / "base"
        git(board.path, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            yield BoardFolder(tree / prefix, board.work)
        finally:
            git(board.path, "worktree", "remove", "--force", str(tree))


def _changes(folder: Path, base: str, head: str) -> Iterator[_Change]:
    """Yield every file that differs between the point where the pull request began and its last commit."""
    commits = [git(folder, "rev-parse", "--verify", "--end-of-options", f"{c}^{{commit}}").decode().strip()
               for c in (base, head)]  # fmt: skip
    start = git(folder, "merge-base", *commits).decode().strip()
    prefix = git(folder, "rev-parse", "--show-prefix").decode().strip()
    options = ("-r", "-z", "--raw", "--no-renames", "--no-abbrev", "--no-ext-diff")
    raw = git(folder, "diff-tree", *options, start, commits[1])
    fields = raw.decode("utf-8", "backslashreplace").split("\0")
    for meta, path in zip(fields[0::2], fields[1::2], strict=False):
        _, mode, _, blob, status = meta.lstrip(":").split(" ")
        yield _Change(mode, blob, status, path.removeprefix(prefix) if path.startswith(prefix) else f"/{path}")


def _not_one_folder(changes: list[_Change], places: set[tuple[str, ...]], base: BoardFolder) -> str | None:
    """Return what else a pull request does than to add a submission, or to withdraw one."""
    others = [change.path[:120] for change in changes if not _PLACE.fullmatch(change.path)]
    if others:
        return f"it may only add files of one submission, and changes {summarise(others)}"
    if len(places) != 1:
        return f"it must add one submission, and adds {len(places)}"
    kept = [change.path[:120] for change in changes if change.status != "A"]
    if kept:
        return f"it changes or removes files that are there: {summarise(kept)}"
    odd = [change.path[:120] for change in changes if change.mode != "100644"]
    if odd:
        return f"links, programs and modules are not files of a submission: {summarise(odd)}"
    ((model, name),) = places
    own = {change.path.split("/", 3)[3] for change in changes}
    if unknown := sorted(path[:120] for path in own if not is_member(path)):
        return f"{summarise(unknown)}: not a file of a submission"
    there = (base.path / "submissions" / model / name).exists()
    if there and not own <= WITHDRAWALS:
        return f"{model}/{name} is there already, and it adds {summarise(sorted(own - WITHDRAWALS))}"
    if not there and SUBMISSION not in own:
        return f"{model}/{name} has no {SUBMISSION}"
    if not there and own & WITHDRAWALS:
        return f"{model}/{name} is new, and withdrawn already"
    return None


def _lay(copy: BoardFolder, where: SubmissionFolder, changes: list[_Change], repository: Path) -> str | None:
    """Write the files of a submission into the copy of the base branch; return why not, if they are too large."""
    request = "".join(f"{change.blob}\n" for change in changes).encode()
    listed = git(repository, "cat-file", "--batch-check=%(objectsize)", data=request).split()
    total, limit = sum(map(int, listed)), copy.board.rules.max_bytes
    if total > limit:
        return f"the files have {total:,} bytes in total; the limit is {limit:,}"
    for change in changes:
        path = where.path / change.path.split("/", 3)[3]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(git(repository, "cat-file", "blob", change.blob))
    return None


def _withdrawal(copy: BoardFolder, where: SubmissionFolder, author: str | None) -> Verdict:
    try:
        submission, found = where.read(), where.withdrawal()
        assert found is not None
        fault = withdrawal_fault(copy, where, submission.owner, found)
        if copy.board.rules.owners == "login" and found.by != author:
            fault = f"it is opened by {author}, and the withdrawal is by {found.by}"
    except MoemixError as error:
        fault = error.message
    return _verdict(where.label, "fail" if fault else "pass", fault or "its owner withdraws it")


def _submission(copy: BoardFolder, where: SubmissionFolder, author: str | None) -> list[Verdict]:
    (checked,) = verify(copy, only=where.label, executing=True, order=history(copy))
    verdicts = list(checked.verdicts)
    for i, verdict in enumerate(verdicts):
        if verdict.check == "replay" and verdict.verdict == "fail":  # it cannot have been replayed yet
            detail = "a maintainer must replay it before it is shown"
            verdicts[i] = verdict.model_copy(update={"verdict": "skip", "detail": detail})
    faults = []
    if checked.submission is not None:
        if copy.board.rules.owners == "login" and checked.submission.owner != author:
            faults.append(f"it is opened by {author}, and its owner is {checked.submission.owner}")
        if checked.submission.identity != "everything":
            faults.append("its id does not cover all that it states; submit it with a newer moemix")
    outcome: Outcome = "fail" if faults else "pass"
    return [_verdict(where.label, outcome, summarise(faults) or "adds one submission and nothing else"), *verdicts]


MARKS: Mapping[Outcome, str] = {"pass": "✅ pass", "warn": "⚠️ warn", "fail": "❌ fail", "skip": "➖ skip"}


def as_comment(verdicts: list[Verdict]) -> str:
    """Return the verdicts as a Markdown table, for a comment on the pull request."""
    failed = sum(verdict.verdict == "fail" for verdict in verdicts)
    heading = f"{failed} checks fail" if failed else "Every check passes"
    rows = [[verdict.check, MARKS[verdict.verdict], verdict.detail] for verdict in verdicts]
    table = markdown_table(Grid(["check", "verdict", "detail"], rows)).replace("@", "@<!-- -->")  # which calls nobody
    return f"**{heading}**: {markdown_text(verdicts[0].submission)}\n\n{table}\n"
