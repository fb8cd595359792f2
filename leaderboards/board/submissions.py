"""Records of a leaderboard: what a board pins, what a submission states, what a check reports, what is shown.

A board is a folder of plain files. Its owner writes what it pins; anybody writes submissions. Every text of a
submission is therefore bounded here, and none of its numbers is trusted (``leaderboards/board`` recomputes them).
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from harness.files import hash_value
from harness.judging import JudgeTest
from harness.records import Column, Provenance, Record
from harness.schema import Strict

NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$"
SHA256 = r"^[0-9a-f]{64}$"
ID = r"^[0-9a-f]{12}$"
NOT_STATED = "not stated"
FORGED, POWER = 0.3, 0.99  # a replay finds this share of forged answers with this probability
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows
_LOOKALIKES = (("rn", "m"), ("vv", "w"), ("cl", "d"), ("0", "o"), ("1", "l"), ("i", "l"), ("_", "-"), (".", "-"))


def odd_character(text: str) -> str | None:
    """Return the first control, formatting or direction-changing character, or lone surrogate; line breaks are none."""
    if text.isascii() and text.isprintable():
        return None
    odd = ("Cc", "Cf", "Cs", "Co", "Cn")
    return next((c for c in text if c not in "\n\t" and unicodedata.category(c) in odd), None)


def _printable(text: str) -> str:
    """Refuse odd characters, and text that is not normalised: two texts that look the same must be the same."""
    odd = odd_character(text)
    if odd is not None:
        raise ValueError(f"the character U+{ord(odd):04X} is not allowed in a text")
    if not unicodedata.is_normalized("NFC", text):
        raise ValueError("the text is not in Unicode's normal form NFC")
    return text


def _plain(text: str) -> str:
    """Refuse letters outside ASCII in names: many look like Latin ones."""
    odd = next((c for c in text if not " " <= c <= "~"), None)
    if odd is not None:
        raise ValueError(f"the character U+{ord(odd):04X} is not allowed in a name; use ASCII")
    return text


def _folder(text: str) -> str:
    if RESERVED.fullmatch(text) or text.endswith("."):
        raise ValueError(f"{text!r} cannot be the name of a folder on Windows")
    return text


def skeleton(name: str) -> str:
    """Return what names that a reader would confuse have in common: ``Model-1`` and ``mode1_l`` are one."""
    text = name.casefold()
    for seen, meant in _LOOKALIKES:
        text = text.replace(seen, meant)
    return text


def _moment(text: str) -> str:
    """Refuse what is not an ISO 8601 time between 2020 and tomorrow."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("not an ISO 8601 time") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not datetime(2020, 1, 1, tzinfo=UTC) <= moment <= datetime.now(UTC) + timedelta(days=1):
        raise ValueError("the time must be after 2019 and not in the future")
    return text


def _web_address(text: str) -> str:
    if not text.lower().startswith(("https://", "http://")):
        raise ValueError("an address must start with https:// or http://")
    return _printable(text)


Name = Annotated[str, Field(pattern=NAME), AfterValidator(_folder)]
Id = Annotated[str, Field(pattern=ID)]
Digest = Annotated[str, Field(pattern=SHA256)]
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
Owner = Annotated[str, Field(pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,63}|SHA256:[A-Za-z0-9+/]{43})$")]
Moment = Annotated[str, Field(max_length=40), AfterValidator(_moment)]
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


class PinnedReplay(Strict):
    """How checkpoints answer again, the same for every submission whatever it states about itself."""

    engine: Line = "transformers"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    moved: float = Field(0.01, ge=0, le=0.1, description="share of honest scores that rounding moves, at most")

    @cached_property
    def design(self) -> tuple[int, int]:
        """The fewest questions to ask, and how many scores may move.

        An honest submission passes, and one in which 30 % of the answers are forged fails, each in 99 % of cases.
        """
        from scipy.stats import binom

        for questions in range(10, 1000):
            allowed = int(binom.ppf(POWER, questions, self.moved))
            if binom.sf(allowed, questions, FORGED) >= POWER:
                return questions, allowed
        raise AssertionError("a share of at most 10 % is told from 30 % by fewer than 1,000 questions")


class PinnedJudging(Strict):
    """A judging that the board shows: the questions and the judge of one that the board's owner ran."""

    title: Line
    bench_hash: str
    mode: Literal["single", "pairwise"]
    baseline: str | None = None
    protocol: str
    protocol_hash: str
    judges: tuple[str, ...]
    repeats: int
    temperature: float
    rows: int = Field(ge=1, description="turns of all questions")
    failed: int = Field(0, ge=0, description="of these, turns that had no verdict")
    row_hash: Digest = Field(description="over question, turn and category of every row")
    tested: dict[str, JudgeTest] = Field(default_factory=dict, description="judge → its test when it was pinned")

    @property
    def qualified(self) -> bool:
        """Whether every judge had passed its test, or the judging needs none."""
        passed = [test.of(self.mode) for test in self.tested.values()]
        return self.protocol == "reference" or (len(passed) == len(self.judges) and all(passed))

    def mismatch(self, other: PinnedJudging) -> str | None:
        """Return what differs in another judging, or None."""
        compared = type(self).model_fields.keys() - {"failed", "tested"}
        names = [name for name in sorted(compared) if getattr(self, name) != getattr(other, name)]
        differing = [f"{name} is {getattr(other, name)}, not {getattr(self, name)}" for name in names]
        return "; ".join(differing)[:400] or None


