"""``moemix status``: which jobs run, wait, failed and why, and how much time is left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

import click

from harness.commands import build_plan
from harness.errors import StageError
from harness.execution import LocalExecutor
from harness.files import read_jsonl
from harness.grid import Grid, terminal_table
from harness.jobs import Job, Plan
from harness.options import format_option, recipe_options
from harness.progress import duration
from harness.records import ModelManifest, RunManifest, Stage
from harness.store import Run, Store, store_root

State = Literal["done", "running", "queued", "waiting", "interrupted", "failed", "blocked"]


@dataclass(frozen=True)
class JobStatus:
    """The state of one job, the reason for it, and the seconds that it still needs where that is known."""

    id: str
    title: str
    state: State
    detail: str = ""
    seconds_left: float | None = None


@click.command()
@click.argument("recipe", required=False)
@recipe_options
@format_option
def status(
    recipe: str | None, overrides: tuple[str, ...], store: str | None, data_root: str | None, style: str
) -> None:
    """Show the jobs of RECIPE, or every run of the store: running, waiting, failed and why, with the time left."""
    left = None
    if recipe is None:
        rows = list(store_status(Store(store_root(store))))
    else:
        plan = build_plan(recipe, overrides, store, data_root)
        rows = plan_status(plan)
        left = time_left(plan, rows)
    if style == "json":
        click.echo(json.dumps({"jobs": [row.__dict__ for row in rows], "seconds_left": left}, indent=1))
        return
    click.echo(terminal_table(Grid(("state", "job", ""), [(row.state, row.title, row.detail) for row in rows])))
    counts = [f"{count} {state}" for state, count in Counter(row.state for row in rows).items()]
    summary = ", ".join(counts) or "nothing has been started"
    click.echo(f"\n{summary}" + (f"; about {duration(left)} left" if left else ""))


def plan_status(plan: Plan) -> list[JobStatus]:
    """Return the state of every job of a plan."""
    queue = _queue(plan)
    rows: dict[str, JobStatus] = {}
    for job in plan.jobs:
        status = _job_status(job, queue)
        if status.state == "waiting":
            failed = next((rows[o] for o in job.after if rows[o].state in ("failed", "blocked")), None)
            open_jobs = [rows[other].title for other in job.after if rows[other].state != "done"]
            if failed is not None:
                status = replace(status, state="blocked", detail=f"behind: {failed.title}")
            elif open_jobs and not status.detail:
                status = replace(status, detail=f"for: {'; '.join(open_jobs)}")
        rows[job.id] = status
    return list(rows.values())


def _job_status(job: Job, queue: Mapping[str, tuple[State, str]]) -> JobStatus:
    stage = _stage(job)
    if job.done:
        seconds = stage.seconds if stage else None
        return JobStatus(job.id, job.title, "done", f"in {duration(seconds)}" if seconds else "", 0.0)
    state, detail = queue.get(job.id, ("waiting", ""))
    left = None
    if state == "running" or _is_locked(job.folder / ".lock"):
        progress, left = _progress(job)
        state, detail = "running", "; ".join(filter(None, (progress, detail)))
    elif state != "queued" and stage is not None and stage.status == "failed":
        state, detail = "failed", stage.error or "no reason recorded"
    elif state != "queued" and stage is not None and stage.started is not None:
        state, detail = "interrupted", "goes on where it stopped"
    return JobStatus(job.id, job.title, state, detail, left)


def _stage(job: Job) -> Stage | None:
    """Return the recorded stage of a job; None if nothing is recorded yet."""
    if job.kind == "model":
        path = job.folder / "model.json"
        return ModelManifest.read(path).stage if path.is_file() else None
    run = Run(job.run or job.folder)
    if not run.manifest_path.is_file():
        return None
    return run.manifest.stages.get("train" if job.kind == "train" else f"{job.kind}:{job.folder.name}")


def _progress(job: Job) -> tuple[str, float | None]:
    """Return how far a running job is, and the seconds it needs: from its metrics, or else its log's last line."""
    run = Run(job.folder)
    lines = list(read_jsonl(run.metrics)) if job.kind == "train" and run.metrics.is_file() else []
    if lines:
        total, step = run.manifest.config.training.steps, int(lines[-1]["step"])
        left = (total - step) * fmean(float(line["seconds"]) for line in lines[-10:])
        return f"step {step} of {total}, loss {float(lines[-1]['loss']):.3f}, {duration(left)} left", left
    words = job.log.read_bytes()[-4000:].decode(errors="replace").splitlines() if job.log.is_file() else []
    return (words[-1].rsplit("\r", 1)[-1][:100] if words else ""), None


def _queue(plan: Plan) -> dict[str, tuple[State, str]]:
    """Return job id → its state in Slurm's queue, for a plan that was sent there."""
    from harness.slurm_queue import ACTIVE, queue_states, submitted

    ids = submitted(plan.store.root / plan.recipe.name)
    try:
        states = queue_states(ids.values())
    except StageError as error:
        return {job: ("queued", f"{error} (Slurm job {slurm})") for job, slurm in ids.items()}
    queue: dict[str, tuple[State, str]] = {}
    for job, slurm in ids.items():
        state = states[slurm]
        if state.name in ACTIVE:
            running = state.name in ("RUNNING", "COMPLETING")
            limit = f", {state.left} to its limit" if running and state.left else ""
            queue[job] = ("running" if running else "queued", state.in_queue + limit)
    return queue


def time_left(plan: Plan, rows: list[JobStatus]) -> float | None:
    """Estimate the seconds left from finished jobs of the same kind; None while a kind has no finished job."""
    by_id = {job.id: job for job in plan.jobs}
    durations: dict[str, list[float]] = {}
    for job in plan.jobs:
        if job.done and (stage := _stage(job)) and (seconds := stage.seconds) is not None:
            durations.setdefault(job.kind, []).append(seconds)
    total = 0.0
    for row in rows:
        if row.state in ("done", "failed", "blocked"):
            continue
        finished = durations.get(by_id[row.id].kind)
        if row.seconds_left is None and not finished:
            return None
        total += fmean(finished or ()) if row.seconds_left is None else row.seconds_left
    executor = plan.executor
    return total / ((executor.jobs or 1) if isinstance(executor, LocalExecutor) else executor.at_once)


def store_status(store: Store) -> Iterator[JobStatus]:
    """Yield the state of every run in the store, whatever recipe it belongs to."""
    for path in sorted(store.root.rglob("run.json")):
        manifest = RunManifest.read(path)
        stages = manifest.stages
        failed = [f"{n}: {s.error or 'no reason recorded'}" for n, s in stages.items() if s.status == "failed"]
        detail = ", ".join(f"{name} {stage.status}" for name, stage in stages.items())
        state: State = "done" if all(stage.status == "done" for stage in stages.values()) else "waiting"
        if any(_is_locked(lock) for lock in (path.parent / ".lock", *path.parent.glob("evals/*/.lock"))):
            state = "running"
        elif failed:
            state, detail = "failed", "; ".join(failed)
        elif any(stage.status == "running" for stage in stages.values()):
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
