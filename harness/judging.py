"""Records of judgings: what is asked, which judges answer, and what their verdicts come to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.files import hash_value
from harness.records import Provenance, Record
from harness.schema import Strict

CONVERSATIONS = "conversations.jsonl"  # of a judging: each question with the answers that were judged


class JudgeSpec(Strict):
    """A judge: a model behind a URL, a checkpoint that we serve, or the reference grader."""

    name: str
    url: str | None = Field(None, description="of an OpenAI-compatible endpoint")
    checkpoint: str | None = Field(None, description="folder of a checkpoint that we serve with vLLM")
    checkpoint_hash: str | None = None
    weight: float = Field(1.0, gt=0, description="of its verdicts in the averages of a panel")


class JudgeSettings(Strict):
    """How answers are given and judged: the settings that a request for a judging and its resolved form share."""

    bench: str
    mode: Literal["single", "pairwise"] = "single"
    judges: tuple[JudgeSpec, ...] = Field((), description="empty for the reference grader")
    repeats: int = Field(1, ge=1, description="judgments of each answer")
    temperature: float = Field(0.0, ge=0, description="of the judges")
    judge_max_tokens: int = Field(2048, ge=16, description="tokens in a judgment")
    limit: int | None = Field(None, ge=1, description="questions per category; null for all")
    engine: str | None = Field(None, description="what answers; null where answers were given")
    dtype: str = "float32"
    seed: int = 0
    max_tokens: int = Field(1024, ge=1, description="tokens in an answer")

    @property
    def id(self) -> str:
        """The hash that identifies this judging."""
        return hash_value(self.model_dump(mode="json"))[:12]


class JudgeConfig(JudgeSettings):
    """What is known of a judging before it starts; ``JudgeRequest`` adds the hashes of all that it reads."""

    bench: str = Field("mt_bench", description="name or file of the questions")
    bench_content: str | None = Field(None, description="hash of the question file; null where it is not known yet")
    protocol: Literal["faithful", "strict"] = "strict"


class JudgeRequest(JudgeSettings):
    """What a judging was asked to do; it determines every prompt that a judge sees."""

    bench_hash: str
    answers: dict[str, str] = Field(description="model → hash of its answers, or of its checkpoint")
    baseline: str | None = Field(None, description="pairwise: the model that the others are compared with")
    protocol: Literal["faithful", "strict", "reference", "alpaca_eval", "arena_hard"]
    imported: Literal["fastchat", "alpaca_eval", "arena_hard"] | None = Field(None, description="made elsewhere")
    protocol_hash: str
    chat_template: str | None = Field(None, description="hash of a template given in place of the checkpoint's own")

    def elsewhere(self) -> JudgeRequest:
        """Return the request without its judges' addresses, which may change while a judging is resumed."""
        judges = tuple(judge.model_copy(update={"url": None, "checkpoint": None}) for judge in self.judges)
        return self.model_copy(update={"judges": judges})


class Score(Strict):
    """A mean with its standard error, clustered by question."""

    value: float | None
    stderr: float | None
    lower: float | None = Field(None, description="lower end of the 95 % interval")
    upper: float | None = None
    n: int = Field(description="rows: a turn of a question, averaged over judges and repeats")


class Judged(Strict):
    """What judging says of one model. In pairwise mode the scores are adjusted win rates, a tie counting half."""

    average: Score
    first_turn: Score
    second_turn: Score
    by_turn: dict[int, Score] = Field(default_factory=dict, description="every turn, where there are more than two")
    by_category: dict[str, Score]
    judged: int = Field(description="judgments with a verdict (pairwise: pairs of games with two)")
    failed: dict[str, int] = Field(description="judgments without one, by reason")
    bounds: tuple[float, float] | None = Field(
        None, description="the average if every failed row had the lowest, or the highest, score"
    )
    flags: dict[str, tuple[int | str, ...]] = Field(default_factory=dict, description="flag → questions")
    requests: int = Field(description="HTTP requests to judges, retries included")
    win: int | None = None
    loss: int | None = None
    tie: int | None = None
    adjusted_win_rate: float | None = None


class JudgeTest(Strict):
    """What a judge showed on questions with known answers (`moemix judge qualify`)."""

    scores: bool = Field(description="whether its scores may decide")
    pairs: bool = Field(description="whether its verdicts on pairs may decide")
    auc: Score | None = Field(
        None, description="how often a right answer has a higher score than a wrong one; chance ½"
    )
    accuracy: Score | None = Field(None, description="share of pairs that the right answer wins, a tie counting half")
    reasons: tuple[str, ...] = Field((), description="why it is not qualified")

    def figure(self, mode: str) -> str:
        """Return how often the judge was right, as text: ``AUC 0.93 (0.90 to 0.96)``."""
        name, found = ("accuracy", self.accuracy) if mode == "pairwise" else ("AUC", self.auc)
        if found is None or found.value is None or found.lower is None or found.upper is None:
            return f"no {name}"
        return f"{name} {found.value:.2f} ({found.lower:.2f} to {found.upper:.2f})"

    def of(self, mode: str) -> bool:
        """Return whether the judge is qualified for ``single`` answers or ``pairwise``."""
        return self.pairs if mode == "pairwise" else self.scores


class Qualification(Record):
    """``qualification.json``: a judge that was tested under the conditions under which it judges."""

    judge: JudgeSpec
    protocol: str
    protocol_hash: str
    temperature: float
    questions: dict[str, int] = Field(default_factory=dict, description="set → how many of its questions were asked")
    verdict: JudgeTest
    measures: dict[str, Any] = Field(description="set → scores and pairs → measures with intervals")
    requests: int
    cost: float | None = None
    seconds: float
    provenance: Provenance


class JudgeSummary(Judged, Record):
    """``summary.json`` of a judging: of the first model, and of the ``others``, by name."""

    request: JudgeRequest
    title: str = Field(description="what tables call it")
    scale: tuple[float, float]
    model: str
    others: dict[str, Judged] = Field(default_factory=dict)
    by_judge: dict[str, Score] = Field(default_factory=dict, description="the first model's average under each judge")
    variance: dict[str, float | None] = Field(
        default_factory=dict, description="of a score: between questions, between repeats of the judge; and what the "
        "judge alone contributes to the average's standard error"
    )  # fmt: skip
    tokens: dict[str, int] = Field(default_factory=dict, description="of prompts and of replies")
    cost: float | None = Field(None, description="where prices were given")
    omitted: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="judge → parts of the request that its server does not accept"
    )
    tested: dict[str, JudgeTest] = Field(default_factory=dict, description="judge → what its qualification says")
    notes: tuple[str, ...] = ()
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    engine: dict[str, Any] = Field(default_factory=dict, description="what answered")
    judge_engines: dict[str, dict[str, Any]] = Field(default_factory=dict, description="of judges that we served")
    seconds: float
    provenance: Provenance

    @property
    def qualified(self) -> bool:
        """Whether every judge has passed its test for this mode; a fixed rule needs none."""
        if self.request.protocol == "reference":
            return True
        tested = [self.tested.get(judge.name) for judge in self.request.judges]
        return all(one is not None and one.of(self.request.mode) for one in tested)

    @property
    def judged_share(self) -> float:
        """The share of judgments with a verdict, over all models."""
        models = [self, *self.others.values()]
        failed = sum(sum(model.failed.values()) for model in models)
        judged = sum(model.judged for model in models)
        return judged / (judged + failed) if judged + failed else 0.0