class Rules(Strict):
    """What a board demands of submissions. The default suits a board that only its owner writes to."""

    owners: Literal["anyone", "login", "ssh"] = Field(
        "anyone", description="login: who opens the pull request; ssh: who holds the key that signed the submission"
    )
    maintainers: tuple[Owner, ...] = Field((), description="logins or keys that may withdraw anything")
    require: tuple[Literal["execution", "replay", "qualified"], ...] = Field(
        (), description="checks without which nothing is shown; qualified: judges that passed `moemix judge qualify`"
    )
    replay: PinnedReplay = PinnedReplay()
    judgings: dict[Name, PinnedJudging] = Field(default_factory=dict, description="bench → the only judging shown")
    max_bytes: int = Field(1 << 30, ge=1, le=4 << 30, description="size of a submission")

    @model_validator(mode="after")
    def _judges_are_qualified(self) -> Rules:
        bad = sorted(bench for bench, pinned in self.judgings.items() if not pinned.qualified)
        if bad and "qualified" in self.require:
            raise ValueError(f"the board requires qualified judges, and those of {', '.join(bad)} are not")
        return self


class Board(Record):
    """``board.yaml``: what a board is about, and the suite versions that it ranks by, newest last."""

    name: Name
    title: Line
    description: Text = ""
    repository: Address | None = Field(None, description="where the board's files are, and submissions go")
    licence: Line | None = Field(None, description="of the board's files; submissions state those of the weights")
    rules: Rules = Rules()
    suites: tuple[PinnedSuite, ...] = ()


# --- submissions ------------------------------------------------------------------------------------


class FileEntry(Strict):
    """A file of a submission."""

    bytes: int = Field(ge=0)
    sha256: Digest


class Submission(Record):
    """``submission.json``: what a submission states about itself, and the hash of every file beside it."""

    submission_id: Id
    identity: Literal["files", "everything"] = Field("files", description="what the id covers; 0.1 left out texts")
    owner: Owner | None = Field(None, description="who may supersede and withdraw it: a login, or a key's fingerprint")
    model: Name
    description: Text = ""
    strategy: Label | None = Field(None, description="the mixing strategy; null for a checkpoint trained elsewhere")
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    base_model: Label | None = Field(None, description="the model that training started from")
    recipe: Label | None = None
    run_id: Label | None = None
    parameters: int | None = Field(None, ge=100, le=10**14, description="all parameters")
    active_parameters: int | None = Field(None, ge=100, description="parameters that one token uses")
    architecture: Label | None = None
    checkpoint_hash: Digest
    licence: Line = NOT_STATED
    contact: Line = NOT_STATED
    links: dict[Literal["weights", "code", "paper", "data"], Address] = Field(default_factory=dict)
    supersedes: Id | None = None
    suites: tuple[Annotated[str, Field(max_length=120)], ...] = Field(min_length=1, description="name@version")
    files: dict[str, FileEntry] = Field(description="path in the submission's folder → size and hash")
    created: Moment
    provenance: Provenance

    @model_validator(mode="after")
    def _active_of_all(self) -> Submission:
        if self.active_parameters and self.active_parameters > (self.parameters or 0):
            raise ValueError("active_parameters is more than parameters")
        return self

    @property
    def content_id(self) -> str:
        """The id by the content: a hash of all that the submission states and of its files."""
        if self.identity == "everything":
            return hash_value(self.model_dump(mode="json", exclude={"submission_id"}))[:12]
        files = {path: entry.sha256 for path, entry in self.files.items()}
        return hash_value([self.model, self.checkpoint_hash, files])[:12]


class Withdrawal(Record):
    """``withdrawn.json`` beside a submission, which leaves the ranking and stays in the history."""

    submission_id: Id
    reason: Text
    date: Moment
    by: Owner | None = Field(None, description="the submission's owner, or a maintainer of the board")


class ReplayRecord(Record):
    """``replays/<submission id>.json`` of a board: what a maintainer found when the checkpoint answered again."""

    submission_id: Id
    engine: Line
    dtype: Line
    seed: int
    questions: int = Field(ge=1)
    moved: int = Field(ge=0, description="scores that the checkpoint does not earn now")
    allowed: int = Field(ge=0)
    verdict: Literal["pass", "fail"]
    detail: Text
    date: Moment


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


class ShownJudging(Strict):
    """A judging as a board shows it, computed from its judgments."""

    title: str
    judges: tuple[str, ...]
    scores: tuple[tuple[str, float | None, float | None, int], ...] = Field(
        description="average and categories: name, score, standard error, turns"
    )


class ShownScore(Strict):
    """The score of one submission in a column."""

    value: float
    stderr: float | None
    lower: float | None = Field(description="lower end of the 95 % interval")
    upper: float | None
    n: int
    rank: int = Field(description="1 + number of submissions that are significantly better")
    rank_worst: int = Field(description="number of submissions that are not significantly worse, itself included")
    as_recorded: bool = Field(False, description="whether a part was neither recomputed nor executed")


class BoardEntry(Record):
    """A submission as a board shows it, with recomputed scores."""

    submission: Submission
    status: Literal["current", "superseded", "withdrawn"]
    note: str = ""
    arrived: str = Field(description="when it came into the repository; otherwise what it states")
    badges: tuple[str, ...] = ()
    scores: dict[str, dict[str, ShownScore]] = Field(description="suite → column → score")
    verdicts: tuple[Verdict, ...]
