"""Run folders as training and evaluation leave them, written through the project's own records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.files import append_jsonl
from harness.recipe import Mixing, Part, Source, Strategy, Training
from harness.records import (
    Column,
    EvalRequest,
    EvalResult,
    EvalSummary,
    MixtureUpdate,
    Provenance,
    RunConfig,
    RunManifest,
    Stage,
    TrainResult,
)
from harness.store import Run

PROVENANCE = Provenance(
    git_sha=None,
    git_dirty=None,
    versions={"moemix": "0.1.0"},
    python="3.11",
    platform="test",
    processor="test",
    cpu_count=2,
    created="2026-01-01T00:00:00+00:00",
)
SOURCES = ("chat", "code", "math")
ENGINE = {"name": "transformers", "version": "5.19.0", "dtype": "float32", "args": {"max_length": 256}}


def config_of(label: str, seed: int, model_id: str, **training: Any) -> RunConfig:
    return RunConfig(
        model_id=model_id,
        strategy=Strategy(name=label, label=label),
        seed=seed,
        sources=tuple(
            Source(name=name, parts=(Part(adapter="messages", files=(f"{name}.jsonl",)),)) for name in SOURCES
        ),
        data_seed=0,
        fingerprints=dict.fromkeys(SOURCES, "0" * 64),
        training=Training(**{"steps": 100, **training}),
        mixing=Mixing(interval=50),
    )


def train_result(weights: Sequence[float]) -> TrainResult:
    return TrainResult(
        steps=100,
        examples=800,
        tokens=40_000,
        target_tokens=20_000,
        seconds=120.0,
        mixing_seconds=1.5,
        final_loss=1.25,
        final_weights=dict(zip(SOURCES, weights, strict=True)),
        realised_examples={"chat": 200, "code": 240, "math": 360},
        realised_tokens={"chat": 20_000, "code": 10_000, "math": 10_000},
        source_losses=dict.fromkeys(SOURCES, 1.25),
        epochs=dict.fromkeys(SOURCES, 1.0),
    )


def sample_line(question: int, task: str, scores: Mapping[str, Any], filter_name: str) -> dict[str, Any]:
    """A line of samples_<task>.jsonl as lm-eval's tracker writes it."""
    doc = {"question": f"{task} {question}"}
    digest = hashlib.sha256(json.dumps(doc).encode()).hexdigest()
    return {
        "doc_id": question,
        "doc": doc,
        "target": "0",
        "arguments": {"gen_args_0": {"arg_0": f"{task} {question}", "arg_1": " a"}},
        "resps": [[["-1.5", "False"]]],
        "filtered_resps": [["-1.5", "False"]],
        "filter": filter_name,
        "metrics": list(scores),
        "doc_hash": digest,
        "prompt_hash": digest,
        "target_hash": digest,
        **scores,
    }


def write_samples(folder: Path, task: str, lines: Sequence[Mapping[str, Any]]) -> Path:
    path = folder / f"samples_{task}.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


class Bench:
    """Writes runs below one store. Scores are task → per-question values of ``acc``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs: list[Run] = []
        self.folders: dict[str, Path] = {}

    def run(
        self,
        label: str,
        scores: Mapping[str, Sequence[float] | None] | None = None,
        *,
        seed: int = 0,
        model_id: str = "tiny-0123456789ab",
        weights: Sequence[float] = (0.2, 0.3, 0.5),
        trained: bool = True,
        stages: Mapping[str, Stage] | None = None,
        training: Mapping[str, Any] | None = None,
        **evaluation: Any,
    ) -> Run:
        """A finished run, evaluated if scores are given; unfinished if ``stages`` says so."""
        config = config_of(label, seed, model_id, **(training or {}))
        run = Run(self.root / "bench" / f"{len(self.runs):02d}-{config.seed}")
        run.folder.mkdir(parents=True)
        done = stages is None or stages["train"].status == "done"
        manifest = RunManifest(
            run_id=config.id,
            recipe="bench",
            config=config,
            base_checkpoint="_models/tiny/checkpoint",
            stages=dict(stages or {"train": Stage(status="done")}),
            result=train_result(weights) if trained and done else None,
            checkpoint_hash="c" * 64 if done else None,
            provenance=PROVENANCE,
        )
        manifest.write(run.manifest_path)
        if trained and done:
            self.mixture(run, weights)
        self.runs.append(run)
        self.folders[config.id] = run.folder / "evals" / "kr"
        if scores is not None:
            self.evaluate(run, scores, **evaluation)
        return run

    def mixture(self, run: Run, weights: Sequence[float]) -> None:
        third = tuple(1 / 3 for _ in SOURCES)
        update = MixtureUpdate(
            step=50,
            names=SOURCES,
            before=third,
            after=tuple(weights),
            requested=third,
            realised_examples=(130, 140, 130),
            realised_tokens=(9000, 6000, 5000),
            cost={"gate_load": 0.7, "update": 0.001},
        )
        append_jsonl(run.mixture, update.model_dump(mode="json"))

    def evaluate(
        self,
        run: Run,
        scores: Mapping[str, Sequence[float] | None],
        *,
        columns: Mapping[str, Column] | None = None,
        note: str | None = None,
        engine: Mapping[str, Any] = ENGINE,
        **request: Any,
    ) -> Path:
        """An evaluation folder: a column per task, and their average if there are several."""
        folder = run.folder / "evals" / "kr"
        folder.mkdir(parents=True)
        results = []
        for task, values in scores.items():
            known = values is not None
            lines = [sample_line(question, task, {"acc": value}, "none") for question, value in enumerate(values or ())]
            if known:
                write_samples(folder, task, lines)
            results.append(
                EvalResult(
                    task=task,
                    metric="acc",
                    value=float(np.mean(values)) if known else None,
                    stderr=None,
                    n=len(values or ()),
                    shots=0,
                    task_version="1",
                    prompt_hash=f"prompts of {task}" if known else "",
                    note=note,
                )
            )
        EvalSummary(
            request=EvalRequest(**{"suite": "kr", "suite_hash": "5" * 64, "engine": "transformers", **request}),
            checkpoint="checkpoint",
            checkpoint_hash="c" * 64,
            engine=dict(engine),
            results=tuple(results),
            columns=dict(columns) if columns else columns_of(results),
            seconds=1.0,
            provenance=PROVENANCE,
        ).write(folder / "summary.json")
        return folder


def columns_of(results: Sequence[EvalResult]) -> dict[str, Column]:
    found = {r.task: Column(value=r.value, stderr=None, n=r.n, tasks=(r.task,), metric="acc") for r in results}
    if len(results) > 1:
        values = [r.value for r in results]
        mean = None if None in values else float(np.mean(values))
        found["average"] = Column(
            value=mean, stderr=None, n=sum(r.n for r in results), columns=tuple(found), title="Avg"
        )
    return found
