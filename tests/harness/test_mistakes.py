"""Mistakes that newcomers make: each gets one message with its place and remedy, and `plan` finds what it can."""

from __future__ import annotations

import datetime
import json
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


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of all stores here, so that the generated world is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with one source."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "_cache").symlink_to(cache)
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
MODEL = RECIPE["models"][0]


def source(name: str, **part: Any) -> dict[str, Any]:
    return {"name": name, "parts": [{"adapter": "alpaca", "files": ["a.jsonl"], **part}]}


def write_checkpoints(folder: Path) -> None:
    """Write checkpoints with a fault each."""
    whole = b"\x02\0\0\0\0\0\0\0{}"
    head = json.dumps({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    cut = len(head).to_bytes(8, "little") + head + b"1234"
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for name, config, file, weights in (
        ("json", "{", "model.safetensors", whole),
        ("type", "{}", "model.safetensors", whole),
        ("pickled", {"model_type": "mixtral"}, "pytorch_model.bin", b""),
        ("cut", {"model_type": "mixtral"}, "model.safetensors", cut),
        ("unknown", {"model_type": "mixtrl"}, "model.safetensors", whole),
        ("tokens", {"model_type": "mixtral", **tiny}, "model.safetensors", whole),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        (folder / name / file).write_bytes(weights)


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
    ({"models.m.source": "/nope/checkpoint"}, "the folder /nope/checkpoint does not exist"),
    ({"models.m.source": "./nope"}, "the folder ./nope does not exist"),
    ({"models.m.source": "a b/c"}, "the folder a b/c does not exist"),
    ({"models.m.source": "package:moemix-nothing"}, "pip install moemix-nothing"),
    ({"models.m.source": "."}, "not a checkpoint: there is no config.json"),
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
    ({f"{PART}.files": ["broken.jsonl"]}, "broken.jsonl:1: "),
    ({f"{PART}.files": ["list.jsonl"]}, "no line is a JSON object"),
    ({f"{PART}.files": ["empty.jsonl"]}, "the file has no rows"),
    ({f"{PART}.files": ["table.xlsx"]}, "unknown kind of file '.xlsx'"),
    ({f"{PART}.files": ["latin.jsonl"]}, "not UTF-8 text"),
    ({PART: {"adapter": "alpaca", "hub": "not a hub id"}}, "is not a hub dataset id"),
    ({"engine": "vlm"}, "did you mean 'vllm'?"),
    ({"evaluation": {"suites": ["smol_k"]}}, "did you mean 'smol_kr'?"),
    ({"evaluation": {"suites": ["nothere.yaml"]}}, "the suite file does not exist"),
    ({"evaluation": {"limit": 0}}, "or a share between 0 and 1, not 0"),
    ({"judging": {"benches": ["mt_bnch"]}}, "did you mean 'mt_bench'?"),
    ({"judging": {"judge": "gpt-4"}}, "`judge` is `reference`, a URL, or"),
    ({"judging": {"judge": {"kind": "checkpoint", "name": "j", "source": "/nope"}}}, "the folder /nope does not exist"),
    ({"judging": {"judge": "http://localhost:1/v1"}}, "`judge_model` goes with the URL"),
    ({"judging": {"require": "qualified"}}, "needs a judge; the reference grader is a fixed rule"),
    ({"baseline": "unifrm"}, "no row is called 'unifrm'"),
    ({"launcher": {"strategy": "fsdp2"}}, "`processes` is 1"),
    ({"executor": {"kind": "slrum"}}, "unknown `kind` 'slrum'"),
    ({"tracking": ["wanb"]}, "did you mean 'wandb'?"),
    ({"name": "My Recipe"}, "`name`: does not match the pattern"),
    ({"name": "a/../../x"}, "`name`: does not match the pattern"),
    ({"name": "x" * 300}, "`name`: must have at most 100 characters"),
    ({"name": "ünïcode"}, "`name`: does not match the pattern"),
    ({"name": 3}, "`name`: expected a text, not 3"),
    ({"version": 1}, "unknown key `version`"),
    ({"data": None}, "`data`: expected a mapping of keys"),
    ({"data": {"seed": "x", "sources": [source("a")]}}, "`data.seed`: expected a whole number, not 'x'"),
    ({"data": {"sources": [source("a"), source("a")]}}, "source names must differ; repeated: a"),
    ({"data": {"sources": "a.jsonl"}}, "`data.sources.0`: expected a mapping of keys, not 'a.jsonl'"),
    ({"data.sources.a.parts": []}, "`data.sources.0.parts`: needs at least 1 item(s)"),
    ({"data.sources.a.name": "a b"}, "`data.sources.0.name`: does not match the pattern"),
    ({"data.sources.a.train_examples": 0}, "must be at least 1, not 0"),
    ({"data.sources.a.train_examples": 99}, "0 probe and 99 training examples are requested, but only 2 exist"),
    ({"data.sources.a.probe_examples": 2}, "2 probe and 1 training examples are requested, but only 2 exist"),
    ({"data.sources.a.bad_rows": "ignore"}, "unknown value 'ignore'; valid: skip, stop"),
    ({"data.sources.a.bad_rows_limit": 2}, "must be at most 1.0, not 2"),
    ({f"{PART}.data_files": ["x"]}, "`data_files` chooses files of a `hub` repository"),
    ({f"{PART}.reasoning": "hide"}, "unknown value 'hide'"),
    ({f"{PART}.options": {"select": 3}}, "`select` should be a mapping of columns to values"),
    ({f"{PART}.options": {"select": {"output": "5"}}}, "source a: no row is selected"),
    ({f"{PART}.options": "x"}, "options`: expected a mapping of keys"),
    ({f"{PART}.files": ["folder"]}, "folder is a folder, and not one that `save_to_disk` wrote"),
    ({f"{PART}.files": ["nowhere/a.jsonl"]}, "the folder nowhere is missing in"),
    ({f"{PART}.files": [3]}, "files.0`: expected a text, not 3"),
    ({f"{PART}.adapter": "syntax.py:read"}, "syntax.py: the adapter file does not run: SyntaxError"),
    ({f"{PART}.adapter": "imports.py:read"}, "ModuleNotFoundError: No module named 'nothere_at_all'"),
    ({f"{PART}.adapter": "plain.py:rea"}, "did you mean 'read'?"),
    ({f"{PART}.adapter": "plain.py:read"}, "the adapter failed with ValueError('boom')"),
    ({"held_out": [source("a")]}, "`held_out`: names of held-out sets must differ; repeated: a"),
    ({"held_out": [source("h", files=["b.jsonl"])]}, "source h: no file matches"),
    ({"held_out": [source("h", adapter="alpacca")]}, "did you mean 'alpaca'?"),
    ({"models.m.name": ""}, "`models.0.name`: must not be empty"),
    ({"models.m.source": ""}, "`models.0.source`: must not be empty"),
    ({"models.m.source": "a.jsonl"}, "a.jsonl is a file"),
    ({"models.m.source": "package:"}, "`package:` names no package"),
    ({"models.m.source": "checkpoints/json"}, "config.json:1: not valid JSON"),
    ({"models.m.source": "checkpoints/type"}, "the configuration names no `model_type`"),
    ({"models.m.source": "checkpoints/pickled"}, "pickled weights are not loaded"),
    ({"models.m.source": "checkpoints/cut"}, "the file is not whole safetensors"),
    ({"models.m.source": "checkpoints/unknown"}, "has model type `mixtrl`"),
    ({"models.m.source": "checkpoints/tokens"}, "the tokenizer cannot be loaded"),
    ({"models.m.chat_template": "vicunna"}, "did you mean 'vicuna'?"),
    ({"models.m.chat_template": "bad.jinja"}, "line 1 is not valid Jinja"),
    ({"models": [MODEL, MODEL]}, "`models`: model names must differ; repeated: m"),
    ({"models": [{"kind": "tiny", "name": "m", "architecture": "llama"}]}, "has no MoE layers"),
    ({"models": [{"kind": "tiny", "name": "m", "config": {"hidden_size": -4}}]}, "the model cannot be built"),
    ({"models": [{"kind": "tiny", "name": "m", "tokenizer": {"vocab_size": 9}}]}, "must be at least 260, not 9"),
    ({"models": [{"kind": "split", "name": "m", "source": "o/m", "partition": "clusterd"}]}, "mean 'clustered'?"),
    ({"models": [{"kind": "upcycle", "name": "m", "source": "o/m", "experts": 1}]}, "must be at least 2, not 1"),
    ({"seeds": [-1]}, "`seeds.0`: must be at least 0, not -1"),
    ({"seeds": [2**40]}, "`seeds.0`: must be less than 4294967296"),
    ({"seeds": 1.5}, "expected a whole number, not 1.5"),
    ({"training": {"learning_rate": float("inf")}}, "`training.learning_rate`: must be a finite number"),
    ({"training": {"learning_rate": float("nan")}}, "`training.learning_rate`: must be"),
    ({"training": {"weight_decay": float("inf")}}, "`training.weight_decay`: must be a finite number"),
    ({"training": {"betas": [0.9, 1.1]}}, "`training.betas.1`: must be less than 1.0, not 1.1"),
    ({"training": {"max_grad_norm": -1}}, "must be greater than 0.0, not -1"),
    ({"training": {"warmup": 1}}, "must be less than 1.0, not 1"),
    ({"training": {"steps": "1e3"}}, "expected a whole number, not '1e3'"),
    ({"training": {"lora": {"r": 0}}}, "`training.lora.r`: must be at least 1, not 0"),
    ({"training": {"lora": {"targets": ["gate"]}, "freeze": "router"}}, "which `freeze: router` keeps as it is"),
    ({"mixing": {"interval": 0}}, "`mixing.interval`: must be at least 1, not 0"),
    ({"evaluation": {"suites": ["smol_kr", "smol_kr"]}}, "suites must differ; repeated: smol_kr"),
    ({"evaluation": {"suites": ["suite.yaml"]}}, "suite.yaml:2: unknown key `colums` (did you mean 'columns'?"),
    ({"evaluation": {"suites": ["task.yaml"]}}, "3: lm-eval has no task 'hellaswagg'\n  did you mean 'hellaswag'"),
    ({"evaluation": {"suites": ["metric.yaml"]}}, "metric.yaml:3: unknown metric of the task hellaswag 'acc_nrm'"),
    ({"evaluation": {"suites": ["filter.yaml"]}}, "filter.yaml:3: unknown filter of the task gsm8k 'none'"),
    ({"evaluation": {"suites": ["folder.yaml"]}}, "broken.yaml:3: not valid YAML"),
    ({"evaluation": {"limit": 1.5}}, "or a share between 0 and 1, not 1.5"),
    ({"engine": "http://"}, "a server's address is a URL such as"),
    ({"engine": "http://host:99999/v1"}, "a server's address is a URL such as"),
    ({"engine_args": [1]}, "`engine_args`: expected a mapping of keys"),
    ({"judging": {"benches": ["nope.jsonl"]}}, "nope.jsonl: the file of questions does not exist"),
    ({"judging": {"benches": ["bench.jsonl"]}}, "bench.jsonl:1: `question_id` is invalid"),
    ({"judging": {"benches": ["empty.jsonl"]}}, "empty.jsonl: the file has no question"),
    ({"judging": {"protocol": "loose"}}, "unknown value 'loose'; valid: faithful, strict"),
    ({"judging": {"judge_temperature": -1}}, "must be at least 0.0, not -1"),
    ({"judging": {"panel": [{"name": "a", "url": "ftp://x"}]}}, "ftp://x: a server's address is a URL"),
    ({"judging": {"panel": [{"name": "a", "ur": "x"}]}}, "unknown key `judging.panel.0.ur` (did you mean 'url'?"),
    ({"judging": {"panel": 2 * [{"name": "a", "url": "http://x"}]}}, "names of a panel's judges must differ"),
    ({"comparisons": {"rows": ["dynamc"]}}, "`comparisons.rows` names 'dynamc', and the rows are"),
    ({"comparisons": {"columns": ["arc"]}}, "no column is called 'arc'"),
    ({"comparisons": {"margins": {"gsm8": 1}}}, "did you mean 'gsm8k'?"),
    ({"comparisons": {"margin": 0}}, "must be greater than 0.0, not 0"),
    ({"executor": {"kind": "local", "jbs": 1}}, "unknown key `executor.jbs` (did you mean 'jobs'?"),
    ({"executor": {"kind": "local", "jobs": 0}}, "`executor.jobs`: must be at least 1, not 0"),
    ({"launcher": {"strategy": "zero3"}}, "did you mean 'zero1'?"),
    ({"tracking": {"trackers": ["wandb"], "mode": "of"}}, "unknown value 'of'; valid: offline, online"),
    ({"strategies": ["package:Class"]}, "unknown strategy 'package:Class'"),
    ({"strategies": ["syntax.py:Mine"]}, "syntax.py: the strategy file does not run: SyntaxError"),
    ({"strategies": ["plain.py:Mine"]}, "plain.py: Mine is not a MixingStrategy"),
    ({"strategies": [3]}, "`strategies.0`: expected a mapping of keys, not 3"),
    ({"strategies": [{"label": "x"}]}, "`strategies.0.name` is missing"),
    ({"strategies": [{"name": "dynamic", "label": "x" * 300}]}, "must have at most 100 characters"),
    ({"strategies": [{"name": "dynamic", "options": {"eta": float("nan")}}]}, "eta is nan; it must be finite"),
    ({"strategies": [{"name": "static", "options": {"weights": {"b": 1}}}]}, "unknown source 'b'"),
    ({"strategies": [{"name": "static", "options": {"weights": {"a": -1}}}]}, "weight must be finite and >= 0"),
    ({"strategies": [{"name": "static", "options": {"weights": {"a": 0}}}]}, "the weights sum to 0"),
    ({"strategies": [{"name": "dynamic", "overrides": {"a.b": 1}}]}, "unknown key `a`"),
    ({"strategies": [{"name": "dynamic", "overrides": {"data.sources.b.size": 1}}]}, "no item 'b' in the list"),
    ({"strategies": ["broken.yaml"]}, "broken.yaml:3: not valid YAML"),
    ({"strategies": ["ref_loss"]}, "the source holds out no examples"),
    ({"seeds": [datetime.date(2024, 1, 5)]}, "`seeds.0`: expected a whole number, not '2024-01-05'"),
    ({"strategies": ["uniform, dynamc"]}, "unknown strategy 'uniform, dynamc'"),
    ({f"{PART}.files": ["a.jsonl", "*.jsonl"]}, "a.jsonl is matched twice by `files`"),
    ({f"{PART}.files": ["https://example.org/a.jsonl"]}, "an address is not read: download the file"),
    ({f"{PART}.files": ["~/a.jsonl"]}, "write the whole path"),
    ({f"{PART}.files": ["semicolon.csv"]}, "semicolon.csv:1: the columns are separated by ';'"),
    ({f"{PART}.files": ["utf16.csv"]}, "utf16.csv:1: not UTF-8 text"),
    ({f"{PART}.files": ["nothing.zip"]}, "unknown kind of file '.zip'"),
    ({PART: {"adapter": "messages", "files": ["asked.jsonl"]}}, "asked.jsonl:1: the row has nothing to train on"),
    ({"models.m.source": "model"}, "the folder model does not exist"),
    ({"models": [None]}, "`models.0`: expected a mapping of keys, not None"),
    ({"strategies": {"uniform": {}}}, "`strategies`: expected a list"),
    ({"strategies": ["exits.py:Mine"]}, "exits.py: the strategy file does not run: SystemExit"),
    ({"strategies": ["faulty.py:Nameless"]}, "faulty.py: Nameless has no name"),
    ({"strategies": ["faulty.py:Numbered"]}, "faulty.py: Numbered has no name"),
    ({"strategies": ["faulty.py:Lettered"]}, "has 'train_loss' as `signals`"),
    ({"strategies": ["faulty.py:Still"]}, "faulty.py: Still has no `update`"),
    ({"evaluation": "smol_kr"}, "`evaluation`: expected a mapping of keys, not 'smol_kr'"),
]  # fmt: skip

FAULTY = """
from dataclasses import dataclass
from trainers.mixing import MixingStrategy

class Base(MixingStrategy):
    def update(self, state, seen):
        return state

@dataclass(frozen=True)
class Nameless(Base): ...

@dataclass(frozen=True)
class Numbered(Base):
    name = 3

@dataclass(frozen=True)
class Lettered(Base):
    name = "lettered"
    signals = "train_loss"

@dataclass(frozen=True)
class Still(MixingStrategy):
    name = "still"
"""
SUITES = [  # each with a column that lm-eval's task does not fit
    ("task", "tasks: [hellaswagg], metric: acc", ""),
    ("metric", "tasks: hellaswag, metric: acc_nrm", ""),
    ("filter", "tasks: [gsm8k], metric: exact_match", ""),
    ("folder", "tasks: [hellaswag], metric: acc", "include: [.]\n"),
]


@pytest.mark.parametrize(("changes", "said"), KEYS, ids=[str(number) for number in range(len(KEYS))])
def test_plan_names_a_mistake_in_a_recipe_with_its_line(run: Run, here: Path, changes: dict[str, Any], said: str):
    Path("broken.jsonl").write_text(ROWS.replace("}", ""))
    Path("list.jsonl").write_text("[1]\n2\n")
    Path("empty.jsonl").touch()
    Path("table.xlsx").touch()
    Path("latin.jsonl").write_bytes('{"instruction": "é", "output": "x"}\n'.encode("latin-1"))
    Path("folder").mkdir()
    Path("syntax.py").write_text("class Mine(\n")
    Path("imports.py").write_text("import nothere_at_all\n")
    Path("plain.py").write_text("class Mine:\n    pass\ndef read(row):\n    raise ValueError('boom')\n")
    Path("bad.jinja").write_text("{% for %}")
    Path("exits.py").write_text("raise SystemExit('bye')\n")
    Path("faulty.py").write_text(FAULTY)
    Path("semicolon.csv").write_text("question;answer\nA;B\n")
    Path("utf16.csv").write_text("question,answer\nA,B\n", encoding="utf-16")
    Path("nothing.zip").write_bytes(b"PK")
    Path("asked.jsonl").write_text('{"messages": [{"role": "user", "content": "?"}]}\n')
    Path("suite.yaml").write_text("name: s\ncolums: []\n")
    for name, column, rest in SUITES:
        Path(f"{name}.yaml").write_text(f"name: s\ncolumns:\n- {{name: c, {column}}}\n{rest}")
    Path("bench.jsonl").write_text("{}\n")
    Path("broken.yaml").write_text("name: dynamic\noptions: {eta: \n")
    write_checkpoints(Path("checkpoints"))
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
    ("name: x\n\tmodels: []\n", "mine.yaml:2: not valid YAML: found character '\\t'"),
    ("a: *b\n", "mine.yaml:1: not valid YAML: found undefined alias 'b'"),
    ("a: &a [*a]\n", "mine.yaml:1: unknown key `a`"),
    ("name: x\nmodels: {<<: 3}\n", "mine.yaml:2: not valid YAML: expected a mapping or list of mappings for merging"),
    ("x: !!python/object:os.system {}\n", "mine.yaml:1: not valid YAML: could not determine a constructor"),
    ("name: x\n---\nname: y\n", "mine.yaml:2: not valid YAML: but found another document"),
    ('name: "x\n', "mine.yaml:2: not valid YAML: found unexpected end of stream"),
    ("name: 'a\0'\n", "mine.yaml: not valid YAML: unacceptable character"),
    ("seeds: 2024-13-45\n", "mine.yaml:1: `seeds.0`: expected a whole number, not '2024-13-45'"),
    ("x: !!int y\n", "mine.yaml: not valid YAML: invalid literal for int()"),
    ("x: " + 999 * "[", "mine.yaml: not valid YAML: nested too deeply"),
    ("1: 2\n", "mine.yaml:1: `1`: a key should be a text; put it in quotes"),
    ("training: {steps: 3, steps: 4}\n", "mine.yaml:1: the key `steps` is given twice"),
    ("strategies: [x\nseeds: [0]\n", "mine.yaml:2: not valid YAML"),
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
    (("plan", "quickstart", "--set", "=3"), "there is no key before `=`"),
    (("plan", "quickstart", "--set", "seeds=[0"), "the value is not valid YAML: expected ',' or ']'"),
    (("plan", "quickstart", "--set", "data.sources.chat.parts.9.adapter=x"), "no item '9' in the list\n  valid: 0"),
    (("plan", "quickstart", "--data-root", "a.jsonl"), "a.jsonl: the data root is not a folder"),
    (("plan", "folder"), "unknown recipe 'folder': it is a folder"),
    (("plan", "a.jsonl"), "a.jsonl:2: not valid YAML"),
    (("plan", "x" * 300), "the name is too long"),
    (("plan", "quickstart", "--format", "xml"), "'xml' is not one of 'text', 'json'"),
    (("plan", "quickstart", "--price", "-1"), "-1.0 is not in the range x>=0"),
    (("bench", "quickstart", "--jobs", "0"), "0 is not in the range x>=1"),
    (("bench", "quickstart", "--budget", "3"), "--budget is for --until-decided"),
    (("bench",), "Missing argument 'RECIPE'"),
    (("eval", "checkpoints/json", "--suite", "quickstart", "--out", "s"), "config.json:1: not valid JSON"),
    (("eval", "checkpoints/cut", "--suite", "quickstart", "--out", "s"), "the file is not whole safetensors"),
    (("eval", "checkpoints/pickled", "--suite", "quickstart", "--out", "s"), "pickled weights are not loaded"),
    (("eval", "folder", "--suite", "quickstart", "--out", "s"), "not a checkpoint: there is no config.json"),
    (("eval", "--request", "a.jsonl"), "a.jsonl:2: not valid JSON"),
    (("judge", "checkpoints/cut", "--bench", "quickstart", "--out", "s"), "the file is not whole safetensors"),
    (("model", "split", "checkpoints/pickled", "--out", "x"), "no file named model.safetensors"),
    (("model", "upcycle", "checkpoints/json", "--out", "x", "--experts", "1"), "1 is not in the range x>=2"),
    (("gate-load", "folder"), "there is no run.json in this folder"),
    (("table", "folder"), "folder: there is no run in this folder"),
    (("view", "folder", "--out", "v"), "folder: there is no run in this folder"),
    (("power", "folder"), "folder: there is no run in this folder"),
    (("status", "nothere"), "unknown recipe 'nothere'"),
    (("board", "build", "folder", "--out", "o"), "folder: not a board: there is no board.yaml"),
    (("board", "init", "b", "--pin", "folder"), "summary.json: the file does not exist"),
    (("data", "check", "a.jsonl"), "no suite is named"),
    (("data", "check", "a.jsonl", "--suite", "nope"), "unknown suite 'nope'"),
    (("data", "preview", "nope.jsonl"), "it is neither a built-in recipe nor a file"),
    (("data", "preview", "a.jsonl", "--adapter", "alpacca"), "did you mean 'alpaca'?"),
    (("data", "fetch", "nope"), "unknown recipe 'nope'"),
    (("data", "make", "nope", "--out", "x"), "unknown world 'nope'"),
    (("data", "make", "quickstart", "--out", "w", "--seed", "-1"), "-1 is not in the range"),
    (("simulate", "uniform", "--set", "redundancy=2"), "`redundancy`: must be at most 1.0, not 2"),
    (("simulate", "uniform", "--set", "nope=2"), "unknown key `nope`"),
    (("simulate", "uniform", "--set", "dynamic.eta=2"), "no strategy 'dynamic' is simulated"),
    (("simulate", "uniform", "uniform"), "strategies must differ"),
    (("simulate", "dynamic", "--set", "dynamic.eta=.nan"), "eta is nan; it must be finite"),
    (("simulate",), "name strategies, or give --all"),
    (("propose", "regmixx", "mine.yaml"), "did you mean 'regmix'?"),
    (("recipe", "new", "x.txt", "--data", "a.jsonl"), "a recipe is a YAML file"),
    (("recipe", "new", "new.yaml"), "no data is named"),
    (("recipe", "new", "new.yaml", "--data", "nope"), "there is no such file, and it is not a hub id"),
    (("recipe", "new", "new.yaml", "--data", "a.jsonl", "--suite", "nope"), "unknown suite 'nope'"),
    (("recipe", "new", "new.yaml", "--data", "a.jsonl", "--model", "/nope"), "there is no such folder"),
    (("plan", "quickstart", "--set", "seeds=2024-13-45"), "`seeds.0`: expected a whole number, not '2024-13-45'"),
    (("eval", "checkpoints/tokens", "--tasks", "x", "--gen-kwargs", "until=[", "--out", "o"), "until: the value is"),
    (("plan", "utf16.yaml"), "not UTF-8 text (byte 0)\n  save the file as UTF-8"),
    (("strategies", "new", "1bad"), "'1bad' is not a valid strategy name"),
    (("strategies", "new", "uniform"), "there is already a strategy called 'uniform'"),
    (("cache", "prune"), "say what to delete"),
    (("paper", "table99"), "did you mean 'table9'?"),
    (("doctor", "nope"), "unknown recipe 'nope'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), COMMANDS, ids=[" ".join(words)[:80] for words, _ in COMMANDS])
def test_a_mistake_on_the_command_line_is_one_message(run: Run, here: Path, words: tuple[str, ...], said: str):
    Path("folder").mkdir()
    Path("utf16.yaml").write_text("name: x\n", encoding="utf-16")
    write_checkpoints(Path("checkpoints"))
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    code, text = run(*words)
    assert code != 0
    assert said in text
    assert "Traceback" not in text
    assert {path: path.read_bytes() for path in before} == before, "something was lost"


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
    recipe = load_recipe("quickstart", ["strategies=uniform, dynamic", "seeds=0,1,2"])
    assert ([row.label for row in recipe.strategies], recipe.seeds) == (["uniform", "dynamic"], (0, 1, 2))
    rows = "strategies=[{name: dynamic, label: a}, {name: dynamic, label: b}]"
    recipe = load_recipe("quickstart", [rows, "strategies.b.options.eta=5"])
    assert [row.options for row in recipe.strategies] == [{}, {"eta": 5}]
    with pytest.raises(Exception, match="several items are called 'dynamic'"):
        load_recipe("quickstart", [rows, "strategies.dynamic.options.eta=5"])


def test_the_mistakes_are_more_than_eighty():
    assert len({repr(row) for row in (*KEYS, *TEXTS, *BODIES, *COMMANDS)}) >= 240
