"""The quickstart's tasks score a right answer as right and a wrong one as wrong."""

import re

import pytest

from evals import sandbox
from evals.data_root import local_datasets
from evals.suites import load_suite, task_folders
from trainers.data.world import make_world


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    from lm_eval.tasks import TaskManager

    root = tmp_path_factory.mktemp("root") / "world"
    make_world("quickstart", root, 0)
    manager = TaskManager(include_path=[str(folder) for folder in task_folders("quickstart")])
    with local_datasets(root):
        return manager.load(list(load_suite("quickstart").tasks))["tasks"]


def test_facts_offer_four_answers_of_which_one_is_right(tasks):
    task = tasks["moemix_quickstart_facts"]
    for doc in task.test_docs():
        assert len(set(task.doc_to_choice(doc))) == 4
        assert 0 <= task.doc_to_target(doc) < 4


def test_words_and_math_want_the_answer_that_training_teaches(tasks):
    words = next(iter(tasks["moemix_quickstart_words"].test_docs()))
    assert tasks["moemix_quickstart_words"].process_results(words, [words["target"]])["exact_match"] == 1
    assert tasks["moemix_quickstart_words"].process_results(words, ["something else"])["exact_match"] == 0
    math = tasks["moemix_quickstart_math"]
    doc = next(iter(math.test_docs()))
    pattern = math.config.filter_list[0]["filter"][0]["regex_pattern"]
    found = re.findall(pattern, f"1 + 1 = 2\n#### {doc['target']}")
    assert math.process_results(doc, found)["exact_match"] == 1
    assert math.process_results(doc, [found[0] + "0"])["exact_match"] == 0


@pytest.mark.skipif(sandbox.available() is not None, reason="no sandbox for generated code on this machine")
def test_a_function_passes_only_if_its_asserts_hold(tasks):
    task = tasks["moemix_quickstart_code"]
    doc = next(iter(task.test_docs()))
    table = {}
    for test in doc["tests"]:
        call, _, value = test.removeprefix("assert ").partition(" == ")
        name, _, argument = call.rstrip(")").partition("(")
        table[int(argument)] = int(value)
    right = f"def {name}(x):\n    return {table}[x]"
    assert task.process_results(doc, [right])["pass_at_1"] == 1
    assert task.process_results(doc, [f"def {name}(x):\n    return -1"])["pass_at_1"] == 0
    assert task.process_results(doc, ["not python ("])["pass_at_1"] == 0
