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
from harness.schema import parse
from leaderboards.board.submissions import RESERVED, Board, PinnedSuite, ReplayRecord, Submission, Withdrawal
from leaderboards.board.untrusted import read_record, read_yaml

SUBMISSION = "submission.json"
WITHDRAWN = "withdrawn.json"
SIGNATURE = ".sig"
OUTSIDE = (SUBMISSION, SUBMISSION + SIGNATURE, WITHDRAWN, WITHDRAWN + SIGNATURE)  # not listed in `submission.json`
WORK = ".moemix"  # unfinished evaluations and the verification cache of this machine; git ignores it
ATTRIBUTES = "# Git must not change line ends: every file's hash is in its submission.\n* -text\n"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"
_MEMBER = re.compile(
    rf"({SUBMISSION}|{WITHDRAWN})(\.sig)?|run\.json|mixture\.jsonl|metrics\.jsonl|contamination\.json"
    rf"|evals/{_NAME}@[A-Za-z0-9.]{{1,20}}/(results\.json|summary\.json|samples_{_NAME}\.jsonl)"
    rf"|judge/{_NAME}/{_NAME}\.jsonl?"
)


def is_member(path: str) -> bool:
    """Return whether a submission may hold a file at this relative path; archives, scripts and weights may not."""
    parts = path.split("/")
    return _MEMBER.fullmatch(path) is not None and not any(RESERVED.fullmatch(p) or p.endswith(".") for p in parts)


def is_name(text: str) -> bool:
    """Return whether a text may be the name of a folder: letters, digits and ``._+-``."""
    return re.fullmatch(_NAME, text) is not None


@dataclass(frozen=True)
class SubmissionFolder:
    """The folder of one submission."""

    model: str
    name: str
    path: Path

    @property
    def label(self) -> str:
        """``<model>/<submission id>``."""
        return f"{self.model}/{self.name}"

    def read(self) -> Submission:
        """Read ``submission.json``."""
        return parse(Submission, read_record(self.path / SUBMISSION), where=str(self.path / SUBMISSION))

    def withdrawal(self) -> Withdrawal | None:
        """Read ``withdrawn.json``, if there is one."""
        path = self.path / WITHDRAWN
        return parse(Withdrawal, read_record(path), where=str(path)) if os.path.lexists(path) else None


class BoardFolder:
    """A board on disk.

    Raises:
        MoemixError: there is no ``board.yaml``, or it is not valid.
    """

    def __init__(self, path: Path, work: Path | None = None) -> None:
        self.path = path
        self.work = work or path / WORK  # files of this machine
        file = path / "board.yaml"
        if not file.is_file():
            raise MoemixError(
                "not a board: there is no board.yaml", where=str(path),
                hint="make a board with `moemix board init DIR --pin EVALUATION`, or submit to a folder that does not"
                " exist yet",
            )  # fmt: skip
        for name in ("submissions", "replays", WORK):
            if (path / name).is_symlink():
                raise MoemixError("a board's folders must not be links", where=str(path / name))
        self.board = parse(Board, read_yaml(file), where=str(file))
        keys = [suite.key for suite in self.board.suites]
        if len(set(keys)) < len(keys):
            raise MoemixError("the same version of a suite is pinned twice", where=str(file))

    @classmethod
    def create(cls, path: Path, board: Board) -> BoardFolder:
        """Create a board in a folder that holds none yet."""
        if (path / "board.yaml").exists():
            raise MoemixError("the folder already holds a board", where=str(path))
        write_text(path / ".gitignore", f"/{WORK}/\n")
        write_text(path / ".gitattributes", ATTRIBUTES)
        _write_board(path, board)
        (path / "submissions").mkdir(exist_ok=True)
        return cls(path)

    def add_suite(self, suite: PinnedSuite) -> None:
        """Add a suite version. A pinned version never changes, because submissions were ranked by it.

        Raises:
            MoemixError: the board already pins this version.
        """
        if suite.key in [pinned.key for pinned in self.board.suites]:
            raise MoemixError(f"the board already pins {suite.key}", where=str(self.path),
                              hint="choose another --version")  # fmt: skip
        self.update(suites=(*self.board.suites, suite))

    def update(self, **changes: object) -> None:
        """Change fields of ``board.yaml``."""
        self.board = self.board.model_copy(update=changes)
        _write_board(self.path, self.board)

    @property
    def name(self) -> str:
        """The name of the board's folder, used in a site of several boards."""
        return self.path.resolve().name

    def suite(self, name: str) -> PinnedSuite:
        """Return a suite version by ``name@version``, or the newest version by ``name``."""
        matches = [suite for suite in self.board.suites if name in (suite.key, suite.name)]
        if not matches:
            raise unknown("suite", name, [suite.key for suite in self.board.suites], where=str(self.path))
        return matches[-1]

    def submissions(self) -> list[SubmissionFolder]:
        """Return every folder two levels below ``submissions/``, by name. Links are not followed (:meth:`strays`)."""
        return [
            SubmissionFolder(model.name, entry.name, Path(entry.path))
            for model in _folders(self.path / "submissions")
            for entry in _folders(Path(model.path))
        ]

    def strays(self) -> list[str]:
        """Return what lies below ``submissions/`` and is not a submission's folder, hidden files included."""
        names = []
        for top in _entries(self.path / "submissions"):
            if not _is_folder(top):
                names.append(top.name)
                continue
            names += [f"{top.name}/{e.name}" for e in _entries(Path(top.path)) if not _is_folder(e)]
        return [name for name in names if name != ".gitkeep"]

    def replay_path(self, submission_id: str) -> Path:
        """Return the file of what a maintainer found when the submission's checkpoint answered again."""
        return self.path / "replays" / f"{submission_id}.json"

    def replayed(self, submission_id: str) -> ReplayRecord | None:
        """Read :meth:`replay_path`, if there is one."""
        path = self.replay_path(submission_id)
        return parse(ReplayRecord, read_record(path), where=str(path)) if os.path.lexists(path) else None

    def find(self, submission_id: str) -> SubmissionFolder:
        """Return the submission whose id starts with ``submission_id``.

        Raises:
            MoemixError: no submission, or more than one.
        """
        every = self.submissions()
        matches = [s for s in every if s.name.startswith(submission_id) or s.label == submission_id]
        if len(matches) != 1:
            problem = f"{len(matches)} submissions start with" if matches else "no submission"
            hint = nearest(submission_id, [s.name for s in every][:200])
            raise MoemixError(f"{problem} {submission_id!r}", where=str(self.path), hint=hint)
        return matches[0]


def boards_in(path: Path) -> list[BoardFolder]:
    """Return the board in a folder, or the boards in the folders directly below it."""
    if (path / "board.yaml").is_file() or not path.is_dir():
        return [BoardFolder(path)]
    return [BoardFolder(file.parent) for file in sorted(path.glob("*/board.yaml"))] or [BoardFolder(path)]


def _write_board(path: Path, board: Board) -> None:
    text = yaml.safe_dump(board.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
    write_text(path / "board.yaml", text)


def _entries(path: Path) -> list[os.DirEntry[str]]:
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _folders(path: Path) -> Iterator[os.DirEntry[str]]:
    return filter(_is_folder, _entries(path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
