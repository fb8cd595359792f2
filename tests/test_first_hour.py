"""The page "The first hour" works as printed: from an empty folder, with a wheel, beside packages of our names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "first-hour.md").read_text()
PACKAGES = ("harness", "trainers", "evals", "leaderboards")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the project, so that building leaves nothing in it."""
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    files = subprocess.run(("git", "ls-files", "-co", "--exclude-standard"), cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture
def elsewhere(wheel: Path, tmp_path: Path) -> dict[str, str]:
    """An environment with the wheel and the dependencies that are installed here."""
    made = tmp_path / "environment"
    venv.create(made, with_pip=False, symlinks=True)
    packages = next(made.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(packages)
    seen = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    seen += [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    (packages / "outside.pth").write_text("\n".join(dict.fromkeys(seen)) + "\n")
    script = made / "bin" / "moemix"
    script.write_text(f"#!{made}/bin/python\nfrom harness.cli import main\nmain()\n")
    script.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHONPATH", "PYTHONSAFE", "MOEMIX"))}
    cache = {"MOEMIX_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**kept, **cache, "PATH": f"{made}/bin:{os.environ['PATH']}"}


def test_the_wheel_has_every_file_that_the_project_reads(wheel: Path):
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(("git", "ls-files", *PACKAGES, "moemix.py"), cwd=ROOT, capture_output=True, text=True)
    assert not [name for name in listed.stdout.splitlines() if name not in held and (ROOT / name).is_file()]
    assert not [
        name for name in held if name.split("/")[0] not in (*PACKAGES, "moemix.py") and ".dist-info/" not in name
    ]


@pytest.mark.timeout(1800)
def test_the_page_works_as_printed_beside_packages_of_our_names(tmp_path: Path, elsewhere: dict[str, str]):
    here = tmp_path / "empty"
    here.mkdir()
    for name in PACKAGES:
        (here / name).mkdir()
        (here / name / "__init__.py").write_text(f"raise SystemExit('the package {name} of the user was imported')")
    ran = []
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE):
        if language == "python":
            (here / "make_data.py").write_text(text)
            continue
        for line in text.splitlines():
            command = line.removeprefix("$ ")
            done = subprocess.run(
                ("bash", "-c", command), cwd=here, env=elsewhere, capture_output=True, text=True, timeout=500,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert "of the user was imported" not in done.stdout + done.stderr
            assert "fatal: not a git" not in done.stderr
            ran.append(" ".join(command.split()[:2]))
    assert ran[1:4] == ["moemix recipe", "moemix plan", "moemix bench"]
    assert ran[4:] == [
        f"moemix {word}" for word in ("strategies", "simulate", "bench", "eval", "judge", "board", "submit")
    ]
    assert len(list((here / "runs" / "mine").glob("*/run.json"))) == 4
    assert list((here / "board").rglob("submission.json"))
