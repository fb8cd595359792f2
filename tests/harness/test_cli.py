"""The command line answers quickly and in words."""

import os
import subprocess
import sys

import pytest


def moemix(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((sys.executable, "-m", "harness.cli", *arguments), capture_output=True, text=True)


def test_help_loads_no_stage_and_no_heavy_package():
    code = (
        "import sys\nfrom harness.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'numpy', 'pydantic', 'trainers', 'evals'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    process = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_the_plan_of_a_new_recipe_imports_no_model_library(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"instruction": "Add 1 and 2.", "output": "3"}\n' * 40)
    recipe = str(tmp_path / "mine.yaml")
    code = (
        "import sys\nfrom harness.cli import main\n"
        f"for words in (['recipe', 'new', {recipe!r}, '--data', {str(tmp_path / 'a.jsonl')!r}, '--model', 'tiny'],\n"
        f"              ['plan', {recipe!r}, '--store', {str(tmp_path / 'runs')!r}]):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert not end.code\n"
        "sys.exit(', '.join({'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules)) or 0)"
    )
    process = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_help_answers_in_half_a_second():
    def seconds() -> float:  # of processor time, so that a busy machine changes nothing
        begun = os.times()
        assert moemix("--help").returncode == 0
        ended = os.times()
        return ended.children_user + ended.children_system - begun.children_user - begun.children_system

    assert min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("benhc", "quickstart"), "did you mean 'bench'"),
        (("plan", "quikstart"), "did you mean 'quickstart'"),
        (("plan", "quickstart", "--set", "trainin.steps=1"), "did you mean 'training'"),
        (("plan", "quickstart", "--data-root", "/nonexistent"), "not a folder"),
    ],
)
def test_a_mistake_gets_a_sentence_and_a_non_zero_exit(arguments, said):
    process = moemix(*arguments)
    assert process.returncode == 2
    assert said in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    "command", ["bench", "plan", "train", "eval", "table", "strategies", "recipes", "suites", "doctor"]
)
def test_every_command_explains_itself(command):
    process = moemix(command, "--help")
    assert process.returncode == 0, process.stderr
    assert "Usage: moemix " + command in process.stdout
