"""The records through which the stages communicate, stored as JSON in the run store.

Each stored record has the version of its schema, so that a reader can refuse what it does not understand.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from harness.errors import MoemixError
from harness.execution import Tracking
from harness.files import hash_value, read_json, write_json
from harness.recipe import Mixing, Model, Source, Strategy, Training
from harness.schema import QuestionLimit, Strict

SCHEMA = 1
R = TypeVar("R", bound="Record")


class Record(Strict):
    """A stored record."""

    schema_version: Literal[1] = 1

    def write(self, path: Path) -> None:
        """Store the record as JSON, completely or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Load and validate a file; an error names the file and what is wrong in it."""
        return cls.checked(read_json(path), path)

    @classmethod
    def checked(cls: type[R], tree: object, path: Path, **context: object) -> R:
        """Build the record from parsed JSON; an error names the file and the key that is wrong."""
        try:
            return cls.model_validate(tree, context=context)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise MoemixError(
                f"not a {cls.__name__} of schema {SCHEMA}: `{key}`: {first['msg']}", where=str(path)
            ) from None


class Provenance(Strict):
    """The code, packages and machine that produced a record."""

    git_sha: str | None
    git_dirty: bool | None
    versions: dict[str, str] = Field(description="package → version")
    python: str
    platform: str
    processor: str
    cpu_count: int
    threads: int | None = None
    gpus: tuple[str, ...] = ()
    created: str = Field(description="ISO 8601, UTC")


Status = Literal["planned", "running", "done", "failed"]


class Stage(Strict):
    """The status of a stage of a run."""

    status: Status = "planned"
    started: str | None = None
    finished: str | None = None
    error: str | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took, from its last start; None unless it is done, or if the clock was set back meanwhile."""
        if self.status != "done" or self.started is None or self.finished is None:
            return None
        took = (datetime.fromisoformat(self.finished) - datetime.fromisoformat(self.started)).total_seconds()
        return took if took >= 0 else None


# --- models ---------------------------------------------------------------------------------------


class ModelConfig(Strict):
    """Everything that determines a made model. Its hash is the model's id."""

    model: Model
    sources: tuple[Source, ...] = Field((), description="the data that tokenizer, pretraining or routers see")
    fingerprints: dict[str, str] = Field(default_factory=dict, description="source → hash of its files")

    @property
    def id(self) -> str:
        """The model's name, and the hash of everything but its overrides."""
        identity = self.model_dump(mode="json")
        identity["model"].pop("overrides")
        return f"{self.model.name}-{hash_value(identity)[:12]}"


class ModelManifest(Record):
    """``model.json`` beside a made model's ``checkpoint/``."""

    model_id: str
    config: ModelConfig
    data_root: str | None = None
    stage: Stage = Stage()
    checkpoint_hash: str | None = None
    report: dict[str, object] = Field(
        default_factory=dict, description="what making it measured (parameters, losses, …)"
    )
    provenance: Provenance


# --- runs -----------------------------------------------------------------------------------------


class RunConfig(Strict):
    """Everything that determines a run's result. Its hash is the run's id."""

    model_id: str
    strategy: Strategy
    seed: int
    sources: tuple[Source, ...]
    data_seed: int
    fingerprints: dict[str, str] = Field(description="source → hash of its files (or hub id and revision)")
    training: Training
    mixing: Mixing
    strategy_code: str | None = Field(None, description="hash of the file that a strategy from a path comes from")
    reference: str | None = Field(None, description="the run whose result this strategy starts from")
    held_out: tuple[Source, ...] = Field((), description="sets to measure the loss on, beside the sources' own")
    held_out_every: int | None = Field(None, description="steps between these measurements; null: only at the end")

    @property
    def id(self) -> str:
        """The label, the seed, and the hash of everything that determines the result."""
        identity = self.model_dump(mode="json", exclude={"held_out_every", *([] if self.held_out else ["held_out"])})
        for key in ("label", "overrides", "spent"):
            identity["strategy"].pop(key)
        for key in ("log_every", "save_every", "keep_states"):
            identity["training"].pop(key)
        return f"{self.strategy.label}-s{self.seed}-{hash_value(identity)[:12]}".replace("/", "_")


