"""A store in which every run of preset mini is finished, its records written through the project's own classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from run_records import PROVENANCE, columns_of, sample_line, write_samples  # type: ignore[import-not-found]

from evals.suites import suite_hash
from harness.files import append_jsonl, hash_value
from harness.jobs import PlannedRun
from harness.records import (
    EvalRequest,
    EvalResult,
    EvalSummary,
    GateLoads,
    MixtureUpdate,
    RunManifest,
    Stage,
    TrainResult,
)
from harness.store import Store, data_root
from leaderboards.paper.figures import FIGURES
from leaderboards.paper.presets import PRESETS
from leaderboards.paper.rendering import needs
from leaderboards.paper.runs import BENCHMARK_LOAD, GATE_LOAD, Experiments, open_experiments
from leaderboards.paper.specs import table_names

TASKS = {"facts": 40, "words": 30, "math": 30, "code": 60}
# What each strategy gets right; Dynamic is clearly best on math and code.
SKILL = {"none": 0.05, "uniform": 0.3, "datasize": 0.3, "dynamic": 0.9}


def opened(root: Path, *overrides: str) -> Experiments:
    """The mini preset with three seeds, which is enough for tests and takes less time than its eight."""
    return open_experiments(PRESETS["mini"], Store(root), data_root(None), ("seeds=[0, 1, 2]", *overrides))


def finish_all(experiments: Experiments) -> None:
    """Every run that a table or figure needs."""
    wanted = {need[:2]: None for name in (*table_names(), *FIGURES) for need in needs(name)}
    for model, strategy in wanted:
        for planned in experiments.runs(model, strategy):
            finish(experiments, planned)


def finish(experiments: Experiments, planned: PlannedRun) -> None:
    """Manifest, trajectory, scores, judging and gate loads of one run, drawn from its label and seed."""
    config, label = planned.config, planned.config.strategy.label
    generator = np.random.default_rng([config.seed, *label.encode(), *([1] if planned.model != "tiny" else [])])
    names = tuple(sorted(source.name for source in config.sources))
    weights = tuple(generator.dirichlet(np.full(len(names), 20.0)).tolist())
    trained = label != "none"
    counts = dict.fromkeys(names, 100)
    result = TrainResult(
        steps=config.training.steps if trained else 0, examples=100 * len(names), tokens=1000, target_tokens=500,
        seconds=1.0, mixing_seconds=0.1, final_loss=1.0, final_weights=dict(zip(names, weights, strict=True)),
        realised_examples=counts, realised_tokens=counts, source_losses=dict.fromkeys(names, 1.0),
        epochs=dict.fromkeys(names, 1.0),
    )  # fmt: skip
    digest = hash_value([label, config.seed])
    planned.run.folder.mkdir(parents=True, exist_ok=True)
    RunManifest(
        run_id=config.id, recipe="paper/mini", config=config, base_checkpoint="_models/x/checkpoint",
        stages={"train": Stage(status="done")}, result=result, checkpoint_hash=digest, provenance=PROVENANCE,
    ).write(planned.run.manifest_path)  # fmt: skip
    if trained:
        update = MixtureUpdate(
            step=1, names=names, before=tuple(1 / len(names) for _ in names), after=weights,
            requested=tuple(1 / len(names) for _ in names), realised_examples=tuple(10 for _ in names),
            realised_tokens=tuple(10 for _ in names),
        )  # fmt: skip
        append_jsonl(planned.run.mixture, update.model_dump(mode="json"))
    _evaluate(experiments, planned, digest, generator)
    _judge(experiments, planned, digest, generator)
    for need in (GATE_LOAD, BENCHMARK_LOAD):
        groups = names + (tuple(TASKS) if need == BENCHMARK_LOAD else ())
        GateLoads(
            checkpoint_hash=digest, examples=100, names=groups,
            kinds=tuple("source" if i < len(names) else "benchmark" for i in range(len(groups))),
            counts=tuple(tuple(tuple(map(int, row)) for row in generator.integers(1, 100, (2, 4))) for _ in groups),
            seconds=1.0, provenance=PROVENANCE,
        ).write(experiments.gate_load(planned, need) / "summary.json")  # fmt: skip


def _evaluate(experiments: Experiments, planned: PlannedRun, digest: str, generator: np.random.Generator) -> None:
    folder = experiments.scores(planned)
    folder.mkdir(parents=True)
    results = []
    for task, n in TASKS.items():
        values = (generator.random(n) < SKILL.get(planned.config.strategy.label, 0.4)).astype(float)
        lines = [sample_line(i, task, {"acc": v}, "none") for i, v in enumerate(values)]
        if task == "words":
            starts = list(experiments.preset.subtasks.values())
            lines = [line | {"target": f"{starts[i % len(starts)]}bell."} for i, line in enumerate(lines)]
        write_samples(folder, task, lines)
        results.append(
            EvalResult(
                task=task, metric="acc", value=float(values.mean()), stderr=None, n=n, shots=0, task_version="1",
                prompt_hash="p",
            )
        )  # fmt: skip
    EvalSummary(
        request=EvalRequest(suite="quickstart", suite_hash=suite_hash("quickstart"), engine="transformers"),
        checkpoint="checkpoint", checkpoint_hash=digest, engine={"name": "transformers"}, results=tuple(results),
        columns=columns_of(results), seconds=1.0, provenance=PROVENANCE,
    ).write(folder / "summary.json")  # fmt: skip


def _judge(experiments: Experiments, planned: PlannedRun, digest: str, generator: np.random.Generator) -> None:
    """``scores.jsonl`` and the parts of ``summary.json`` that say what was judged."""
    from harness.judging import JudgeRequest, JudgeSpec, JudgeSummary, Score

    folder = experiments.judging(planned)
    folder.mkdir(parents=True)
    lines = [
        {"model": "m", "question_id": q, "turn": turn, "category": "math", "score": float(generator.random() < 0.4),
         "judgments": 1, "failed": {}}
        for q in range(10) for turn in (1, 2)
    ]  # fmt: skip
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = ([line["score"] for line in lines if line["turn"] == turn] for turn in (1, 2))
    average, *turns = (Score(value=float(np.mean(s)), stderr=0.1, n=len(s)) for s in (first + second, first, second))
    JudgeSummary(
        average=average, first_turn=turns[0], second_turn=turns[1], by_category={"math": average}, judged=20, failed={},
        requests=0, title="Reference grader (quickstart)", scale=(0.0, 1.0), model="m", seconds=1.0,
        request=JudgeRequest(
            bench="quickstart_long", bench_hash="b", answers={"m": digest}, protocol="reference", protocol_hash="p",
            judges=(JudgeSpec(name="reference"),),
        ),
        checkpoint="checkpoint", checkpoint_hash=digest, provenance=PROVENANCE,
    ).write(folder / "summary.json")  # fmt: skip
