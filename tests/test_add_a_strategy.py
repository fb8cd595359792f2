"""The page "Add a strategy in five minutes, and a signal in ten" works as printed, from an outside package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
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
                ("bash", "-c", command), cwd=folder, env=elsewhere, capture_output=True, text=True, timeout=300
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
    code = "from importlib import metadata; print(metadata.entry_points(group='moemix.strategies').names)"
    here = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert "steepest_first" not in here.stdout, "it was installed where the tests run"
