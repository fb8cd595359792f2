"""Records of a leaderboard: what a board pins, what a submission says of itself, what a check found, what is shown.

A board is a folder of plain files. What it pins is written by its owner, a submission by anybody: every text of a
submission is bounded here, and none of its numbers is believed (``leaderboards/board`` recomputes them).
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from harness.files import hash_value
from harness.records import Column, Provenance, Record
from harness.strict import Strict

NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$"
SHA256 = r"^[0-9a-f]{64}$"
UNSTATED = "not stated"


def _printable(text: str) -> str:
    """Line breaks apart, no control, formatting or direction-changing character, nor half of one."""
    odd = next((c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn")), None)
    if odd is not None:
        raise ValueError(f"the character U+{ord(odd):04X} is not allowed in a text")
    return text


def _web_address(text: str) -> str:
    if not text.lower().startswith(("https://", "http://")):
        raise ValueError("an address starts with https:// or http://")
    return _printable(text)


Name = Annotated[str, Field(pattern=NAME)]
Digest = Annotated[str, Field(pattern=SHA256)]
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, Field(max_length=4000), AfterValidator(_printable)]
Address = Annotated[str, Field(max_length=500), AfterValidator(_web_address)]


# --- the board --------------------------------------------------------------------------------------


class Scorer(Strict):
    """How lm-eval scored a task, as far as it can be done again from the samples alone."""

    output_type: str = Field(description="multiple_choice, generate_until, loglikelihood, …")
    target_delimiter: str = Field("", description="what stands before each choice in a request")
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict, description="metric → its arguments")
    filters: dict[str, tuple[dict[str, Any], ...]] = Field(default_factory=dict, description="filter → its steps")
    recomputed: tuple[str, ...] = Field((), description="`metric,filter` that the pinned evaluation's samples confirm")


class PinnedTask(Strict):
    """A task of a pinned suite: the very questions, and how they are scored."""

    version: str
    shots: int
    questions: int = Field(ge=1)
    question_hash: Digest = Field(description="over number, document and target of every question, in order")
    prompt_hash: str | None = Field(description="null where a chat template makes every model's prompts its own")
    scorer: Scorer
    dataset: str = Field("", description="where the questions are from: a hub data set, or a file format")
    split: str | None = None


class PinnedSuite(Strict):
    """A version of a suite: what must be answered, and what is computed from the answers."""

    name: Name
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.]{0,19}$")] = "1"
    suite: str = Field(description="what `moemix eval --suite` is told: a name, or a file relative to the board")
    suite_hash: Digest
    only: tuple[str, ...] = Field((), description="a selection of the suite's tasks; empty for all")
    limit: int | None = Field(None, description="questions per task; null for all")
    seed: int = 0
    main: str = Field(description="the column that submissions are ranked by at first")
    columns: dict[Name, Column] = Field(description="definitions; values are those of the pinned evaluation")
    higher_is_better: bool = True
    tasks: dict[Name, PinnedTask]
    moemix: str = Field("", description="the version of this package that the suite was pinned with")

    @property
    def key(self) -> str:
        """``name@version``: the suite's name on the board and in submissions."""
        return f"{self.name}@{self.version}"


class Board(Record):
    """``board.yaml``: what a board is about, and the suite versions it ranks by, newest last."""

    name: Name
    title: Line
    description: Text = ""
    suites: tuple[PinnedSuite, ...] = ()


# --- submissions ------------------------------------------------------------------------------------


class FileEntry(Strict):
    """A file of a submission."""

    bytes: int = Field(ge=0)
    sha256: Digest


class Submission(Record):
    """``submission.json``: what a submission says of itself, and the hash of every file beside it."""

    submission_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    model: Name
    description: Text = ""
    strategy: Line | None = Field(None, description="the mixing strategy; null for a checkpoint trained elsewhere")
    seed: int | None = None
    base_model: Line | None = Field(None, description="what training started from")
    recipe: Line | None = None
    run_id: Line | None = None
    parameters: int | None = Field(None, ge=0, description="all parameters")
    active_parameters: int | None = Field(None, ge=0, description="parameters that one token uses")
    architecture: Line | None = None
    checkpoint_hash: Digest
    licence: Line = UNSTATED
    contact: Line = UNSTATED
    links: dict[Literal["weights", "code", "paper", "data"], Address] = Field(default_factory=dict)
    supersedes: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    suites: tuple[Annotated[str, Field(max_length=120)], ...] = Field(min_length=1, description="name@version")
    files: dict[str, FileEntry] = Field(description="path in the submission's folder → size and hash")
    created: Line
    provenance: Provenance

    @property
    def content_id(self) -> str:
        """What the id must be: a hash of the model, the checkpoint and the files, so the same thing has one id."""
        files = {path: entry.sha256 for path, entry in self.files.items()}
        return hash_value([self.model, self.checkpoint_hash, files])[:12]


class Withdrawal(Record):
    """``withdrawn.json`` beside a submission: it leaves the ranking and stays in the history."""

    submission_id: str
    reason: Text
    date: Line


class ContaminatedTask(Strict):
    """Questions of a task of which a part was found in the training data."""

    questions: int = Field(ge=0)
    found: tuple[int, ...] = Field((), description="their numbers (`doc_id`)")


class Contamination(Record):
    """``contamination.json``: how much of a benchmark the submitter found in the training data, task by task."""

    method: Text = Field(description="how it was looked for (13-grams, embedding neighbours, …)")
    tasks: dict[Name, ContaminatedTask]


# --- what is said of them ---------------------------------------------------------------------------

Outcome = Literal["pass", "warn", "fail", "skip"]


class Verdict(Strict):
    """What one check says of one submission. ``warn``: for the reviewer's eyes; ``skip``: not done, and why."""

    submission: str
    check: str
    verdict: Outcome
    detail: str


class ShownScore(Strict):
    """A column's score of one submission."""

    value: float
    stderr: float | None
    lower: float | None = Field(description="95 % interval")
    upper: float | None
    n: int
    rank: int = Field(description="1 + how many submissions are significantly better")
    rank_worst: int = Field(description="how many submissions are not significantly worse, itself included")


class BoardEntry(Record):
    """A submission as a board shows it: recomputed scores, never claimed ones."""

    submission: Submission
    status: Literal["current", "superseded", "withdrawn"]
    note: str = ""
    scores: dict[str, dict[str, ShownScore]] = Field(description="suite → column → score")
    verdicts: tuple[Verdict, ...]
