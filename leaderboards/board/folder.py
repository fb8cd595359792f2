"""A board's folder: ``board.yaml`` and ``submissions/<model>/<submission id>/``, plain files that git can hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.errors import MoemixError, nearest, unknown
from harness.files import write_text
from harness.recipe_file import parse
from harness.submissions import Board, PinnedSuite, Submission, Withdrawal
from leaderboards.board.untrusted import read_record, read_yaml

SUBMISSION = "submission.json"
WITHDRAWN = "withdrawn.json"
WORK = ".moemix"  # of this machine: evaluations under way, what was verified; git ignores it

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"
_MEMBER = re.compile(
    rf"{SUBMISSION}|{WITHDRAWN}|run\.json|mixture\.jsonl|metrics\.jsonl|contamination\.json"
    rf"|evals/{_NAME}@[A-Za-z0-9.]{{1,20}}/(results\.json|summary\.json|samples_{_NAME}\.jsonl)"
    rf"|judge/{_NAME}/{_NAME}\.jsonl?"
)


def is_member(path: str) -> bool:
    """Whether a submission may hold a file at this path. Archives, scripts and weights are refused unseen."""
    return _MEMBER.fullmatch(path) is not None


@dataclass(frozen=True)
class SubmissionFolder:
    """Where a submission lies."""

    model: str
    name: str
    path: Path

    @property
    def label(self) -> str:
        return f"{self.model}/{self.name}"

    def read(self) -> Submission:
        return parse(Submission, read_record(self.path / SUBMISSION), where=str(self.path / SUBMISSION))

    def withdrawal(self) -> Withdrawal | None:
        path = self.path / WITHDRAWN
        return parse(Withdrawal, read_record(path), where=str(path)) if os.path.lexists(path) else None


class BoardFolder:
    """A board on disk.

    Raises:
        MoemixError: no ``board.yaml``, or one that pins nothing sensible.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / "board.yaml"
        if not file.is_file():
            raise MoemixError(
                "not a board: there is no board.yaml",
                where=str(path),
                hint="`moemix board init DIR --pin EVALUATION` makes one; so does `moemix submit` where nothing is yet",
            )
        self.board = parse(Board, read_yaml(file), where=str(file))
        keys = [suite.key for suite in self.board.suites]
        if len(set(keys)) < len(keys):
            raise MoemixError("the same version of a suite is pinned twice", where=str(file))

    def save(self, board: Board) -> None:
        """Replace ``board.yaml``."""
        text = yaml.safe_dump(board.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
        write_text(self.path / "board.yaml", text)
        self.board = board

    @classmethod
    def create(cls, path: Path, board: Board) -> BoardFolder:
        """A new board in a folder that holds none."""
        if (path / "board.yaml").exists():
            raise MoemixError("there is a board already", where=str(path))
        text = yaml.safe_dump(board.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
        write_text(path / ".gitignore", f"/{WORK}/\n")
        write_text(path / "board.yaml", text)
        (path / "submissions").mkdir(exist_ok=True)
        return cls(path)

    @property
    def work(self) -> Path:
        return self.path / WORK

    def suite(self, name: str) -> PinnedSuite:
        """A suite version by ``name@version``, or the newest version by name."""
        found = [suite for suite in self.board.suites if name in (suite.key, suite.name)]
        if not found:
            raise unknown("suite", name, [suite.key for suite in self.board.suites], where=str(self.path))
        return found[-1]

    def submissions(self) -> list[SubmissionFolder]:
        """Every folder two levels below ``submissions/``, by name. Links are not followed (:meth:`strays`)."""
        return [
            SubmissionFolder(model.name, entry.name, Path(entry.path))
            for model in _folders(self.path / "submissions")
            for entry in _folders(Path(model.path))
        ]

    def strays(self) -> list[str]:
        """What lies among the submissions without being one."""
        found = []
        for top in _entries(self.path / "submissions"):
            if not top.is_dir(follow_symlinks=False):
                found.append(top.name)
                continue
            found += [f"{top.name}/{e.name}" for e in _entries(Path(top.path)) if not e.is_dir(follow_symlinks=False)]
        return [name for name in found if not name.startswith(".git")]

    def find(self, submission_id: str) -> SubmissionFolder:
        """A submission by its id, or the start of it."""
        found = [s for s in self.submissions() if s.name.startswith(submission_id) or s.label == submission_id]
        if len(found) != 1:
            hint = nearest(submission_id, [s.name for s in self.submissions()][:200])
            what = "no submission" if not found else f"{len(found)} submissions"
            raise MoemixError(f"{what} {submission_id!r}", where=str(self.path), hint=hint)
        return found[0]


def boards_in(path: Path) -> list[BoardFolder]:
    """The board in a folder, or those in the folders below it."""
    if (path / "board.yaml").is_file() or not path.is_dir():
        return [BoardFolder(path)]
    found = [BoardFolder(file.parent) for file in sorted(path.glob("*/board.yaml"))]
    return found or [BoardFolder(path)]


def _entries(path: Path) -> list[os.DirEntry[str]]:
    if not path.is_dir():
        return []
    with os.scandir(path) as found:
        return sorted(found, key=lambda entry: entry.name)


def _folders(path: Path) -> Iterator[os.DirEntry[str]]:
    return (e for e in _entries(path) if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
