"""The container file: built where there is a builder, linted everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
FILE = ROOT / "Containerfile"
INSTRUCTIONS = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENTRYPOINT", "CMD", "ENV", "LABEL", "USER"}


def instructions() -> list[tuple[str, str]]:
    """Return each instruction with its arguments, continued lines joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def builder() -> str | None:
    for name in ("docker", "podman"):
        if shutil.which(name) and not subprocess.run((name, "info"), capture_output=True, timeout=60).returncode:
            return name
    return None


def test_the_container_file_is_sound():
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    assert found[0][0] == "FROM"
    assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", found[0][1]), "an image with a version"
    for name, arguments in found:
        if name == "COPY":
            *sources, _ = arguments.split()
            assert not [source for source in sources if not (ROOT / source).exists()]
        if name in ("ENTRYPOINT", "CMD"):
            assert arguments.startswith("["), "the form without a shell, which passes signals on"
        if "apt-get install" in arguments:
            assert "--no-install-recommends" in arguments
            assert "rm -rf /var/lib/apt/lists" in arguments
        if "pip install" in arguments:
            assert "--no-cache-dir" in arguments
    copied = {source.rstrip("/") for name, text in found if name == "COPY" for source in text.split()[:-1]}
    assert {"pyproject.toml", "harness", "trainers", "evals", "leaderboards", "moemix.py"} <= copied
    assert "COPY . ." not in FILE.read_text(), "nothing private is copied"


def test_the_container_installs_what_the_pages_say():
    arguments = dict(text.partition("=")[::2] for name, text in instructions() if name == "ARG")
    install, gpu, readme = ((ROOT / name).read_text() for name in ("docs/install.md", "docs/gpu.md", "README.md"))
    (index,) = re.findall(r"^\$ pip install torch --index-url (\S+)$", install, flags=re.MULTILINE)
    assert arguments["TORCH_INDEX"] == index
    builds = re.findall(r"docker build (?:--?[\w-]+[ \n]\S+\s)+\.", install + gpu + FILE.read_text())
    assert len(builds) == 4
    for build in builds:
        given = dict(re.findall(r"--build-arg\s(\w+)=(\S*)", build))
        assert given.keys() <= arguments.keys()
        assert "-f Containerfile" in build
        if given:
            assert given == {"EXTRAS": "serve,lora", "TORCH_INDEX": ""}
            assert f"pip install '.[{given['EXTRAS']}]'" in readme
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name for text in (arguments["EXTRAS"], "serve,lora") for name in text.split(",")}
    assert extras <= project["optional-dependencies"].keys()
    (python,) = [text for name, text in instructions() if name == "FROM"]
    assert SpecifierSet(project["requires-python"]).contains(re.findall(r"\d+\.\d+", python)[0])
    assert any("apt-get install" in text and "bubblewrap" in text for _, text in instructions())


def test_hadolint_finds_nothing():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(("hadolint", "--failure-threshold", "warning", FILE), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.timeout(1800)
def test_the_container_is_built_and_answers():
    name = builder()
    if name is None:
        pytest.skip("no container builder runs on this machine")
    image = next(text for instruction, text in instructions() if instruction == "FROM")
    if subprocess.run((name, "pull", image), capture_output=True).returncode:
        pytest.skip(f"the image {image} cannot be got here")
    subprocess.run((name, "build", "-f", FILE, "-t", "moemix-test", ROOT), check=True, capture_output=True)
    run = (name, "run", "--rm", "moemix-test", "--version")
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.startswith("moemix")
