"""Records of a leaderboard: what a board pins, what a submission states, what a check reports, what is shown.

A board is a folder of plain files. Its owner writes what it pins; anybody writes submissions. Every text of a
submission is therefore bounded here, and none of its numbers is trusted (``leaderboards/board`` recomputes them).
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from harness.files import hash_value
from harness.records import Column, Provenance, Record
from harness.schema import Strict

NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$"
SHA256 = r"^[0-9a-f]{64}$"
NOT_STATED = "not stated"


def _printable(text: str) -> str:
    """Refuse control, formatting and direction-changing characters, except line breaks, and lone surrogates."""
    odd = next((c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn")), None)
    if odd is not None:
        raise ValueError(f"the character U+{ord(odd):04X} is not allowed in a text")
    return text


def _web_address(text: str) -> str:
    if not text.lower().startswith(("https://", "http://")):
        raise ValueError("an address must start with https:// or http://")
    return _printable(text)


Name = Annotated[str, Field(pattern=NAME)]
Digest = Annotated[str, Field(pattern=SHA256)]
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, Field(max_length=4000), AfterValidator(_printable)]
Address = Annotated[str, Field(max_length=500), AfterValidator(_web_address)]


# --- the board --------------------------------------------------------------------------------------


class Scorer(Strict):
    """How lm-eval scored a task, as far as the samples alone allow to repeat it."""

    output_type: str = Field(description="multiple_choice, generate_until, loglikelihood, …")
    target_delimiter: str = Field("", description="the text before each choice in a request")
    metrics: dict[str, dict[str, object]] = Field(default_factory=dict, description="metric → its arguments")
    filters: dict[str, tuple[dict[str, object], ...]] = Field(default_factory=dict, description="filter → its steps")
    recomputed: tuple[str, ...] = Field((), description="`metric,filter` that the pinned evaluation's samples confirm")


class PinnedTask(Strict):
    """A task of a pinned suite: the exact questions, and how they are scored."""

    version: str
    shots: int
    questions: int = Field(ge=1)
    question_hash: Digest = Field(description="over number, document and target of every question, in order")
    prompt_hash: str | None = Field(description="null if a chat template gives every model prompts of its own")
    scorer: Scorer
    dataset: str = Field("", description="where the questions come from: a hub data set, or a file format")
    split: str | None = None


class PinnedSuite(Strict):
    """A version of a suite: what must be answered, and what is computed from the answers."""

    name: Name
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.]{0,19}$")] = "1"
    suite: str = Field(description="the value for `moemix eval --suite`: a name, or a file relative to the board")
    suite_hash: Digest
    only: tuple[str, ...] = Field((), description="a selection of the suite's tasks; empty for all")
    limit: int | None = Field(None, description="questions per task; null for all")
    seed: int = 0
    main: str = Field(description="the column that the table is sorted by at first")
    columns: dict[Name, Column] = Field(description="definitions; the values are those of the pinned evaluation")
    higher_is_better: bool = True
    tasks: dict[Name, PinnedTask]
    moemix: str = Field("", description="the version of this package that pinned the suite")

    @property
    def key(self) -> str:
        """``name@version``: the suite's name on the board and in submissions."""
        return f"{self.name}@{self.version}"


class Board(Record):
    """``board.yaml``: what a board is about, and the suite versions that it ranks by, newest last."""

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
    """``submission.json``: what a submission states about itself, and the hash of every file beside it."""

    submission_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    model: Name
    description: Text = ""
    strategy: Line | None = Field(None, description="the mixing strategy; null for a checkpoint trained elsewhere")
    seed: int | None = None
    base_model: Line | None = Field(None, description="the model that training started from")
    recipe: Line | None = None
    run_id: Line | None = None
    parameters: int | None = Field(None, ge=0, description="all parameters")
    active_parameters: int | None = Field(None, ge=0, description="parameters that one token uses")
    architecture: Line | None = None
    checkpoint_hash: Digest
    licence: Line = NOT_STATED
    contact: Line = NOT_STATED
    links: dict[Literal["weights", "code", "paper", "data"], Address] = Field(default_factory=dict)
    supersedes: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    suites: tuple[Annotated[str, Field(max_length=120)], ...] = Field(min_length=1, description="name@version")
    files: dict[str, FileEntry] = Field(description="path in the submission's folder → size and hash")
    created: Line
    provenance: Provenance

    @property
    def content_id(self) -> str:
        """The id by the content: a hash of model, checkpoint and files, so the same submission has one id."""
        files = {path: entry.sha256 for path, entry in self.files.items()}
        return hash_value([self.model, self.checkpoint_hash, files])[:12]


class Withdrawal(Record):
    """``withdrawn.json`` beside a submission, which leaves the ranking and stays in the history."""

    submission_id: str
    reason: Text
    date: Line


class ContaminatedTask(Strict):
    """Questions of a task that were found in the training data, wholly or partly."""

    questions: int = Field(ge=0)
    found: tuple[int, ...] = Field((), description="their numbers (`doc_id`)")


class Contamination(Record):
    """``contamination.json``: how much of a benchmark the submitter found in the training data, by task."""

    method: Text = Field(description="how it was searched (13-grams, embedding neighbours, …)")
    tasks: dict[Name, ContaminatedTask]


# --- what checks and boards say ---------------------------------------------------------------------

Outcome = Literal["pass", "warn", "fail", "skip"]


class Verdict(Strict):
    """The result of one check of one submission. ``warn`` is for the reviewer; ``skip`` says why nothing was done."""

    submission: str
    check: str
    verdict: Outcome
    detail: str


class ShownScore(Strict):
    """The score of one submission in a column."""

    value: float
    stderr: float | None
    lower: float | None = Field(description="lower end of the 95 % interval")
    upper: float | None
    n: int
    rank: int = Field(description="1 + number of submissions that are significantly better")
    rank_worst: int = Field(description="number of submissions that are not significantly worse, itself included")


class BoardEntry(Record):
    """A submission as a board shows it, with recomputed scores."""

    submission: Submission
    status: Literal["current", "superseded", "withdrawn"]
    note: str = ""
    scores: dict[str, dict[str, ShownScore]] = Field(description="suite → column → score")
    verdicts: tuple[Verdict, ...]