class RowCounts(Strict):
    """What became of the rows of a source when they were made into training examples."""

    read: int
    not_chosen: int = Field(0, description="rows that were not read, because the recipe asks for fewer examples")
    not_selected: int = Field(0, description="rows that the adapter's `select` leaves out")
    examples: int = Field(description="held-out ones included")
    left_out: dict[str, int] = Field(default_factory=dict, description="reason → number of rows")
    changed: dict[str, int] = Field(default_factory=dict, description="what was changed in rows → number of rows")
    truncated: int = Field(0, description="examples that were cut to the maximum length")
    revisions: dict[str, str] = Field(default_factory=dict, description="hub id → the commit that was read")


class TrainResult(Strict):
    """What a finished training run did, in totals."""

    steps: int
    examples: int
    tokens: int = Field(description="real tokens processed, padding excluded")
    target_tokens: int = Field(description="tokens that carried a loss")
    seconds: float = Field(description="wall time in training steps, summed over resumes")
    mixing_seconds: float = Field(description="of these, spent on signals and weight updates")
    final_loss: float | None = Field(description="mean loss per target token over the last logged window")
    final_weights: dict[str, float]
    average_weights: dict[str, float] | None = Field(
        None, description="their mean over the run, of a strategy whose paper proposes that for a next run"
    )
    scales: Literal["draws", "loss"] = Field("draws", description="what the weights acted on")
    realised_examples: dict[str, int]
    realised_tokens: dict[str, int]
    source_losses: dict[str, float | None] = Field(description="last mean loss per target token of each source")
    epochs: dict[str, float] = Field(description="passes over each source")
    peak_memory_bytes: int | None = Field(None, description="of the first process")
    rows: dict[str, RowCounts] = Field(default_factory=dict, description="of each source")
    processes: int = 1
    parallel: str = Field("ddp", description="how several processes shared the work")


class RunManifest(Record):
    """``run.json``: config, provenance and the status of each stage."""

    run_id: str
    recipe: str
    config: RunConfig
    base_checkpoint: str = Field(description="folder of the model that training starts from, relative to the store")
    reference_run: str | None = Field(None, description="folder of the referenced run, relative to the store")
    data_root: str | None = None
    tracking: Tracking = Field(Tracking(), description="experiment trackers")
    stages: dict[str, Stage] = Field(default_factory=lambda: {"train": Stage()})
    result: TrainResult | None = None
    checkpoint_hash: str | None = None
    provenance: Provenance


class MixtureUpdate(Record):
    """A line of ``mixture.jsonl``: one weight update and what caused it."""

    step: int = Field(description="optimizer steps finished when the update was made")
    names: tuple[str, ...] = Field(description="the sources; every list below follows this order")
    before: tuple[float, ...]
    after: tuple[float, ...]
    observation: dict[str, object] = Field(default_factory=dict, description="the signals that caused it")
    scales: Literal["draws", "loss"] = Field("draws", description="what the weights act on")
    requested: tuple[float, ...] = Field(description="share of draws in force since the last update")
    realised_examples: tuple[int, ...] = Field(description="examples drawn since the last update")
    realised_tokens: tuple[int, ...] = Field(description="tokens trained on since the last update")
    pull: float | None = Field(None, description="η times the spread of Δ, of a rule that moves weights by distances")
    settles: tuple[float, ...] | None = Field(None, description="where its weights would settle if Δ stayed as it is")
    cost: dict[str, float] = Field(default_factory=dict, description="seconds, by signal and `update`")


class HeldOutLosses(Strict):
    """A line of ``held_out.jsonl``: the losses of a set of held-out examples, one value for each example."""

    step: int = Field(description="optimizer steps finished when they were measured")
    set: str = Field(description="name of the source that holds them out, or of a set of the recipe's `held_out`")
    keys: tuple[str, ...] = Field(description="hash of the tokens")
    nats: tuple[float, ...] = Field(description="sum of the losses of the target tokens")
    targets: tuple[int, ...] = Field(description="number of target tokens")
    bytes: tuple[int, ...] = Field(description="length of the targets' text in UTF-8")
    seconds: float = Field(0.0, description="what the measurement took")


class StepMetrics(Strict):
    """A line of ``metrics.jsonl``."""

    step: int
    loss: float = Field(description="mean loss per target token over the global batch of this step")
    balance_loss: float | None = Field(None, description="what was added to it, coefficient included; none if off")
    source_loss: dict[str, float | None]
    examples: int
    tokens: int
    target_tokens: int
    computed_tokens: int = Field(description="tokens computed, padding included")
    learning_rate: float
    grad_norm: float | None = None
    seconds: float


