"""The versions for CUDA fit together, and the page names them. Only metadata is read: no wheel is downloaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "requirements" / "cuda.txt"
UNREACHABLE = ("Failed to fetch", "error sending request")


def versions(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.MULTILINE))


def resolve(constraints: Path, cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Resolve what `pip install '.[serve,lora]' -c CONSTRAINTS` would install on Linux x86-64 with Python 3.12."""
    if util.find_spec("uv") is None:
        pytest.skip("uv is not installed (requirements/packaging.txt)")
    # As `make cuda-constraints` does, with a cache of its own: what is downloaded can be counted.
    command = (sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", "serve", "--extra", "lora")
    target = ("--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_31", "--no-annotate", "--no-header")
    options = ("--quiet", "--constraints", constraints, "--cache-dir", cache, *words)
    environment = {"UV_HTTP_RETRIES": "1", **os.environ}
    if "PIP_INDEX_URL" in os.environ:  # uv does not read pip's settings
        environment.setdefault("UV_DEFAULT_INDEX", os.environ["PIP_INDEX_URL"])
    return subprocess.run(command + target + options, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv")


@pytest.fixture(scope="module")
def resolved(cache: Path) -> subprocess.CompletedProcess[str]:
    done = resolve(CONSTRAINTS, cache)
    if any(words in done.stderr for words in UNREACHABLE):
        pytest.skip("no package index can be reached")
    return done


def test_vllm_torch_transformers_and_lm_eval_resolve_together_for_cuda(
    resolved: subprocess.CompletedProcess[str], cache: Path
):
    assert resolved.returncode == 0, resolved.stderr
    assert versions(resolved.stdout) == versions(CONSTRAINTS.read_text()), "run `make cuda-constraints`"
    assert {"vllm", "torch", "transformers", "lm-eval", "peft"} <= versions(resolved.stdout).keys()
    assert max(path.stat().st_size for path in cache.rglob("*") if path.is_file()) < 10e6, "a wheel was downloaded"


@pytest.mark.parametrize(
    ("package", "version", "conflict"),
    [
        ("torch", "99.0", "no version of torch==99.0"),
        ("lm-eval", "0.4.12", "moemix depends on lm-eval[api]>="),
    ],
)
@pytest.mark.usefixtures("resolved")  # what is in the cache by then is enough to refuse these
def test_a_version_that_does_not_fit_is_refused(cache: Path, tmp_path: Path, package: str, version: str, conflict: str):
    changed = tmp_path / "cuda.txt"
    pins = f"^{package}==.*$"
    changed.write_text(re.sub(pins, f"{package}=={version}", CONSTRAINTS.read_text(), flags=re.MULTILINE))
    refused = resolve(changed, cache, "--offline")
    assert refused.returncode == 1
    assert conflict in refused.stderr


def test_the_page_names_the_versions():
    page, pinned = (ROOT / "docs" / "install.md").read_text(), versions(CONSTRAINTS.read_text())
    for package in ("vllm", "torch", "transformers", "lm-eval", "peft"):
        assert f"{package} {pinned[package]}" in page.replace("\n", " ")
    assert f"CUDA {'.'.join(pinned['cuda-toolkit'].split('.')[:2])}" in page
