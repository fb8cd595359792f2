"""The recipe: one typed tree of models, data, strategies, training and evaluation.

Everything that a run depends on is in it; ``harness/recipe_file.py`` reads it from a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harness.chat_templates import chat_template, chat_template_names
from harness.errors import MoemixError
from harness.execution import Executor, Launcher, LocalExecutor, Tracking
from harness.files import read_yaml
from harness.schema import Extended, Label, QuestionLimit, Seed, Strict

ROUTER_MODULES = frozenset({"gate", "router"})
"""Names of the router in MoE layers, in transformers and in the paper's models."""


# --- data -----------------------------------------------------------------------------------------


class Part(Extended):
    """Files or a hub dataset in one format. A source may join several (chat logs in three schemas, say)."""

    newer: ClassVar[tuple[str, ...]] = ("data_files", "reasoning", "control_strings", "system")

    adapter: str = Field("auto", description="the format (docs/data.md); auto: by the columns of the first rows")
    files: tuple[str, ...] = Field((), description="local files or globs, relative to the data root")
    hub: str | None = Field(None, description="a hub dataset id, read through `datasets`")
    data_files: tuple[str, ...] = Field((), description="the files of the hub repository to read, or globs")
    revision: str | None = Field(None, description="commit or tag of the hub dataset; required to be reproducible")
    subset: str | None = Field(None, description="the configuration of the hub dataset; `name` means the same")
    split: str = "train"
    options: dict[str, object] = Field(default_factory=dict, description="the adapter's own options (column names, …)")
    reasoning: Literal["keep", "drop"] = Field("keep", description="thoughts: targets like the answer, or removed")
    control_strings: Literal["text", "tokens"] | None = Field(
        None, description="`<|im_end|>` and the like in contents; null: text in conversations, tokens in raw text"
    )

    system: Literal["fold", "leave_out"] = Field(
        "fold", description="system texts of a template without system turns: begin the first user turn; row left out"
    )

    @model_validator(mode="before")
    @classmethod
    def _name(cls, value: object) -> object:
        """Read ``name``, as `datasets` calls it, as ``subset``."""
        if isinstance(value, dict) and "name" in value and "subset" not in value:
            return {"subset" if key == "name" else key: item for key, item in value.items()}
        return value

    @field_validator("files", "data_files", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_location(self) -> Part:
        if bool(self.files) == bool(self.hub):
            raise ValueError("give either `files` or `hub`")
        if self.data_files and not self.hub:
            raise ValueError("`data_files` chooses files of a `hub` repository; local files are `files`")
        return self


class Source(Extended):
    """One dataset of the mixture."""

    newer: ClassVar[tuple[str, ...]] = ("bad_rows", "bad_rows_limit")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    parts: tuple[Part, ...] = Field(min_length=1)
    train_examples: int | None = Field(None, ge=1, description="examples to train on; default: all but the probe set")
    probe_examples: int = Field(0, ge=0, description="examples held out of training for probe signals")
    size: int | None = Field(None, ge=1, description="original size, where the files are a sample of it (`datasize`)")
    bad_rows: Literal["skip", "stop"] = Field("skip", description="rows that break their format: left out, or an error")
    bad_rows_limit: float = Field(
        0.01, ge=0, le=1, description="share of them above which reading stops; ten rows of a small file are allowed"
    )


class Data(Strict):
    """The sources of a mixture and where they are."""

    sources: tuple[Source, ...] = ()
    world: str | None = Field(None, description="a generated data root (`quickstart`), made on the spot")
    seed: Seed = Field(0, description="splits and orders")

    @model_validator(mode="after")
    def _distinct(self) -> Data:
        _check_distinct("source names", [source.name for source in self.sources])
        return self


# --- training -------------------------------------------------------------------------------------


class LoRA(Extended):
    """Low-rank adapters on linear layers, by peft; they are merged into the weights after training."""

    newer: ClassVar[tuple[str, ...]] = ("keep",)

    r: int = Field(16, ge=1, description="the rank")
    alpha: float = Field(32.0, gt=0, description="the adapters' outputs are scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        (), description="last parts of layers' names (`q_proj`); default: every linear layer but routers and output"
    )
    experts: Literal["none", "all", "shared"] = Field(
        "shared", description="none: no experts; shared: those that every token goes through; all: the routed ones too"
    )
    keep: bool = Field(False, description="save the adapters too, in peft's format, in the run's folder `adapter/`")


class Training(Extended):
    """How a model is trained. Defaults are the paper's (section 4.1)."""

    newer: ClassVar[tuple[str, ...]] = ("tokens_per_forward", "compile", "deterministic")

    steps: int = Field(2000, ge=1)
    batch_examples: int = Field(128, ge=1, description="examples in a global batch, over all ranks")
    max_length: int = Field(2048, ge=8, description="tokens in a row, and the most of an example that is kept")
    pack: bool = Field(True, description="pack examples into rows with block-diagonal attention")
    rows_per_forward: int = Field(1, ge=1, description="rows in one forward pass (gradients accumulate over the rest)")
    tokens_per_forward: int | None = Field(
        None, ge=8, description="rows up to so many tokens, padding included, in place of `rows_per_forward`"
    )
    exhausted: Literal["repeat", "stop"] = Field("repeat", description="what happens when a source runs out")
    learning_rate: float = Field(2e-5, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1, description="fraction of the steps")
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    max_grad_norm: float | None = Field(1.0, gt=0, description="clip to this norm; null for none")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: for all that is computed; the optimizer changes float32 weights"
    )
    compile: bool = Field(False, description="compile norms, attention and experts with torch.compile")
    deterministic: bool = Field(True, description="only kernels that give the same bits again; exact resume needs them")
    gradient_checkpointing: bool = False
    freeze: Literal["none", "router", "paper"] = Field(
        "none", description="router: the routers; paper: all with `gate` in its name (the gate half of `gate_up_proj`)"
    )
    balance_loss: Literal["none", "model", "paper"] = Field(
        "none", description="model: the architecture's own auxiliary loss; paper: eq. 3, at weight 0.01"
    )
    gate_noise: bool | None = Field(
        None, description="whether routers add their noise in training; null: as the model's configuration says"
    )
    lora: LoRA | None = Field(None, description="train low-rank adapters in place of the weights; merged at the end")
    log_every: int = Field(10, ge=1)
    save_every: int = Field(200, ge=1, description="steps between resumable states")
    keep_states: int = Field(2, ge=2)

    @model_validator(mode="after")
    def _compiled_in_bfloat16(self) -> Training:
        if self.compile and self.dtype != "bfloat16":
            raise ValueError("`compile` needs `dtype: bfloat16`: torch's compiler knows grouped products in no other")
        return self

    @model_validator(mode="after")
    def _frozen_layers_have_no_adapters(self) -> Training:
        for target in self.lora.targets if self.lora else ():
            named = self.freeze == "paper" and "gate" in target
            if named or (self.freeze == "router" and target in ROUTER_MODULES):
                raise ValueError(f"`lora.targets` names {target!r}, which `freeze: {self.freeze}` keeps as it is")
        return self