class GateLoads(Record):
    """``gate_load/<name>/summary.json`` of a run: how a checkpoint routes the tokens of sources and of benchmarks."""

    checkpoint_hash: str
    examples: int = Field(description="at most so many of each")
    names: tuple[str, ...]
    kinds: tuple[Literal["source", "benchmark"], ...]
    counts: tuple[tuple[tuple[int, ...], ...], ...] = Field(
        description="tokens by name, MoE layer and expert, padding excluded"
    )
    seconds: float
    provenance: Provenance


# --- evaluation -----------------------------------------------------------------------------------


class EvalRequest(Strict):
    """What an evaluation was asked to do; with the checkpoint's hash it determines the scores."""

    suite: str
    suite_hash: str
    tasks: tuple[str, ...] = Field((), description="a selection; empty for the whole suite")
    limit: QuestionLimit | None = None
    engine: str
    engine_args: dict[str, str] = Field({}, description="further arguments of the engine")
    dtype: str = "float32"
    seed: int = 0
    questions: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="task → the numbers of the only questions to ask; empty for all"
    )

    @property
    def id(self) -> str:
        """The hash that identifies this evaluation of a checkpoint."""
        unused = {name for name in ("questions", "engine_args") if not getattr(self, name)}
        return hash_value(self.model_dump(mode="json", exclude=unused))[:12]


class EvalResult(Strict):
    """One metric of one task. Values are fractions unless the metric says otherwise."""

    task: str
    metric: str
    filter: str = "none"
    value: float | None = Field(description="null when nothing was answered")
    stderr: float | None = Field(description="standard error over clusters of questions")
    lower: float | None = Field(None, description="lower end of the 95 % interval")
    upper: float | None = None
    clusters: int | None = Field(None, description="independent clusters among the questions")
    n: int
    higher_is_better: bool = True
    shots: int
    task_version: str
    prompt_hash: str = Field(description="over every prompt of the task, in order")
    engine: dict[str, object] = Field({}, description="what answered: name, version, dtype, arguments")
    note: str | None = None


class Column(Strict):
    """A column of the comparison table: one task, or an aggregate of several, or of other columns."""

    value: float | None
    stderr: float | None
    lower: float | None = Field(None, description="lower end of the 95 % interval")
    upper: float | None = None
    n: int
    tasks: tuple[str, ...] = Field((), description="the tasks it is computed from")
    columns: tuple[str, ...] = Field((), description="the columns it is the mean of")
    metric: str | None = None
    filter: str = Field("none", description="the answer filter of that metric")
    aggregation: Literal["macro", "micro"] = Field("macro", description="tasks count equally, or by their questions")
    title: str = ""
    note: str | None = Field(None, description="what readers must know about all its scores")
    decides: bool = Field(True, description="whether its differences may have verdicts: an untested judge's may not")


class ContinuousScores(Strict):
    """A line of ``continuous.jsonl``: how probable a task's right answers are, question by question."""

    task: str
    measure: Literal["choice_probability", "bits_per_byte"]
    doc_ids: tuple[int, ...]
    doc_hashes: tuple[str, ...]
    values: tuple[float, ...]


class EvalSummary(Record):
    """``summary.json`` of an evaluation."""

    request: EvalRequest
    checkpoint: str
    checkpoint_hash: str
    engine: dict[str, object] = Field(description="name, version, dtype, arguments")
    results: tuple[EvalResult, ...]
    columns: dict[str, Column]
    seconds: float
    provenance: Provenance


# --- contamination --------------------------------------------------------------------------------


class FoundText(Strict):
    """One place where training data hold a question."""

    where: str = Field(description="file and line of the training row")
    doc_id: int
    kind: Literal["exact", "near"]
    share: float = Field(description="of the question's rare word 3-grams")
    question: str
    text: str = Field(description="the beginning of the row")


class FoundQuestions(Strict):
    """What of one task stands in one source."""

    questions: int = Field(description="of the task in all")
    exact: tuple[int, ...] = Field(description="doc ids that stand there word by word")
    near: tuple[int, ...] = Field(description="doc ids that stand there reworded only")
    rows: int = Field(description="rows with any of them")
    examples: tuple[FoundText, ...] = Field(description="a few, the surest first")


class Contamination(Record):
    """Which of a suite's questions stand in a source of training data."""

    suite: str
    suite_hash: str
    source: str
    fingerprint: str = Field(description="of the source")
    rows: int = Field(description="rows that were compared")
    method: str
    tasks: dict[str, FoundQuestions] = Field(description="every task that was compared, found or not")
    unchecked: dict[str, str] = Field({}, description="tasks whose questions are not here, with the reason")
    seconds: float
    provenance: Provenance
