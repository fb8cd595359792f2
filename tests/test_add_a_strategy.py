"""The page "Add a strategy in five minutes, and a signal in ten" works as printed, from an outside package."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add-a-strategy.md").read_text()
FILES = {
    "python": ("steepest_first.py", "test_steepest_first.py", "undecided_first.py"),
    "toml": ("pyproject.toml", "pyproject.toml"),
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """An environment of its own that sees what is installed here, so that installing into it leaves no trace."""
    made = tmp_path / "environment"
    venv.create(made, with_pip=False, symlinks=True)
    packages = next(made.glob("lib/python*/site-packages"))
    seen = [str(ROOT), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    (packages / "outside.pth").write_text("\n".join(dict.fromkeys(seen)) + "\n")
    for name, module in {"moemix": "harness.cli", "pytest": "pytest", "pip": "pip"}.items():
        script = made / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {made}/bin/python -m {module} "$@"\n')
        script.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHONPATH", "MOEMIX"))}
    # the new environment's interpreter finds the project by its .pth, so nothing else may come before what is installed
    return {**kept, "PATH": f"{made}/bin:{os.environ['PATH']}", "MOEMIX_STORE": str(tmp_path / "store")}


def blocks(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: (language, text)."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


SHORT = ("training.steps=6", "mixing.interval=2", "models.tiny.pretrain.training.steps=2")
TRAIN = ("moemix", "train", "quickstart", "--strategy", "undecided_first", *(w for s in SHORT for w in ("--set", s)))


def goes_on_to_the_same_bits(tmp_path: Path, environment: dict[str, str]) -> None:
    """Interrupt a training with the outside strategy and signal, and compare what it becomes with that of the page."""
    other = {**environment, "MOEMIX_STORE": str(tmp_path / "stopped")}
    command = (*TRAIN, "--set", "training.save_every=1")
    with subprocess.Popen(
        command, env=other, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as one:
        deadline = time.monotonic() + 600
        while not list((tmp_path / "stopped").glob("quickstart/undecided_first*/state/step-*1/manifest.json")):
            assert one.poll() is None, one.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(one.pid, signal.SIGINT)
        one.communicate()
    (stopped,) = (tmp_path / "stopped").glob("quickstart/undecided_first*")
    assert not (stopped / "checkpoint").exists()
    subprocess.run(command, env=other, check=True, capture_output=True, timeout=600)
    (whole,) = (tmp_path / "store").glob("quickstart/undecided_first*")
    weights = Path("checkpoint") / "model.safetensors"
    assert (stopped / weights).read_bytes() == (whole / weights).read_bytes()
    one, two = (
        [json.loads(line) for line in (run / "mixture.jsonl").read_text().splitlines()] for run in (stopped, whole)
    )
    for line in (*one, *two):
        line.pop("cost")
    assert one == two


def stands_in_a_table(tmp_path: Path, environment: dict[str, str]) -> None:
    plain = ("evaluation.suites=[]", "judging.benches=[]", "seeds=[0]", "strategies=[uniform, undecided_first]")
    settings = [word for setting in (*SHORT, *plain) for word in ("--set", setting)]
    done = subprocess.run(
        ("moemix", "bench", "quickstart", *settings), env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert any(line.strip().startswith("undecided_first") for line in done.stdout.splitlines()), done.stdout


def a_broken_one_is_named(folder: Path, environment: dict[str, str]) -> None:
    """Install a strategy and a signal that cannot be loaded beside those that can."""
    project = folder / "pyproject.toml"
    text = project.read_text().replace(
        '[project.entry-points."moemix.signals"]',
        'torn = "undecided_first:Gone"\n\n[project.entry-points."moemix.signals"]\nlost = "no_such_module:Lost"',
    )
    project.write_text(text.replace("0.2.0", "0.3.0"))
    install = ("pip", "install", "--no-deps", "--no-build-isolation", "--editable", ".")
    subprocess.run(install, cwd=folder, env=environment, check=True, capture_output=True, timeout=600)
    for command in (
        ("moemix", "strategies", "--format", "markdown"),
        ("moemix", "simulate", "--all", "--repeats", "1", "--steps", "100", "--out", str(folder / "all")),
    ):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "undecided_first" in done.stdout
        assert "dynamic" in done.stdout
        if "strategies" in command:
            assert "moemix.strategies:torn" in done.stderr
            assert "moemix.signals:lost" in done.stderr


def test_the_page_works_as_printed(tmp_path: Path, elsewhere: dict[str, str]):
    waiting = {language: list(names) for language, names in FILES.items()}
    folder, ran, said = tmp_path, [], ""
    for language, text in blocks(PAGE):
        if language != "console":
            name = waiting[language].pop(0)
            before = PAGE[: PAGE.index(text)]
            assert f"`{name}`" in before[before.rfind("```\n") :], f"the text before the block does not name {name}"
            (folder / name).write_text(text)
            continue
        for line in text.splitlines():
            command = line.removeprefix("$ ")
            assert command != line, f"not a command: {line}"
            if command.startswith("cd "):
                folder = folder / command.removeprefix("cd ")
                continue
            done = subprocess.run(
                ("bash", "-c", command), cwd=folder, env=elsewhere, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            ran.append(command.split()[0])
            said += done.stdout
    assert not any(waiting.values())
    first, second = ["moemix", "pytest", "pytest", "moemix", "pip", "moemix", "moemix"], ["pip", "moemix", "python"]
    assert ran == [*first, *second, "moemix", "moemix", "moemix"]
    assert said.count("2 passed") == 2
    assert "Weight moves to sources" in said  # its row in the listing
    assert "regret" in said
    assert (folder / "simulation" / "simulation.png").is_file()
    runs = {}
    for run in (tmp_path / "store").glob("quickstart/*/run.json"):
        manifest = json.loads(run.read_text())
        assert manifest["config"]["strategy_code"], "an edited plug-in must be another run"
        updates = [json.loads(line) for line in run.with_name("mixture.jsonl").read_text().splitlines()]
        assert [update["step"] for update in updates] == [0, 2, 4]
        assert len(set(updates[-1]["after"])) > 1, "the strategy moved no weight"
        runs[manifest["config"]["strategy"]["name"]] = updates
    assert runs.keys() == {"steepest_first", "undecided_first"}
    assert all(0 < margin < 1 for margin in runs["undecided_first"][1]["observation"]["router_margin"])
    if "MOEMIX_ALL_TESTS" in os.environ:  # minutes more, in the same environment
        goes_on_to_the_same_bits(tmp_path, elsewhere)
        stands_in_a_table(tmp_path, elsewhere)
        a_broken_one_is_named(folder, elsewhere)
    code = "from importlib import metadata; print(metadata.entry_points(group='moemix.strategies').names)"
    here = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert "steepest_first" not in here.stdout, "it was installed where the tests run"
