"""Runs a plan on this machine: each job a process, a failure told and contained, an interrupt resumable."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import StageFailed
from harness.plan import Job, Plan
from harness.progress import duration
from harness.store import Run, stage

GRACE_SECONDS = 60.0  # what an interrupted job gets to write its state


@dataclass
class Outcome:
    """How the jobs of a plan ended, by id."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)


def conduct(plan: Plan, jobs: tuple[Job, ...] | None = None) -> Outcome:
    """Run jobs that are not done, in order; those behind a failed one are told as blocked, the others go on.

    Raises:
        KeyboardInterrupt: after the running job was stopped in a resumable state.
    """
    outcome = Outcome()
    jobs = plan.jobs if jobs is None else jobs
    started = time.monotonic()
    for number, job in enumerate(jobs, 1):
        obstacle = next((other for other in job.after if other in outcome.failed or other in outcome.blocked), None)
        if obstacle is not None:
            outcome.blocked[job.id] = obstacle
            _say(f"[{number}/{len(jobs)}] {job.title}: not started, {obstacle} did not finish")
            continue
        if job.done:
            outcome.done.append(job.id)
            _say(f"[{number}/{len(jobs)}] {job.title}: already done")
            continue
        _say(f"[{number}/{len(jobs)}] {job.title}")
        begun = time.monotonic()
        error = _attempt(job)
        if error is None:
            outcome.done.append(job.id)
            _say(f"[{number}/{len(jobs)}] {job.title}: done in {duration(time.monotonic() - begun)}")
        else:
            outcome.failed[job.id] = error
            _say(f"[{number}/{len(jobs)}] {job.title}: FAILED: {error}")
    _say(
        f"{len(outcome.done)} done, {len(outcome.failed)} failed, {len(outcome.blocked)} not started"
        f" in {duration(time.monotonic() - started)}"
    )
    return outcome


def _attempt(job: Job) -> str | None:
    """Run a job, and leave how it ended where the table finds it; the reason if it failed."""
    try:
        job.create()
        with stage(Run(job.run), f"eval:{job.folder.name}") if job.run else nullcontext():
            error = run_job(job)
            if error is None and not job.done:
                error = "it ended without its completion marker"
            if error is not None:
                raise StageFailed(error)
    except StageFailed as failure:
        return str(failure)
    return None


def run_only(plan: Plan, job_id: str) -> None:
    """Run one job of a plan, after what it depends on.

    Raises:
        StageFailed: a job failed.
    """
    outcome = conduct(plan, plan.with_dependencies(job_id))
    if outcome.failed:
        job, reason = next(iter(outcome.failed.items()))
        raise StageFailed(f"{job} failed: {reason}")


def run_job(job: Job) -> str | None:
    """Run one job to its end; the reason if it failed, else None. Its output goes to the terminal and to its log."""
    log = job.folder / "logs" / f"{job.kind}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if sys.stderr.isatty():
        environment["MOEMIX_PROGRESS"] = "bar"
    process = subprocess.Popen(
        (sys.executable, "-m", "harness.cli", *job.command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # a Ctrl-C reaches the job through us, once
        preexec_fn=_die_with_parent(),
    )
    try:
        tail = _copy_output(process, log)
        process.wait()
    except BaseException:
        _stop(process)
        raise
    if process.returncode == 0:
        return None
    lines = [line for line in tail if line.strip()]
    # our own error is a line of its own, perhaps with a hint below it; anything else ends with what went wrong
    said = [line.removeprefix("moemix: ") for line in lines if line.startswith("moemix: ")] or lines
    cause = f"killed by signal {-process.returncode}" if process.returncode < 0 else f"exit {process.returncode}"
    return f"{said[-1] if said else cause} (log: {log})"


def _copy_output(process: subprocess.Popen[bytes], log: Path) -> deque[str]:
    """Pass a job's output on as it comes, and keep its last lines."""
    tail: deque[str] = deque(maxlen=20)
    pending = b""
    assert process.stdout is not None
    with open(log, "ab") as file:
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            file.write(chunk)
            file.flush()
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()
            *lines, pending = (pending + chunk).split(b"\n")
            tail.extend(line.decode(errors="replace").rsplit("\r", 1)[-1] for line in lines)
    tail.append(pending.decode(errors="replace"))
    return tail


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a job to stop, wait while it writes its state, then insist; its own children go with it."""
    for request, patience in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGTERM, 10.0), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, request)
            process.wait(timeout=patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _die_with_parent() -> Callable[[], None] | None:
    """Linux: a job does not outlive a conductor that was killed, so no stray process holds a run."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    set_parent_death_signal = 1
    return lambda: libc.prctl(set_parent_death_signal, signal.SIGTERM)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
