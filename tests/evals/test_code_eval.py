"""Stock tasks that run programs give published solutions their due, in the sandbox, test by test."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from lm_eval.api.instance import Instance
from oracle_models import written

from evals import sandbox
from evals.code_eval import Program, ProgramRunner, SandboxedCodeEval, pass_at_k, run_programs_ahead, single_tests
from evals.loading import load_tasks
from evals.suites import Suite, load_suite

pytestmark = pytest.mark.skipif(sandbox.available() is not None, reason=f"no sandbox here: {sandbox.available()}")


STOCK = {"name": "humaneval", "tasks": ["humaneval"], "metric": "pass@1", "filter": "create_test"}
SUITE = Suite.model_validate(
    {"name": "code", "columns": [STOCK, *(c for c in load_suite("paper_kr").columns if c.name == "mbpp")]}
)


@pytest.fixture(scope="module")
def loaded(real_data):
    return load_tasks(SUITE, "paper_kr", only=(), limit=None, root=real_data)


def count(reference):
    return sum(1 if isinstance(test, str) else len(test) for test in single_tests(reference))


def scores(task, docs, answers, metric):
    with ThreadPoolExecutor(2) as pool:
        return list(
            pool.map(lambda pair: task.process_results(pair[0], [pair[1]])[metric], zip(docs, answers, strict=True))
        )


@pytest.mark.data
def test_published_solutions_of_humaneval_all_pass(loaded):
    task = loaded.tasks["humaneval"]
    docs = list(task.eval_docs)
    programs = [[doc["prompt"] + doc["canonical_solution"]] for doc in docs]
    assert scores(task, docs, programs, "pass@1") == [1.0] * 164
    assert sum(map(count, (task.doc_to_target(doc) for doc in docs))) > 1000  # single tests, not one a question


@pytest.mark.data
def test_published_solutions_of_mbpp_pass_the_slow_one_and_the_one_with_setup_code_too(loaded):
    task = loaded.tasks["moemix_mbpp"]
    docs = [doc for doc in task.eval_docs if doc["task_id"] % 14 == 0 or doc["task_id"] in (123, 367)]
    assert scores(task, docs, [[doc["code"]] * 15 for doc in docs], "pass_at_1") == [1.0] * len(docs)
    wrong = [[doc["code"]] * 5 + ["raise SystemExit"] * 10 for doc in docs[:3]]
    assert scores(task, docs[:3], wrong, "pass_at_1") == [pytest.approx(1 / 3)] * 3


@pytest.mark.data
@pytest.mark.parametrize("name", ["moemix_mbpp_chat", "moemix_humaneval_chat"])
def test_published_solutions_pass_behind_a_guard_and_in_a_fence(name, real_data):
    column = next(c for s in ("chat_kr", "extended") for c in load_suite(s).columns if c.tasks == (name,))
    suite = Suite.model_validate({"name": "code", "columns": [column]})
    task = load_tasks(suite, "chat_kr", only=(), limit=None, root=real_data).tasks[name]
    docs = list(task.eval_docs)[:: 1 if "MOEMIX_ALL_TESTS" in os.environ else 20]
    requests = [Instance("generate_until", doc, ("", {}), 0, metadata=(name, i, 1)) for i, doc in enumerate(docs)]
    for request in requests:
        request.resps = [written(request)]
    (code,) = (ensemble for ensemble in task._filters if ensemble.name == "code")
    code.apply(requests)
    programs = [[request.filtered_resps["code"]] for request in requests]
    assert all("__main__" in program and "```" not in program for (program,) in programs)
    assert scores(task, docs, programs, "pass_at_1") == [1.0] * len(docs)


@pytest.mark.data
def test_mbpp_is_asked_without_examples_and_sampled_as_released(loaded):
    task = loaded.tasks["moemix_mbpp"]
    assert (task.config.num_fewshot, task.config.repeats) == (0, 15)
    settings = {key: value for key, value in task.config.generation_kwargs.items() if key != "until"}
    assert settings == {"do_sample": True, "temperature": 0.1, "top_p": 0.95, "max_gen_toks": 512}
    doc = next(iter(task.eval_docs))
    assert task.doc_to_text(doc) == f'"""\n{doc["text"]}\n{doc["test_list"][0]}\n"""\n'


def test_a_verdict_names_each_test():
    reference = "assert f(1) == 1\nassert f(2) == 3, 'two'\nassert f(3) == 3"
    verdict = ProgramRunner().verdict(Program("def f(x): return x", single_tests(reference)))
    assert not verdict.passed
    assert verdict.tests == ("passed", "AssertionError: two", "passed")
    stuck = ProgramRunner().verdict(
        Program("def f(x):\n while x == 2: pass\n return x", single_tests(reference), seconds=0.3)
    )
    assert (stuck.reason, stuck.tests) == ("timeout", ("passed", "not reached", "not reached"))


@pytest.mark.parametrize(
    ("reference", "tests"),
    [
        ("assert a\nassert b", 2),
        ("x = 1\nassert a\ny = 2", 2),
        ("def check(c):\n    assert c(1)\n    for i in range(3):\n        assert c(i)\ncheck(f)", 2),
        ("def check(c):\n    if c: return\n    assert c(1)\n    assert c(2)\ncheck(f)", 1),
        ("def check(c):\n    assert c(1)\n    assert c(2)", 1),
        ("this is not python", 1),
    ],
)
def test_tests_are_told_apart_only_where_that_changes_nothing(reference, tests):
    assert count(reference) == tests


def test_names_that_tests_define_do_not_change_the_program():
    reference = "def check(c):\n    helper = 0\n    assert c() == 5\ncheck(f)"
    assert ProgramRunner().verdict(Program("helper = 5\ndef f(): return helper", single_tests(reference))).passed


def test_pass_at_k_is_that_of_the_metric():
    assert pass_at_k(15, 5, 1) == pytest.approx(1 / 3)
    assert pass_at_k(10, 3, 5) == pytest.approx(1 - 21 / 252)
    assert pass_at_k(3, 1, 3) == 1.0
    metric = SandboxedCodeEval()
    metric.loading = False
    found, details = metric.compute(
        references=["assert f() == 1"], predictions=[["def f(): return 1", "x"]], k=[1, 2, 5]
    )
    assert found == {"pass@1": 0.5, "pass@2": 1.0}
    assert [run["passed"] for _, run in details[0]] == [True, False]


def test_a_program_runs_once_however_often_it_is_asked_about(monkeypatch):
    ran = []
    monkeypatch.setattr("evals.code_eval.run_program", lambda *args: ran.append(1) or sandbox.run_program("pass"))
    runner = ProgramRunner()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: runner.verdict(Program("pass")), range(8)))
    assert len(ran) == 1


@pytest.mark.data
def test_programs_run_ahead_and_every_verdict_is_kept(loaded, tmp_path):
    from lm_eval.api.instance import Instance

    task = loaded.tasks["humaneval"]
    docs = [task.eval_docs[i] for i in (0, 2)]
    task._instances = [
        Instance("generate_until", doc, ("p", {}), 0, metadata=("humaneval", i, 1), resps=[answer])
        for i, (doc, answer) in enumerate(zip(docs, [docs[0]["canonical_solution"], "    return 7"], strict=True))
    ]
    run_programs_ahead("humaneval", task, tmp_path)
    task.apply_filters()
    lines = [json.loads(line) for line in (tmp_path / "verdicts_humaneval.jsonl").open()]
    assert [line["programs"][0]["passed"] for line in lines] == [True, False]
    assert set(lines[0]["programs"][0]["tests"]) == {"passed"}
    assert len(lines[1]["programs"][0]["tests"]) == count(task.doc_to_target(docs[1]))


@pytest.fixture
def no_sandbox(monkeypatch):
    monkeypatch.setattr("evals.sandbox_kinds.shutil.which", lambda name: None)
    monkeypatch.setattr("evals.sandbox_kinds.sandlock_installed", lambda: False)
    sandbox._usable.cache_clear()
    yield
    sandbox.allow_unsafe_code(False)
    sandbox._usable.cache_clear()


@pytest.mark.data
@pytest.mark.usefixtures("no_sandbox")
def test_without_a_sandbox_the_task_is_refused_unless_the_user_insists(real_data):
    refused = load_tasks(SUITE, "paper_kr", only=("humaneval",), limit=None, root=real_data)
    assert "it runs generated programs, and bubblewrap (bwrap) is not installed" in refused.refused["humaneval"][1]
    sandbox.allow_unsafe_code()
    assert sandbox.run_program("print(1)").passed
    assert sandbox.run_program("while True: pass", timeout=1.0).reason == "timeout"
    insisted = load_tasks(SUITE, "paper_kr", only=("humaneval",), limit=None, root=real_data)
    assert not insisted.refused
