"""Every column of every shipped suite is reached by a perfect model, and gives a constant and a guessing one their due.

The models are made up, everything else is real: tasks, prompts, filters, metrics, the sandbox, and data where there are
any. Benchmarks without data have a few made-up questions in the hub's columns.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from contextlib import contextmanager

import pytest
from hub_rows import write_hub_rows
from oracle_models import FOLLOWED, OracleEngine, OracleModel

from evals import sandbox
from evals.runner import evaluate, request_for
from evals.suites import load_suite, suite_names
from harness.requests import EvalJobRequest
from trainers.data.world import make_world

LIMIT = 100 if "MOEMIX_ALL_TESTS" in os.environ else 8  # questions of each task
CODE = ("mbpp", "mbpp_plus", "code", "humaneval", "humaneval_plus")
PACKAGES = {"math_500": "math_verify", "ifeval": "langdetect"}


def distinct_columns():
    """Each column that is asked and read in its own way, in the first suite that has it."""
    found = {}
    for name in suite_names():
        suite = load_suite(name)
        for column in suite.columns:
            asked = column.model_dump_json(exclude={"name", "title"})
            found.setdefault((suite.chat_template, asked), (name, column.name))
    return list(found.values())


COLUMNS = distinct_columns()


def why_not(column):
    """Why a column cannot be evaluated here; None if it can."""
    package = PACKAGES.get(column)
    if package and importlib.util.find_spec(package) is None:
        return f"{package} is not installed (the extras `ifeval` and `math`)"
    return sandbox.available() if column in CODE else None


@pytest.fixture(scope="module")
def roots(real_data, tmp_path_factory):
    """Data roots: of the real suites, and of the generated one."""
    folder = tmp_path_factory.mktemp("data")
    for entry in real_data.iterdir():
        if entry.name != "ifeval":
            (folder / entry.name).symlink_to(entry)
    (folder / "ifeval").mkdir()
    rows = map(json.loads, (real_data / "ifeval" / "input_data.jsonl").open())
    easy = [r for r in rows if len(r["instruction_id_list"]) == 1 and r["instruction_id_list"][0] in FOLLOWED]
    (folder / "ifeval" / "input_data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in easy))
    write_hub_rows(folder, max(LIMIT, 12))
    world = tmp_path_factory.mktemp("world") / "quickstart"
    make_world("quickstart", world, 0)
    return {"quickstart": world}, folder


@pytest.fixture(scope="module")
def evaluated(roots, checkpoint, tmp_path_factory):
    """Evaluates a kind of model on a suite's columns, once."""
    done = {}

    def evaluated(suite, kind):
        if (suite, kind) not in done:
            model = OracleModel(kind)

            @contextmanager
            def opened(*_, **__):
                yield OracleEngine(model)

            columns = tuple(name for where, name in COLUMNS if where == suite)
            columns = tuple(name for name in columns if why_not(name) is None)
            config = request_for(suite, tasks=columns, limit=LIMIT, engine="transformers", dtype="float32", seed=0)
            root, out = roots[0].get(suite, roots[1]), tmp_path_factory.mktemp(f"{suite}_{kind}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("evals.runner.open_engine", opened)
                patch.setenv("MOEMIX_CACHE", str(out / "cache"))
                job = EvalJobRequest(config=config, checkpoint=checkpoint, out=out, data_root=root, keep_answers=False)
                done[suite, kind] = evaluate(job), model.expected
        return done[suite, kind]

    return evaluated


@pytest.mark.data
@pytest.mark.parametrize("kind", ["perfect", "constant", "guess"])
@pytest.mark.parametrize(("suite", "column"), COLUMNS, ids=[f"{suite}-{column}" for suite, column in COLUMNS])
def test_a_column_gives_a_model_its_due(suite, column, kind, evaluated):
    if reason := why_not(column):
        pytest.skip(reason)
    summary, by_task = evaluated(suite, kind)
    found = summary.columns[column]
    assert found.n >= LIMIT
    chances = [list(by_task[task].values()) for task in found.tasks]
    expected = sum(sum(task) / len(task) for task in chances) / len(chances)
    if kind == "guess":
        variance = sum(sum(c * (1 - c) for c in task) / len(task) ** 2 for task in chances) / len(chances) ** 2
        assert abs(found.value - expected) <= 4.5 * math.sqrt(variance) + 1e-9
    else:
        same = found.n - sum(map(len, chances))  # questions that occur twice are asked once
        assert same <= 0.02 * found.n
        assert found.value == pytest.approx(expected, abs=1e-9 + same / found.n)
    if kind == "perfect":
        assert found.value == pytest.approx(1.0)
