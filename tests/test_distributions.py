"""The wheel and the source distribution hold what they should, and the index would take them."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "trainers", "evals", "leaderboards")
OTHERS = {
    "moemix.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
    "PKG-INFO",
    "setup.cfg",
    "moemix.egg-info",
}


def product() -> set[str]:
    listed = subprocess.run(("git", "ls-files", *PACKAGES, "moemix.py"), cwd=ROOT, capture_output=True, text=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_holds_every_file_of_the_product_and_nothing_else(wheel: Path):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == product()


def test_the_source_distribution_holds_what_the_wheel_is_built_from_and_nothing_else(sdist: Path):
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        texts = [archive.extractfile(member).read() for member in members if member.isfile()]
    held = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert product() <= held
    assert {name.partition("/")[0] for name in held} <= {*PACKAGES, *OTHERS}
    assert not [text for text in texts if re.search(rb"/(?:work|root|home)/\w+/", text)], "a path of one machine"
    assert {member.uname for member in members} <= {"", "root"}


@pytest.mark.parametrize(("module", "words"), [("twine", ("check", "--strict")), ("check_wheel_contents", ())])
def test_the_tools_of_the_index_find_nothing(sdist: Path, wheel: Path, module: str, words: tuple[str, ...]):
    if util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (requirements/packaging.txt)")
    files = (sdist, wheel) if module == "twine" else (wheel,)
    command = (sys.executable, "-m", module, *words, *files)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
