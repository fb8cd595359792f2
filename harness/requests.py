"""Requests: the record that tells a job what to do, stored as ``request.json`` in the folder of its results.

``config`` holds what determines the result; its hash is the identity of the job. All other fields say where and how
the job runs, and may differ from one attempt to the next. Paths are stored relative to the file, so a store can move.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, PlainSerializer, ValidationInfo
from pydantic_core.core_schema import SerializationInfo

from harness.errors import MoemixError
from harness.execution import Launcher, Tracking
from harness.files import read_json, write_json
from harness.judging import JudgeConfig, JudgeSpec
from harness.records import EvalRequest, EvalSummary, ModelConfig, Record, RunConfig
from harness.schema import Strict

FILE = "request.json"
RESOLVED = "resolved.json"
"""A judging's ``JudgeRequest``: its request with the hash of everything that it reads."""


def _absolute(value: Path, info: ValidationInfo) -> Path:
    return (Path((info.context or {}).get("folder", "")) / value).resolve()


def _relative(value: Path, info: SerializationInfo) -> str:
    folder = (info.context or {}).get("folder")
    return os.path.relpath(value, folder) if folder else str(value)


Location = Annotated[Path, AfterValidator(_absolute), PlainSerializer(_relative)]
"""A path: absolute in memory, relative to the request file in it."""


class JobRequest(Record):
    """What all requests share."""

    kind: str
    out: Location = Field(description="folder of the results")
    data_root: Path | None = Field(None, description="folder of local data files; null for the hub")

    def save(self) -> None:
        """Write the request into the folder of its results."""
        path = self.out / FILE
        if path.is_file() and "kind" not in read_json(path) and "answers" in read_json(path):
            os.replace(path, self.out / RESOLVED)  # version 0.1 stored a judging's resolved request under this name
        write_json(path, self.model_dump(mode="json", context={"folder": self.out.resolve()}))


class TrainJobRequest(JobRequest):
    """Train one run. ``out`` is the folder of the run."""

    kind: Literal["train"] = "train"
    config: RunConfig
    recipe: str
    base_checkpoint: Location = Field(description="checkpoint that training starts from")
    reference_run: Location | None = Field(None, description="finished run that the strategy needs")
    tracking: Tracking = Tracking()
    launcher: Launcher = Field(Launcher(), description="how many processes train it, and how they share the work")


class ModelJobRequest(JobRequest):
    """Make one model. ``out`` is the folder of the model."""

    kind: Literal["model"] = "model"
    config: ModelConfig


class EvalJobRequest(JobRequest):
    """Score a checkpoint on a suite."""

    kind: Literal["eval"] = "eval"
    config: EvalRequest
    checkpoint: Location
    keep_answers: bool = Field(True, description="read and fill the cache of answers")
    unsafe_code: bool = Field(False, description="run generated programs without a sandbox where there is none")
    tracking: Tracking = Tracking()


class JudgeJobRequest(JobRequest):
    """Judge the answers of a checkpoint, or answers in files."""

    kind: Literal["judge"] = "judge"
    config: JudgeConfig
    checkpoint: Location | None = Field(None, description="checkpoint that answers")
    model_name: str | None = Field(None, description="what to call the model; null for its own name")
    judge_checkpoints: tuple[Location, ...] = Field((), description="folders of the judges that we serve, in order")
    answers: tuple[Location, ...] = Field((), description="FastChat answer files, in place of a checkpoint")
    baseline: Location | None = Field(None, description="answers that the others are compared with")
    references: Location | None = Field(None, description="reference answers")
    chat_template: Location | None = Field(None, description="template in place of the checkpoint's own")
    judge_prompts: Location | None = Field(None, description="FastChat's judge templates")
    judge_key_env: tuple[str, ...] = Field((), description="environment variable with the key of each judge at a URL")
    concurrency: int = Field(16, ge=1, description="judgments at once")
    rate: float | None = Field(None, description="most requests a minute")
    timeout: float = Field(120.0, description="seconds for one request")
    attempts: int = Field(6, ge=1, description="most requests for one judgment")
    max_cost: float | None = None
    price: str | None = Field(None, description="of a million prompt and a million reply tokens: IN,OUT")
    retry_failed: bool = Field(False, description="repeat requests that the endpoint failed to answer")
    qualification: Location | None = Field(None, description="folder with the tests of the judges (`judge qualify`)")
    require: Literal["qualified"] | None = Field(None, description="qualified: test the judges first, refuse bad ones")
    min_judged: float = Field(0.5, ge=0, le=1, description="share of judgments with a verdict below which it fails")


class GateLoadConfig(Strict):
    """What a measurement of gate load counts."""

    examples: int = Field(100, ge=1, description="most examples of each source and benchmark")
    benchmarks: bool = Field(False, description="also count the prompts of the run's evaluations")


class GateLoadJobRequest(JobRequest):
    """Count the tokens that a run's checkpoint sends to each expert."""

    kind: Literal["gate-load"] = "gate-load"
    config: GateLoadConfig = GateLoadConfig()
    run: Location = Field(description="folder of the run")


R = TypeVar("R", bound=JobRequest)


def read_request(path: Path, schema: type[R]) -> R:
    """Load a request file of the kind that is expected.

    Raises:
        MoemixError: there is no such file, or it holds something else.
    """
    tree = read_json(path)
    expected = schema.model_fields["kind"].default
    kind = tree.get("kind") if isinstance(tree, dict) else None
    if kind != expected:
        raise MoemixError(
            f"this is not a request for `moemix {expected}`: `kind` is {kind!r}",
            where=str(path),
            hint=f"expected {expected!r}; `moemix bench` writes such files",
        )
    return schema.checked(tree, path, folder=path.resolve().parent)


def eval_request(folder: Path) -> EvalRequest | None:
    """Return what the evaluation in a folder was asked for, finished or not; None if the folder is free."""
    if (folder / "summary.json").is_file():
        return EvalSummary.read(folder / "summary.json").request
    if not (folder / FILE).is_file():
        return None
    if "kind" in (tree := read_json(folder / FILE)):
        return read_request(folder / FILE, EvalJobRequest).config
    return EvalRequest.model_validate(tree)  # version 0.1 stored no more than this


def judge_config(folder: Path) -> JudgeConfig | None:
    """Return what the judging in a folder was asked for, finished or not; None if the folder is free."""
    tree = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    if "kind" in tree:
        return read_request(folder / FILE, JudgeJobRequest).config
    if (folder / "stage.json").is_file():
        return _judge_config_of_0_1(folder / "stage.json")
    return JudgeConfig(bench=tree["bench"], bench_content="unknown") if tree else None  # 0.1, started by hand


def _judge_config_of_0_1(path: Path) -> JudgeConfig:
    """Convert ``stage.json`` of version 0.1: the options of the judge command, and the hash of the question file."""
    words, content = read_json(path)
    options = dict(zip((word[2:].replace("-", "_") for word in words[::2]), words[1::2], strict=True))
    judges = [JudgeSpec(name=options["judge_model"], url=options["judge_url"])] if "judge_model" in options else []
    if "judge_checkpoint" in options:
        judges.append(JudgeSpec(name=Path(options["judge_checkpoint"]).parent.name))
    fields = {name: value for name, value in options.items() if name in JudgeConfig.model_fields}
    temperature = options.get("judge_temperature", 0.0)
    return JudgeConfig.model_validate(
        {**fields, "bench_content": content, "judges": judges, "temperature": temperature}
    )
