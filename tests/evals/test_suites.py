"""A suite is data: what it says is checked when it is read, and its hash says when scores may change."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import lm_eval
import pytest

from evals.selection import adapted_suite
from evals.suite_check import check_suite, stock_task_files
from evals.suites import load_suite, suite_hash, suite_names, suite_path, task_folders
from harness.errors import MoemixError

SUITE = """
name: mine
columns:
  - {name: arc, tasks: [arc_easy], shots: 0, metric: acc_norm}
  - {name: boolq, tasks: [boolq], shots: 0, metric: acc}
averages:
  - {name: qa, of: [arc, boolq]}
  - {name: all, of: [qa, arc]}
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_every_suite_of_the_package_loads():
    assert {"quickstart", "smol_kr"} <= set(suite_names())
    for name in suite_names():
        assert load_suite(name).name == name


def test_an_average_may_be_of_columns_and_of_earlier_averages(write):
    assert [average.of for average in load_suite(write(SUITE)).averages] == [("arc", "boolq"), ("qa", "arc")]


def test_the_papers_suite_has_the_papers_settings_and_averages():
    suite = load_suite("paper_kr")
    settings = {column.name: (column.tasks, column.shots, column.metric) for column in suite.columns}
    assert settings == {
        "mmlu": (("mmlu",), 5, "acc"),
        "bbh": (("bbh_fewshot",), 3, "exact_match"),
        "gsm8k": (("gsm8k_cot",), 8, "exact_match"),
        "mbpp": (("moemix_mbpp",), None, "pass_at_1"),
        "arc_e": (("arc_easy",), 0, "acc_norm"),
        "arc_c": (("arc_challenge",), 0, "acc_norm"),
        "boolq": (("boolq",), 0, "acc"),
    }
    assert {column.aggregation for column in suite.columns} == {"macro"}
    assert suite.columns[1].generation["until"] == ["\n\n", "\nQ:", "</s>"]
    averages = {average.name: average.of for average in suite.averages}
    assert averages == {"qa": ("arc_e", "arc_c", "boolq"), "kr": ("mmlu", "bbh", "gsm8k", "mbpp", "qa")}
    extended = load_suite("paper_extended")
    assert [column for column in extended.columns if column.name in settings] == list(suite.columns)
    assert extended.averages == suite.averages


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("shots: 0, metric: acc}", "shot: 0, metric: acc}", "unknown key `columns.1.shot` (did you mean 'shots'"),
        ("of: [qa, arc]", "of: [qa, arcs]", "did you mean 'arc'"),
        ("{name: all", "{name: arc", "'arc' is used twice"),
        ("tasks: [boolq], shots: 0", "tasks: [arc_easy], shots: 3", "different shots"),
        ("columns:", "columns: [", "not valid YAML"),
    ],
)
def test_a_fault_in_a_suite_file_is_named(write, old, new, message):
    with pytest.raises(MoemixError, match=re.escape(message)):
        load_suite(write(SUITE.replace(old, new)))


def test_an_unknown_suite_names_its_neighbour():
    with pytest.raises(MoemixError, match="did you mean 'smol_kr'"):
        load_suite("smol_rk")
    with pytest.raises(MoemixError, match="does not exist"):
        load_suite("nowhere/mine.yaml")


def test_the_hash_follows_settings_and_local_task_files_but_not_wording(write, tmp_path):
    (tmp_path / "tasks" / "colours").mkdir(parents=True)
    (tmp_path / "tasks" / "others").mkdir()
    task = tmp_path / "tasks" / "colours" / "colours.yaml"
    task.write_text("task: colours\nprocess_docs: !function utils.process\n")
    other = tmp_path / "tasks" / "others" / "others.yaml"
    other.write_text("task: others\n")
    text = SUITE.replace("[boolq]", "[colours]") + "include: [tasks]\n"
    first = suite_hash(write(text))
    assert task_folders(write(text))[-1] == tmp_path / "tasks"
    assert suite_hash(write(text + "description: in other words\n")) == first
    other.write_text("task: others\nmetadata: {version: 2}\n")
    assert suite_hash(write(text)) == first
    assert suite_hash(write(text.replace("acc_norm", "acc"))) != first
    (task.parent / "utils.py").write_text("def process(docs): return docs\n")
    assert suite_hash(write(text)) != first