class Mixing(Strict):
    """When and from which signals the weights are updated; the strategy says how."""

    interval: int = Field(100, ge=1, description="optimizer steps between updates (the paper's m)")
    gate_load: Literal["online", "probe"] = Field("online", description="online: counted from the training batches")
    probe_batches: int = Field(5, ge=1, description="probe batches per source before each update")
    probe_batch_size: int = Field(4, ge=1, description="examples in a probe batch")
    embedding_examples: int = Field(256, ge=1, description="training examples per source that are embedded")
    min_tokens: int = Field(
        256, ge=1, description="a source with fewer tokens since the last update keeps its last known load"
    )


def _by_name(value: object) -> object:
    """Return the mapping of a strategy's row, from a name or a YAML file too (``moemix propose`` writes one)."""
    if not isinstance(value, str):
        return value
    if not value.endswith((".yaml", ".yml")):
        return {"name": value}
    try:
        row = read_yaml(Path(value))
    except MoemixError as error:
        raise ValueError(str(error)) from None
    if not isinstance(row, dict):
        raise ValueError(f"{value}: expected a mapping with a `name`, the row of a strategy")
    return row


class SearchCost(Strict):
    """Cost of the proxy runs used to tune a strategy's options; the table adds it to the run's total cost."""

    runs: int = Field(ge=0, description="proxy runs")
    steps: int = Field(ge=0)
    tokens: int = Field(ge=0)
    seconds: float = Field(ge=0, description="training the proxies, measuring and fitting")


class Strategy(Strict):
    """A mixing strategy by name (built in, entry point, or ``path/to/file.py:Class``) with its options."""

    name: str
    label: str = Field("", max_length=100, description="the row in tables; default: the name")
    options: dict[str, object] = Field(default_factory=dict)
    overrides: dict[str, object] = Field(
        default_factory=dict, description="`a.b: c` changes to the recipe for this row"
    )
    spent: SearchCost | None = Field(None, description="cost of tuning its options (`moemix propose`)")

    @model_validator(mode="before")
    @classmethod
    def _label_defaults_to_name(cls, value: object) -> object:
        if isinstance(value, dict) and not value.get("label") and isinstance(value.get("name"), str):
            name: str = value["name"]
            value = {**value, "label": name.rsplit(":", 1)[-1]}
        return value


# --- models ---------------------------------------------------------------------------------------


class Tokenizer(Strict):
    """A byte-level BPE tokenizer trained on the pretraining sources."""

    vocab_size: int = Field(1024, ge=260)


