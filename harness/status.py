"""``moemix status``: what runs, what waits and for what, what failed and why, and how long is left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Literal

import click

from harness.commands import build_plan
from harness.errors import StageFailed
from harness.execution import LocalExecutor
from harness.files import read_jsonl
from harness.options import recipe_options
from harness.plan import Job, Plan
from harness.progress import duration
from harness.records import ModelManifest, RunManifest, Stage
from harness.store import Run, Store, store_root

State = Literal["done", "running", "queued", "waiting", "interrupted", "failed", "blocked"]


@dataclass(frozen=True)
class JobStatus:
    """One job: how it stands, why, and the seconds it still needs where that can be told."""

    id: str
    title: str
    state: State
    detail: str = ""
    seconds_left: float | None = None


@click.command()
@click.argument("recipe", required=False)
@recipe_options
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(
    recipe: str | None, overrides: tuple[str, ...], store: str | None, data_root: str | None, style: str
) -> None:
    """Show the jobs of RECIPE, or every run of the store: running, waiting, failed and why, with the time left."""
    if recipe is None:
        rows = list(store_status(Store(store_root(store))))
        left = None
    else:
        plan = build_plan(recipe, overrides, store, data_root)
        rows = plan_status(plan)
        left = time_left(plan, rows)
    if style == "json":
        jobs = [row.__dict__ for row in rows]
        click.echo(json.dumps({"jobs": jobs, "seconds_left": left}, indent=1))
        return
    from tabulate import tabulate

    click.echo(tabulate([(r.state, r.title, r.detail) for r in rows], headers=("state", "job", ""), tablefmt="simple"))
    counts = Counter(row.state for row in rows)
    told = ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing has been started"
    click.echo(f"\n{told}" + (f"; about {duration(left)} left" if left else ""))


def plan_status(plan: Plan) -> list[JobStatus]:
    """How every job of a plan stands."""
    queue = _queue(plan)
    found: dict[str, JobStatus] = {}
    for job in plan.jobs:
        status = _job_status(job, queue)
        if status.state == "waiting":
            obstacle = next((o for o in job.after if found[o].state in ("failed", "blocked")), None)
            needed = [found[other].title for other in job.after if found[other].state != "done"]
            if obstacle is not None:
                status = replace(status, state="blocked", detail=f"behind: {found[obstacle].title}")
            elif needed and not status.detail:
                status = replace(status, detail=f"for: {'; '.join(needed)}")
        found[job.id] = status
    return list(found.values())


def _job_status(job: Job, queue: Mapping[str, tuple[State, str]]) -> JobStatus:
    stage = _stage(job)
    if job.done:
        seconds = _seconds(stage) if stage else None
        return JobStatus(job.id, job.title, "done", f"in {duration(seconds)}" if seconds else "", 0.0)
    state: State = "waiting"
    detail, left = "", None
    if job.id in queue:
        state, detail = queue[job.id]
    if state == "running" or _is_locked(job.folder / ".lock"):
        progress, left = _progress(job)
        state, detail = "running", "; ".join(filter(None, (progress, detail)))
    elif state != "queued" and stage is not None and stage.status == "failed":
        state, detail = "failed", stage.error or "no reason recorded"
    elif state != "queued" and stage is not None and stage.started is not None:
        state, detail = "interrupted", "goes on where it stopped"
    return JobStatus(job.id, job.title, state, detail, left)


def _stage(job: Job) -> Stage | None:
    """What the records say of a job; None before they say anything."""
    if job.kind == "model":
        path = job.folder / "model.json"
        return ModelManifest.read(path).stage if path.is_file() else None
    run = Run(job.run or job.folder)
    if not run.manifest_path.is_file():
        return None
    return run.manifest.stages.get("train" if job.kind == "train" else f"{job.kind}:{job.folder.name}")


def _seconds(stage: Stage) -> float | None:
    if stage.status != "done" or stage.started is None or stage.finished is None:
        return None
    return (datetime.fromisoformat(stage.finished) - datetime.fromisoformat(stage.started)).total_seconds()


def _progress(job: Job) -> tuple[str, float | None]:
    """How far a running job is, and the seconds it still needs: from its metrics, else from its log's last words."""
    run = Run(job.folder)
    if job.kind == "train" and run.metrics.is_file():
        lines = list(read_jsonl(run.metrics))
        if lines:
            total = run.manifest.config.training.steps
            step = int(lines[-1]["step"])
            left = (total - step) * fmean(float(line["seconds"]) for line in lines[-10:])
            return f"step {step} of {total}, loss {float(lines[-1]['loss']):.3f}, {duration(left)} left", left
    words = job.log.read_bytes()[-4000:].decode(errors="replace").splitlines() if job.log.is_file() else []
    return (words[-1].rsplit("\r", 1)[-1][:100] if words else ""), None


