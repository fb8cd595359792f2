"""Every column of every shipped suite is reached by a perfect model, and gives a constant and a guessing one their due.

The models are made up, everything else is real: local data, lm-eval's tasks, prompts, filters, metrics, the sandbox.
"""

from __future__ import annotations

import math
import random
import re
from contextlib import contextmanager

import pytest

from evals import sandbox
from evals.benchmarks import TASKS
from evals.engines.engine import Engine
from evals.runner import evaluate, request_for
from evals.suites import load_suite, suite_names
from harness.requests import EvalJobRequest
from trainers.data.world import make_world

LIMIT = {"mmlu": 6, "bbh": 12, "mbpp": 12, "humaneval": 12}  # questions per task; the others are asked as a whole
# Columns whose data no test has, and IFEval, which has a test of its own below.
ELSEWHERE = {"sciq", "piqa", "winogrande", "lambada", "openbookqa", "truthfulqa", "hellaswag", "ifeval"}
WRITTEN = ("bbh_", "gsm8k", "moemix_mbpp", "humaneval", *(f"moemix_quickstart_{n}" for n in ("words", "math", "code")))
COLUMNS = [
    (suite, column.name)
    for suite in suite_names()
    for column in load_suite(suite).columns
    if column.name not in ELSEWHERE
]


def gold(request, choices):
    """The number of the right choice."""
    doc, name = request.doc, request.task_name
    if name.startswith(("arc_", "moemix_arc_")):
        return doc["choices"]["label"].index(doc["answerKey"])
    if "mmlu" in name or "quickstart" in name:
        return doc["answer"] if "answer" in doc else doc["label"]
    return doc["label"] if "label" in doc else doc["gold"][0]


def written(request):
    """What a model that knows the answer writes, as the examples before the question do."""
    doc, name = request.doc, request.task_name
    if "bbh" in name:
        return f"{doc['target']}\n\nQ: Another question?\nA: No"
    if "gsm8k" in name:
        return f"First we count. The answer is {doc['answer'].split('####')[1].strip()}.\n\nQ: And then?"
    if name == "moemix_mbpp":
        return doc["code"].replace("\r", "") + "\nassert True\nclass Next: pass"
    if name == "moemix_mbpp_chat":
        code = doc["code"].replace("\r", "")
        return f"Here it is:\n\n```python\n{code}\n\nif __name__ == '__main__':\n    print(input())\n```\nIt works."
    if name == "humaneval":
        return doc["canonical_solution"] + "\n\ndef another(): pass"
    if name == "moemix_quickstart_code":
        called = re.match(r"assert (\w+)\(", doc["tests"][0])[1]
        table = dict(re.findall(r"\((-?\d+)\) == (-?\d+)", "\n".join(doc["tests"])))
        return f"def {called}(x):\n    return int({table}[str(x)])"
    return f"#### {doc['target']}" if name.endswith("math") else doc["target"]


def options(request):
    """The letters in the question, for a task that is answered by writing."""
    return re.findall(r"^(\([A-Z]\))", request.doc.get("input", ""), re.MULTILINE)


class MadeUpModel:
    """Answers as ``kind`` says: perfect, constant (the first choice, or ``(A)``), or guessing."""

    tokenizer_name = "none"

    def __init__(self, kind, space):
        self.kind, self.space = kind, space
        self.expected = {}  # question → its share of right answers

    def loglikelihood(self, requests, disable_tqdm=False):
        answers = []
        for request in requests:
            if request.task_name.startswith(WRITTEN):
                answers.append((-1.0, True))  # the gold answer of a task that is answered by writing
                continue
            prompt = request.args[0]
            draw = random.Random(prompt)
            siblings = [r for r in requests if r.doc_id == request.doc_id and r.task_name == request.task_name]
            right = gold(request, len(siblings))
            chosen = {"perfect": right, "constant": 0, "guess": draw.randrange(len(siblings))}[self.kind]
            chance = {"perfect": 1.0, "constant": float(right == 0), "guess": 1 / len(siblings)}[self.kind]
            self.expected[request.task_name, request.doc_id] = chance
            answers.append((0.0 if request.idx == chosen else -1.0, False))
        return answers

    def generate_until(self, requests, disable_tqdm=False):
        return [self._write(request) for request in requests]

    def _write(self, request):
        prompt, settings = request.args
        right, letters = written(request), options(request)
        text, chance = right, 1.0
        if self.kind == "constant":
            text, chance = "(A)", float(right.startswith("(A)"))
        elif self.kind == "guess":
            text = random.Random(prompt).choice(letters) if letters else "nothing"
            chance = 1 / len(letters) if letters else 0.0
        self.expected[request.task_name, request.doc_id] = chance
        for stop in settings["until"]:
            text = text.split(stop)[0]
        return self.space + text

    def apply_chat_template(self, history, add_generation_prompt=True):
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in history)

    def chat_template(self, name=False):
        return "turns"


class MadeUpEngine(Engine):
    max_length = 1 << 40

    def __init__(self, model):
        self.model = model

    def start(self):
        pass

    def describe(self):
        return {"name": "made up", "version": "1", "dtype": "none", "args": {}}

    def lm(self):
        return self.model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world") / "quickstart"
    make_world("quickstart", root, 0)
    return root


@pytest.mark.data
@pytest.mark.parametrize(
    ("kind", "space"),
    [("perfect", ""), ("perfect", " "), ("constant", " "), ("guess", "")],
    ids=["perfect", "perfect-with-space", "constant", "guessing"],
)
@pytest.mark.parametrize(("suite", "column"), COLUMNS, ids=[f"{suite}-{column}" for suite, column in COLUMNS])
def test_a_column_gives_a_model_its_due(
    suite, column, kind, space, real_data, world, checkpoint, tmp_path, monkeypatch
):
    if column in ("mbpp", "code", "humaneval") and sandbox.available():
        pytest.skip(sandbox.available())
    model = MadeUpModel(kind, space)

    @contextmanager
    def opened(*_, **__):
        yield MadeUpEngine(model)

    monkeypatch.setattr("evals.runner.open_engine", opened)
    root = world if suite == "quickstart" else real_data
    config = request_for(
        suite, tasks=(column,), limit=LIMIT.get(column), engine="transformers", dtype="float32", seed=0
    )
    job = EvalJobRequest(config=config, checkpoint=checkpoint, out=tmp_path, data_root=root, keep_answers=False)
    found = evaluate(job).columns[column]
    assert found.n >= 12
    by_task = {}
    for (task, _), chance in model.expected.items():
        by_task.setdefault(task, []).append(chance)
    expected = sum(sum(chances) / len(chances) for chances in by_task.values()) / len(by_task)
    if kind == "guess":
        spread = math.sqrt(
            sum(sum(c * (1 - c) for c in chances) / len(chances) ** 2 for chances in by_task.values())
        ) / len(by_task)
        assert abs(found.value - expected) <= 4.5 * spread
    else:
        assert found.value == pytest.approx(expected, abs=1e-9)
    if kind == "perfect":
        assert found.value == pytest.approx(1.0)


def test_every_column_is_tried_or_has_no_local_data():
    for suite in suite_names():
        for column in load_suite(suite).columns:
            local = all(task in TASKS or task.startswith("moemix_") for task in column.tasks)
            assert local == (column.name not in ELSEWHERE or column.name == "ifeval"), column.name