class Pretrain(Strict):
    """Language modelling on raw text before any instruction tuning."""

    sources: tuple[Source, ...] = Field(min_length=1)
    training: Training


class Named(Strict):
    """Fields that all models share."""

    name: Label
    overrides: dict[str, object] = Field(
        default_factory=dict, description="`a.b: c` changes to the recipe for this model"
    )


class TinyModel(Named):
    """A small MoE with random weights from an architecture's configuration, pretrained if asked."""

    kind: Literal["tiny"]
    architecture: str = Field("mixtral", description="a transformers model type")
    config: dict[str, object] = Field(default_factory=dict, description="fields of the architecture's configuration")
    tokenizer: Tokenizer = Tokenizer()
    pretrain: Pretrain | None = None
    seed: Seed = 0


def _template_text(value: object) -> object:
    """Return the name of a shipped template as it is, and a file's text, which then is part of the model's identity."""
    if not isinstance(value, str) or value in chat_template_names():
        return value
    try:
        return chat_template(value)
    except MoemixError as error:
        raise ValueError(f"{error.message}; {error.hint or error.where}") from None


ChatTemplate = Annotated[
    str | None,
    BeforeValidator(_template_text),
    Field(description="name of a shipped template (docs/data.md), file, or Jinja; null: the checkpoint's own"),
]


class FromDense(Named, Extended):
    """Fields of the models that are made from a dense checkpoint."""

    newer: ClassVar[tuple[str, ...]] = ("chat_template",)

    source: str = Field(
        min_length=1, description="a checkpoint folder, a hub id, or `package:NAME` for a Python package's weights"
    )
    revision: str | None = None
    top_k: int = Field(2, ge=1, description="experts of a token; all experts of a split make the dense model again")
    router_init: Literal["data", "random"] = Field("data", description="data: from hidden states of the sources")
    router_examples: int = Field(32, ge=1, description="examples per source for routers and clusters")
    seed: Seed = 0
    chat_template: ChatTemplate = None

    @property
    def reads_sources(self) -> bool:
        """Whether examples of the sources determine the model."""
        return self.router_init == "data"


class UpcycledModel(FromDense):
    """A dense checkpoint whose feed-forward blocks are copied into experts (sparse upcycling)."""

    kind: Literal["upcycle"]
    experts: int = Field(4, ge=2)


class SplitModel(FromDense):
    """A dense checkpoint whose feed-forward neurons are divided among experts (the LLaMA-MoE way)."""

    kind: Literal["split"]
    experts: int = Field(8, ge=2)
    architecture: Literal["mixtral", "llama_moe"] = Field("mixtral", description="what the checkpoint is written as")
    partition: Literal["contiguous", "random", "clustered"] = Field(
        "random", description="which neurons share an expert; clustered: those active on the same tokens of the sources"
    )

    @property
    def reads_sources(self) -> bool:
        """Whether examples of the sources determine the model."""
        return self.router_init == "data" or self.partition == "clustered"


class CheckpointModel(Named):
    """An existing MoE checkpoint, used as it is."""

    kind: Literal["checkpoint"]
    source: str = Field(min_length=1, description="a checkpoint folder or a hub id")
    revision: str | None = None
    chat_template: ChatTemplate = None


Model = Annotated[TinyModel | UpcycledModel | SplitModel | CheckpointModel, Field(discriminator="kind")]


# --- evaluation and the whole -----------------------------------------------------------------------


class Evaluation(Strict):
    """Which suites score every checkpoint."""

    suites: tuple[str, ...] = Field((), description="names or YAML files (`moemix suites`)")
    every: int | None = Field(None, ge=1, description="steps between measurements of held-out losses; null: at the end")
    limit: QuestionLimit | None = Field(None, description="questions per task, or a share of them; null for all")
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = 0

    @field_validator("suites")
    @classmethod
    def _distinct(cls, suites: tuple[str, ...]) -> tuple[str, ...]:
        _check_distinct("suites", suites)
        return suites


class PanelJudge(Strict):
    """A judge of a panel, at an address of its own."""

    name: str = Field(description="the judge's name at the URL")
    url: str = Field(description="of an OpenAI-compatible endpoint")
    key_env: str | None = Field(None, description="environment variable with its key; null for none")
    weight: float = Field(1.0, gt=0, description="of its verdicts in averages")