def test_listing_suites_loads_nothing_heavy():
    code = (
        "import sys, evals.cli, evals.suites, evals.suite_check\n"
        "[evals.suites.suite_hash(name) for name in evals.suites.suite_names()]\n"
        "evals.suite_check.check_suite(str(evals.suites.suite_path('paper_extended')))\n"
        "assert not {'torch', 'transformers', 'lm_eval', 'datasets', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_tasks_metrics_and_filters_of_every_suite_of_the_package_exist():
    checked = ("paper_extended", "extended", "chat_kr", "quickstart")
    for name in checked:
        check_suite(str(suite_path(name)))
    tasks = {task for name in checked for task in load_suite(name).tasks}
    assert {task for name in suite_names() for task in load_suite(name).tasks} <= tasks


def test_every_task_group_and_tag_of_lm_eval_is_found_without_it():
    from lm_eval.tasks import TaskManager

    folder = Path(lm_eval.__file__).parent / "tasks"
    assert set(TaskManager().all_tasks) <= stock_task_files(folder, {"nothing"}).keys()


FOLDER = {
    "base.yaml": "dataset_path: json\noutput_type: multiple_choice\nmetric_list: [{metric: acc_norm}]\n",
    "one.yaml": "include: base.yaml\ntask: my_choice\ntag: my_tag\nfilter_list: [{name: first}]\n",
    "two.yaml": "task: my_text\noutput_type: generate_until\n",
    "group.yaml": "group: my_group\ntask: [my_text]\n",
    "own.yaml": "task: my_own\nmetric_list: [{metric: !function fn.score}]\n",
    "odd.yaml": "task: my_odd\noutput_type: telepathy\n",
    "fn.py": "def score(): ...\n",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "more").mkdir()
    for name, text in FOLDER.items():
        (tmp_path / "more" / name).write_text(text)
    return tmp_path / "more"


def test_a_task_of_an_included_folder_is_a_column_as_its_file_says(write, folder, tmp_path):
    only = ("my_choice", "my_text", "my_tag", "my_group", "my_own", "arc")
    made = adapted_suite(write(SUITE), only, tmp_path / "out", folders=(folder,))
    suite = load_suite(made)
    base = load_suite(write(SUITE))
    assert (suite.columns[:2], suite.averages) == (base.columns, base.averages)
    added = {column.name: (column.tasks, column.metric, column.filter, column.shots) for column in suite.columns[2:]}
    assert added == {
        "my_choice": (("my_choice",), "acc_norm", "first", None),
        "my_text": (("my_text",), "exact_match", "none", None),
        "my_tag": (("my_tag",), "acc_norm", "first", None),
        "my_group": (("my_group",), "exact_match", "none", None),
        "my_own": (("my_own",), "score", "none", None),
    }
    assert task_folders(made)[1:] == [folder.resolve()]
    before = suite_hash(made)
    (folder / "base.yaml").write_text(FOLDER["base.yaml"] + "num_fewshot: 3\n")
    assert suite_hash(adapted_suite(write(SUITE), only, tmp_path / "out", folders=(folder,))) != before


def test_settings_of_the_command_line_go_into_the_suite_as_a_file_would_say_them(write, folder, tmp_path):
    settings = {"chat_template": True, "shots": 2, "generation": {"temperature": 0.5}}
    suite = load_suite(adapted_suite(write(SUITE), (), tmp_path / "out", **settings))
    assert suite.chat_template
    assert {(column.shots, column.generation["temperature"]) for column in suite.columns} == {(2, 0.5)}
    assert suite.averages == load_suite(write(SUITE)).averages


def test_an_included_task_without_a_metric_and_a_folder_of_another_suite_are_refused(write, folder, tmp_path):
    with pytest.raises(MoemixError, match="does not say its metric"):
        adapted_suite(write(SUITE), ("my_odd",), tmp_path / "out", folders=(folder,))
    adapted_suite(write(SUITE), ("my_text",), tmp_path / "out", folders=(folder,))
    with pytest.raises(MoemixError, match="another suite"):
        adapted_suite(write(SUITE), ("my_choice",), tmp_path / "out", folders=(folder,))


def test_a_suite_that_is_not_utf_8_is_refused_with_its_file(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_bytes("name: mine\ndescription: épreuves\n".encode("latin-1"))
    with pytest.raises(MoemixError, match=r"suite\.yaml: not valid YAML"):
        load_suite(str(path))
