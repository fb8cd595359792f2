"""The Python interface: the page that shows it works as it is printed, and a class of a script becomes a strategy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import moemix
from harness.errors import MoemixError
from trainers.mixing.contract import check_strategy

ROOT = Path(__file__).parents[1]
FEWER = {'"steps": 40': '"steps": 8', '"limit": 40': '"limit": 8', 'training.steps": 100': 'training.steps": 10'}
SCRIPT = '''
import numpy as np
from dataclasses import dataclass, field
from trainers.mixing import MixingStrategy as Base, MixtureState
import moemix

SHARES = (0.5, 0.25)

def even(count):
    return np.full(count, SHARES[0] * 2 / count)

@dataclass(frozen=True)
class Mine(Base):
    """Keep the weights even."""
    name = "mine"
    signals = frozenset()
    def init(self, sources):
        return MixtureState(even(len(sources.names)))
    def update(self, state, seen):
        return state

print(moemix.register(Mine, store="runs"))
'''


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(code)
    return subprocess.run((sys.executable, "script.py"), cwd=folder, capture_output=True, text=True)


def test_the_page_on_python_works_as_it_is_printed(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), flags=re.DOTALL)
    code = "\n".join(blocks)
    if "MOEMIX_ALL_TESTS" not in os.environ:  # the same code, with fewer steps and questions
        for many, few in FEWER.items():
            assert code.count(many) == 1
            code = code.replace(many, few)
    process = run(code, tmp_path)
    assert process.returncode == 0, process.stderr
    assert "hardest first" in process.stdout
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert {path.name.split("-s0-")[0] for path in (tmp_path / "runs" / "quickstart").glob("*-s0-*")} == {
        "uniform",
        "hardest first",
    }


def test_a_class_of_a_script_becomes_a_strategy_with_everything_that_it_uses(tmp_path):
    process = run(SCRIPT, tmp_path)
    assert process.returncode == 0, process.stderr
    name = process.stdout.strip()
    check_strategy(moemix.load_strategy(name))
    text = Path(name.rpartition(":")[0]).read_text()
    assert "import numpy as np" in text
    assert "SHARES = (0.5, 0.25)" in text
    assert "moemix" not in text  # the script is not run again
    assert run(SCRIPT, tmp_path).stdout.strip() == name
    assert run(SCRIPT.replace("0.25)", "0.3)"), tmp_path).stdout.strip() != name


def test_a_class_that_uses_what_cannot_be_written_down_is_refused(tmp_path):
    process = run(SCRIPT.replace("SHARES = (0.5, 0.25)", "SHARES = np.ones(2)"), tmp_path)
    assert "the class uses 'SHARES', a value that cannot be written as source code" in process.stderr


def test_changes_of_a_recipe_reach_into_mappings_and_lists():
    recipe = moemix.recipe("quickstart", training={"steps": 7}, seeds=[3], **{"models.tiny.config.hidden_size": 64})
    plain = moemix.recipe("quickstart")
    assert (recipe.training.steps, recipe.training.warmup) == (7, plain.training.warmup)
    assert recipe.seeds == (3,)
    assert recipe.models[0].config == {**plain.models[0].config, "hidden_size": 64}
    assert moemix.recipe(recipe.model_dump(mode="json")) == recipe
    with pytest.raises(MoemixError, match=r"unknown key `training\.step` \(did you mean 'steps'"):
        moemix.recipe("quickstart", training={"step": 7})


def test_a_setting_of_the_judge_that_does_not_exist_is_named_with_its_neighbour(tmp_path):
    with pytest.raises(MoemixError, match=r"did you mean 'repeats'"):
        moemix.judge(None, "quickstart", tmp_path, repeat=3)


def test_importing_moemix_imports_nothing_heavy_and_no_other_module_imports_it():
    code = "import sys, moemix; sys.exit(bool({'numpy', 'pydantic', 'torch', 'click', 'pandas'} & sys.modules.keys()))"
    assert subprocess.run((sys.executable, "-c", code)).returncode == 0
    areas = ("harness", "trainers", "evals", "leaderboards")
    for path in (file for area in areas for file in (ROOT / area).rglob("*.py")):
        assert not re.search(r"^\s*(import|from) moemix\b", path.read_text(), flags=re.MULTILINE), path