class Judging(Strict):
    """How open-ended answers of every checkpoint are judged (`docs/judging.md`)."""

    benches: tuple[str, ...] = Field((), description="names or JSONL files of questions")
    judge: str | CheckpointModel = Field(
        "reference",
        description="reference: a fixed rule, for answers that can be checked; the URL of an OpenAI-compatible"
        " endpoint; or a checkpoint (`kind: checkpoint`), which is served with vLLM",
    )
    judge_model: str | None = Field(None, description="the judge's name at the URL")
    panel: tuple[PanelJudge, ...] = Field((), description="several judges, in place of `judge` and `judge_model`")
    require: Literal["qualified"] | None = Field(
        None,
        description="qualified: test the judges on known answers first (`moemix judge qualify`), and refuse bad ones",
    )
    protocol: Literal["faithful", "strict"] = "strict"
    repeats: int = Field(1, ge=1, description="judgments of each answer")
    judge_temperature: float = Field(0.0, ge=0, description="of the judge; at 0 a served judge repeats itself")
    limit: int | None = Field(None, ge=1, description="questions per category; null for all")
    max_tokens: int = Field(1024, ge=1, description="of an answer")
    judge_max_tokens: int = Field(2048, ge=16, description="of a judgment")
    concurrency: int = Field(16, ge=1, description="judgments under way at once")

    @model_validator(mode="after")
    def _named(self) -> Judging:
        url = isinstance(self.judge, str) and self.judge.startswith(("http://", "https://"))
        if isinstance(self.judge, str) and self.judge != "reference" and not url:
            raise ValueError("`judge` is `reference`, a URL, or {kind: checkpoint, name: …, source: …}")
        if url != (self.judge_model is not None):
            raise ValueError("`judge_model` goes with the URL of a judge, and only with it")
        if self.panel:
            if self.judge != "reference":
                raise ValueError("give `judge` or `panel`, not both")
            _check_distinct("names of a panel's judges", [judge.name for judge in self.panel])
        if self.require and self.judge == "reference" and not self.panel:
            raise ValueError("`require: qualified` needs a judge; the reference grader is a fixed rule")
        return self


class Comparisons(Strict):
    """Which comparisons decide, and which differences count as none (`docs/statistics.md`)."""

    rows: tuple[str, ...] = Field((), description="labels of the rows compared with the baseline; default: all")
    columns: tuple[str, ...] = Field(
        (), description="columns in which they are compared; default: the averages (all columns where there is none)"
        " and the mean held-out loss, `held_out`"
    )  # fmt: skip
    margin: float = Field(
        2.0, gt=0, description="two rows whose difference is surely smaller are equal: points, or % of the baseline's"
        " score in a column that is not in %"
    )  # fmt: skip
    margins: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="column → a margin of its own: points, or the column's unit if not in %"
    )
    most_seeds: int = Field(12, ge=3, description="seeds of a row at most, as `bench --until-decided` adds them")


class Recipe(Strict):
    """Strategies × models × seeds on one mixture, and how they are compared."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*$", max_length=100)
    description: str = ""
    models: tuple[Model, ...] = Field(min_length=1)
    data: Data
    held_out: tuple[Source, ...] = Field(
        (), description="further sets whose loss is measured: all examples of each, or its `probe_examples`"
    )
    strategies: tuple[Annotated[Strategy, BeforeValidator(_by_name)], ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    training: Training = Training()
    mixing: Mixing = Mixing()
    launcher: Launcher = Launcher()
    evaluation: Evaluation = Evaluation()
    judging: Judging = Judging()
    engine: str = Field("transformers", description="transformers, vllm, or the URL of an OpenAI-compatible server")
    engine_args: dict[str, str] = Field({}, description="further arguments of the engine (`--engine-arg`)")
    baseline: str = Field("uniform", description="the row that differences are taken to")
    comparisons: Comparisons = Comparisons()
    executor: Executor = Field(LocalExecutor(), description="where jobs run; does not affect results or run ids")
    tracking: Tracking = Field(Tracking(), description="experiment trackers; does not affect results or run ids")

    # Each check is a field's own, so that an error has the field's line.
    @field_validator("models", "strategies", "seeds", "held_out")
    @classmethod
    def _distinct(cls, value: tuple[object, ...], info: ValidationInfo) -> tuple[object, ...]:
        kind = {"models": "model names", "strategies": "strategy labels", "held_out": "names of held-out sets"}
        data: Data | None = info.data.get("data")
        others = data.sources if data and info.field_name == "held_out" else ()
        names = [getattr(item, "label", getattr(item, "name", str(item))) for item in (*others, *value)]
        _check_distinct(kind.get(str(info.field_name), "seeds"), names)
        return value

    @field_validator("comparisons")
    @classmethod
    def _known_rows(cls, comparisons: Comparisons, info: ValidationInfo) -> Comparisons:
        labels = [strategy.label for strategy in info.data.get("strategies", ())]
        for label in comparisons.rows if labels else ():
            if label not in labels:
                raise ValueError(f"`comparisons.rows` names {label!r}, and the rows are {', '.join(labels)}")
        return comparisons


def _check_distinct(kind: str, names: Sequence[str]) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{kind} must differ; repeated: {', '.join(repeated)}")
