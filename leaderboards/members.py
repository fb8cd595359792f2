"""Group runs into rows: the seeds of one strategy on one model, each with its evaluation or why it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from harness.errors import MoemixError
from harness.files import hash_value
from harness.records import EvalSummary, RunConfig, RunManifest
from harness.store import Run
from leaderboards.judged import with_judging
from leaderboards.measures import continuous_forms, with_held_out
from leaderboards.scores import Evaluation
from leaderboards.table import Member, Row

View = Literal["scores", "scores and loss", "held-out losses", "continuous forms"]
"""What of a run stands in a table: its suite's columns, those beside the mean held-out loss, or other measures."""


def rows_by_model(members: Sequence[Member], *, checkpoints: bool = False) -> dict[str, list[Row]]:
    """Group runs that differ only in their seed: model id → its rows, both in the order of the runs, seeds ascending.

    Two configurations with one strategy label become two rows, whose labels name the settings that differ. With
    ``checkpoints``, every run is a row of its own.

    Raises:
        MoemixError: two folders hold the same run.
    """
    found: dict[tuple[str, str, str], dict[int, Member]] = {}
    for member in members:
        config = member.config
        seeds = found.setdefault((config.model_id, config.strategy.label, hash_value(_identity(config))), {})
        other = seeds.setdefault(config.seed, member).run
        if other.folder.resolve() != member.run.folder.resolve():
            raise MoemixError(
                f"the same run as {other.folder}", where=str(member.run.folder), hint="give one of the two"
            )
    models: dict[str, list[Row]] = {}
    for (model_id, strategy, identity), seeds in found.items():
        rivals = [
            next(iter(others.values())).config
            for (model, label, other), others in found.items()
            if (model, label) == (model_id, strategy) and other != identity
        ]
        ordered = tuple(seeds[seed] for seed in sorted(seeds))
        label = f"{strategy} ({_told_apart(ordered[0].config, rivals)})" if rivals else strategy
        if checkpoints:
            named = [(f"{label} · seed {one.seed}" if len(ordered) > 1 else label, one) for one in ordered]
            models.setdefault(model_id, []).extend(Row(name, name, (one,), checkpoint=True) for name, one in named)
        else:
            models.setdefault(model_id, []).append(Row(label, strategy, ordered))
    return models


def open_member(
    run: Run,
    eval_folders: Mapping[str, Path],
    planned: Mapping[Path, RunConfig],
    judgings: Mapping[str, Mapping[str, Path]],
    view: View = "scores",
) -> Member:
    """Read a run's manifest and, if they are finished, its evaluation and judgings, or other measures."""
    if run.folder in planned and not run.manifest_path.is_file():
        return Member(run, planned[run.folder], None, problem="has not run yet")
    manifest = run.manifest
    member = Member(run, manifest.config, manifest)
    folder = eval_folders.get(manifest.run_id)
    problem = _unfinished(manifest, folder)
    if problem is not None or folder is None:
        return replace(member, problem=problem)
    evaluation = Evaluation.open(folder)
    if manifest.checkpoint_hash and evaluation.summary.checkpoint_hash != manifest.checkpoint_hash:
        return replace(member, problem=f"evals/{folder.name} is of another checkpoint; evaluate it again")
    if view == "continuous forms":
        forms = continuous_forms(evaluation)
        return replace(member, evaluation=forms, problem=None if forms else "has no continuous forms of its columns")
    if view != "scores":
        evaluation = with_held_out(evaluation, run, by_set=view == "held-out losses")
    remarks: list[str] = []
    for folders in judgings.values():
        judged = folders.get(manifest.run_id)
        if judged is not None and (judged / "summary.json").is_file():
            evaluation, said = with_judging(evaluation, judged)
            remarks += said
    return replace(member, evaluation=evaluation, remarks=tuple(remarks))


def conditions(summary: EvalSummary) -> dict[str, str]:
    """Return the conditions that must agree before two evaluations can be compared."""
    request, engine = summary.request, summary.engine
    args = engine.get("args")  # a server's address and the name it gives the checkpoint do not matter
    arguments = args if isinstance(args, dict) else {}
    found = {
        "suite": f"{request.suite} ({request.suite_hash[:12]})",
        "tasks": ", ".join(request.tasks) or "all",
        "questions per task": str(request.limit or "all"),
        "engine": f"{engine.get('name', request.engine)} {engine.get('version') or ''}".strip(),
        "precision": str(engine.get("dtype", request.dtype)),
        "engine arguments": ", ".join(f"{k}={v}" for k, v in sorted(arguments.items()) if k not in ("url", "model")),
        "evaluation seed": str(request.seed),
    }
    for result in summary.results:
        if result.value is not None:
            found[result.task] = f"version {result.task_version}, {result.shots}-shot"
            found[f"prompts of {result.task}"] = result.prompt_hash[:12]
    return found


def unlike(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return the conditions that differ, in words; empty if all agree."""
    texts = [f"{key}: {here[key]}, not {there[key]}" for key in here if key in there and here[key] != there[key]]
    return "; ".join(texts[:3]) + (f"; and {len(texts) - 3} more" if len(texts) > 3 else "")


def _unfinished(manifest: RunManifest, folder: Path | None) -> str | None:
    """Return why there is no evaluation to read; None if there is one."""
    train = manifest.stages["train"]
    if train.status != "done":
        return _state("training", train.status, train.error)
    if folder is not None and (folder / "summary.json").is_file():
        return None
    stage = manifest.stages.get(f"eval:{folder.name}") if folder is not None else None
    return _state("evaluation", stage.status, stage.error) if stage else "not evaluated on this suite"


def _state(what: str, status: str, error: str | None) -> str:
    if status == "failed":
        return f"{what} failed: {error or 'no reason recorded'}"
    return f"{what} has not finished" if status == "running" else f"{what} has not run yet"


def _identity(config: RunConfig) -> dict[str, object]:
    """Return a run's configuration without what its seed changes."""
    return config.model_dump(mode="json", exclude={"seed", "reference"})


def _told_apart(config: RunConfig, rivals: Sequence[RunConfig]) -> str:
    """Return the settings in which a configuration differs from others of the same label."""
    here, others = _leaves(_identity(config)), [_leaves(_identity(rival)) for rival in rivals]
    texts = [f"{key}={here[key]}" for key in here if any(here[key] != other.get(key) for other in others)]
    return ", ".join(texts if len(texts) <= 2 else [*texts[:2], config.id.rsplit("-", 1)[-1]])


def _leaves(tree: object, path: str = "") -> dict[str, object]:
    if isinstance(tree, dict) and tree:
        return {k: v for key, value in tree.items() for k, v in _leaves(value, f"{path}.{key}".lstrip(".")).items()}
    return {path: tree}
