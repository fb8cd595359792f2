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


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty folder but for packages of our names, which end every process that imports one."""
    folder = tmp_path / "empty"
    for name in PACKAGES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the package {name} of the user was imported')")
    return folder


def run(command: str, here: Path, env: dict[str, str]) -> str:
    """Run a line as a newcomer types it."""
    done = subprocess.run(
        ("bash", "-c", command), cwd=here, env=env, capture_output=True, text=True, timeout=500,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "of the user was imported" not in done.stdout + done.stderr
    assert "fatal: not a git" not in done.stderr
    return done.stdout


@pytest.mark.timeout(1800)
def test_the_page_works_as_printed_beside_packages_of_our_names(here: Path, elsewhere: dict[str, str]):
    ran = []
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE):
        if language == "python":
            (here / "make_data.py").write_text(text)
            continue
        for line in text.splitlines():
            command = line.removeprefix("$ ")
            run(command, here, elsewhere)
            ran.append(" ".join(command.split()[:2]))
    assert ran[1:4] == ["moemix recipe", "moemix plan", "moemix bench"]
    assert ran[4:] == [
        f"moemix {word}" for word in ("strategies", "simulate", "bench", "eval", "judge", "board", "submit")
    ]
    assert len(list((here / "runs" / "mine").glob("*/run.json"))) == 4
    assert list((here / "board").rglob("submission.json"))


SHORTER = {  # the README's commands of many minutes, each in its shortest form
    "bench quickstart": "--set seeds=0 --set strategies=[uniform,dynamic] --set training.steps=20"
    " --set models.tiny.pretrain.training.steps=20",
    "eval runs": "--limit 2 --suite quickstart --engine transformers",
}


@pytest.mark.timeout(1800)
def test_the_commands_of_the_readme_run_beside_packages_of_our_names(
    here: Path, elsewhere: dict[str, str], real_data: Path
):
    readme = (ROOT / "README.md").read_text()
    lines = [line for block in re.findall(r"^```console\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
             for line in block.splitlines()]  # fmt: skip
    commands = [line.partition("#")[0].removeprefix("$ ").strip() for line in lines if line.startswith("$ moemix ")]
    assert len(commands) >= 7
    for command in commands:
        if command.startswith("moemix bench smol"):
            continue  # half an hour; what it would run is planned
        typed = command.replace("CHECKPOINT", "runs/quickstart/uniform-*/checkpoint").replace(" DIR", f" {real_data}")
        short = SHORTER.get(" ".join(typed.split("/")[0].split()[1:3]), "")
        run(f"{typed} {short}", here, elsewhere)
    assert list((here / "runs" / "quickstart").glob("table.*"))
    assert list((here / "scores").glob("**/results*.json"))
