"""Say where submissions come from: their order by the repository's history, and their owners by SSH signatures.

A date in a file proves nothing. What counts is the commit that brought a submission into the branch that is checked
out: merges count as one step, so nobody can backdate a submission inside a pull request.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MoemixError
from leaderboards.board.folder import SIGNATURE, SUBMISSION, WITHDRAWN, BoardFolder, SubmissionFolder
from leaderboards.board.submissions import Submission, Withdrawal

NAMESPACE = "moemix-board"  # of signatures: one that was made for another purpose is none here
_GOOD = re.compile(rf'Good "{NAMESPACE}" signature with \S+ key (SHA256:[A-Za-z0-9+/]{{43}})')
# A repository's own configuration must not start programs.
_GIT = ("git", "-c", "core.quotePath=false", "-c", "log.showSignature=false", "-c", "core.fsmonitor=false",
        "-c", "core.hooksPath=/dev/null", "--no-pager")  # fmt: skip


def git(folder: Path, *arguments: str, data: bytes | None = None) -> bytes:
    """Return what git prints in a folder.

    Raises:
        MoemixError: git is not installed, or the command failed.
    """
    command = (*_GIT, "-C", str(folder), *arguments)
    try:
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise MoemixError("git is not installed", where=str(folder)) from None
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="replace").strip().splitlines()
        raise MoemixError(f"git {arguments[0]}: {message[-1] if message else 'failed'}", where=str(folder)) from None


@dataclass(frozen=True)
class History:
    """When submissions came into a board's repository.

    Attributes:
        arrived: label → time of the commit, in the order of arrival.
        problem: why the order is unknown; None if it is known.
    """

    arrived: dict[str, str]
    problem: str | None = None

    def order(self, labels: Sequence[str]) -> dict[str, int]:
        """Return label → position; what is not committed yet comes last, and all such have one position."""
        position = {label: i for i, label in enumerate(self.arrived)}
        return {label: position.get(label, len(position)) for label in labels}


def history(board: BoardFolder) -> History:
    """Read the history of the branch that is checked out."""
    try:
        if git(board.path, "rev-parse", "--is-shallow-repository").strip() == b"true":
            return History({}, "the repository is a shallow clone; fetch its whole history")
        text = git(board.path, "log", "--first-parent", "--diff-merges=first-parent", "--diff-filter=A", "--no-renames",
                   "--no-ext-diff", "--reverse", "--relative", "--name-only", "--format=%x01%cI", "--",
                   "submissions").decode(errors="replace")  # fmt: skip
    except MoemixError as error:
        return History({}, error.message)
    arrived: dict[str, str] = {}
    for commit in text.split("\x01")[1:]:
        date, *paths = commit.split("\n")
        for path in paths:
            parts = path.split("/")
            if len(parts) == 4 and parts[3] == SUBMISSION:
                arrived.setdefault(f"{parts[1]}/{parts[2]}", date)
    return History(arrived)


# --- owners ------------------------------------------------------------------------------------------


def sign(file: Path, key: Path) -> None:
    """Sign a file with an SSH key, as git signs commits; the signature lies beside it."""
    Path(f"{file}{SIGNATURE}").unlink(missing_ok=True)
    _ssh_keygen("-Y", "sign", "-n", NAMESPACE, "-f", str(key), str(file))


def fingerprint(key: Path) -> str:
    """Return the fingerprint of an SSH key, by its public or private file."""
    return _ssh_keygen("-l", "-E", "sha256", "-f", str(key)).split()[1]


def signer(file: Path) -> str:
    """Return the fingerprint of the key that signed a file.

    Raises:
        MoemixError: there is no signature, or it is not one of this file.
    """
    signature = Path(f"{file}{SIGNATURE}")
    if not signature.is_file():
        raise MoemixError("the signature is missing", where=signature.name)
    printed = _ssh_keygen("-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature), data=file.read_bytes())
    found = _GOOD.search(printed)
    if found is None:
        raise MoemixError("not a signature of this file", where=signature.name)
    return found[1]


def _ssh_keygen(*arguments: str, data: bytes | None = None) -> str:
    try:
        done = subprocess.run(("ssh-keygen", *arguments), input=data, capture_output=True, check=False, timeout=60)
    except FileNotFoundError:
        raise MoemixError("ssh-keygen is not installed", hint="it is part of OpenSSH") from None
    if done.returncode:
        message = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise MoemixError(f"ssh-keygen: {message[-1] if message else 'failed'}", where=Path(arguments[-1]).name)
    return done.stdout.decode(errors="replace")


def owner_fault(board: BoardFolder, where: SubmissionFolder, submission: Submission) -> str | None:
    """Return why a submission has not the owner that the board's rule demands, or None."""
    rule = board.board.rules.owners
    if rule == "anyone":
        return None
    if submission.owner is None:
        return f"no owner is stated, and the board's rule is {rule!r}"
    if submission.owner.startswith("SHA256:") != (rule == "ssh"):
        return f"the owner must be {'the fingerprint of an SSH key' if rule == 'ssh' else 'a login'}"
    if rule == "ssh":
        signed_by = signer(where.path / SUBMISSION)
        if signed_by != submission.owner:
            return f"{SUBMISSION} is signed by {signed_by}, and states the owner {submission.owner}"
    return None


def withdrawal_fault(board: BoardFolder, where: SubmissionFolder, owner: str | None, found: Withdrawal) -> str | None:
    """Return why a withdrawal does not count, or None: only the owner and maintainers may withdraw a submission."""
    rules = board.board.rules
    if found.submission_id != where.name:
        return f"{WITHDRAWN} is about the submission {found.submission_id}"
    if rules.owners == "anyone":
        return None
    by = signer(where.path / WITHDRAWN) if rules.owners == "ssh" else found.by
    return None if by is not None and by in (owner, *rules.maintainers) else f"{by or 'nobody'} is not its owner"


def supersedes_fault(later: Submission, earlier: Submission | None) -> str | None:
    """Return why a submission may not replace the one that it names, or None."""
    if earlier is None:
        return f"there is no submission {later.supersedes} to supersede"
    if (earlier.model, earlier.owner) != (later.model, later.owner):
        return f"{later.supersedes} is of another model or another owner, and only its owner may supersede it"
    return None