def _queue(plan: Plan) -> dict[str, tuple[State, str]]:
    """Job id → how it stands in Slurm's queue, where the plan was sent there."""
    from harness.slurm_queue import ACTIVE, queue_states, submitted

    ids = submitted(plan.store.root / plan.recipe.name)
    if not ids:
        return {}
    try:
        states = queue_states(ids.values())
    except StageFailed as failure:
        return {job: ("queued", f"{failure} (Slurm job {slurm})") for job, slurm in ids.items()}
    found: dict[str, tuple[State, str]] = {}
    for job, slurm in ids.items():
        state = states[slurm]
        if state.name in ACTIVE:
            running = state.name in ("RUNNING", "COMPLETING")
            limit = f", {state.left} to its limit" if running and state.left else ""
            found[job] = ("running" if running else "queued", state.in_queue + limit)
    return found


def time_left(plan: Plan, rows: list[JobStatus]) -> float | None:
    """Seconds, by how long jobs of the same kind took; None while no job of some kind has finished."""
    by_id = {job.id: job for job in plan.jobs}
    took: dict[str, list[float]] = {}
    for job in plan.jobs:
        stage = _stage(job) if job.done else None
        seconds = _seconds(stage) if stage else None
        if seconds is not None:
            took.setdefault(job.kind, []).append(seconds)
    total = 0.0
    for row in rows:
        if row.state in ("done", "failed", "blocked"):
            continue
        kind = by_id[row.id].kind
        if row.seconds_left is None and kind not in took:
            return None
        total += row.seconds_left if row.seconds_left is not None else fmean(took[kind])
    executor = plan.recipe.executor
    at_once = executor.jobs if isinstance(executor, LocalExecutor) else executor.at_once
    return total / at_once


def store_status(store: Store) -> Iterator[JobStatus]:
    """Every run that lies in the store, whatever recipe it belongs to."""
    for path in sorted(store.root.rglob("run.json")):
        manifest = RunManifest.read(path)
        stages = {name: stage.status for name, stage in manifest.stages.items()}
        failed = [f"{n}: {s.error or 'no reason recorded'}" for n, s in manifest.stages.items() if s.status == "failed"]
        open_stages = [name for name, state in stages.items() if state != "done"]
        state: State = "done" if not open_stages else "waiting"
        detail = ", ".join(f"{name} {state}" for name, state in stages.items())
        if any(_is_locked(lock) for lock in (path.parent / ".lock", *path.parent.glob("evals/*/.lock"))):
            state = "running"
        elif failed:
            state, detail = "failed", "; ".join(failed)
        elif any(status == "running" for status in stages.values()):
            state, detail = "interrupted", f"{detail} (no process works on it)"
        yield JobStatus(manifest.run_id, f"{manifest.recipe}/{manifest.run_id}", state, detail)


def _is_locked(lock: Path) -> bool:
    """Return whether a process of this machine holds a lock, without taking it. False where that cannot be seen."""
    try:
        inode, lines = lock.stat().st_ino, Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    # the device is not compared: overlay and network file systems show another one there than stat does
    return any(field.endswith(f":{inode}") for line in lines for field in line.split())
