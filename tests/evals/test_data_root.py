"""Stock lm-eval tasks run from local files exactly as they run from the hub."""

from __future__ import annotations

import json

import pytest

from evals.data_root import DATASETS, local_datasets, mirror
from evals.loading import load_tasks
from evals.suites import Suite, load_suite
from harness.errors import MoemixError


def suite(task, shots, metric="acc"):
    return Suite.model_validate(
        {"name": "s", "columns": [{"name": "c", "tasks": [task], "shots": shots, "metric": metric}]}
    )


@pytest.fixture(scope="module")
def tasks(real_data):
    """The three stock tasks of the suite ``smol_kr``."""
    return load_tasks(load_suite("smol_kr"), "smol_kr", only=(), limit=None, root=real_data).tasks


@pytest.mark.data
def test_the_questions_are_all_there(tasks):
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == {
        "arc_easy": 2376,
        "boolq": 3270,
        "gsm8k_cot": 1319,
    }


@pytest.mark.data
def test_prompts_and_targets_are_those_of_the_stock_task(tasks, real_data):
    raw = json.loads((real_data / "arc" / "ARC-Easy-Test.jsonl").open().readline())
    arc = tasks["arc_easy"]
    doc = arc.eval_docs[0]
    assert arc.doc_to_text(doc) == f"Question: {raw['question']['stem']}\nAnswer:"
    right = [choice["text"] for choice in raw["question"]["choices"] if choice["label"] == raw["answerKey"]]
    assert [arc.doc_to_choice(doc)[arc.doc_to_target(doc)]] == right

    raw = json.loads((real_data / "boolq" / "val.jsonl").open().readline())
    doc = tasks["boolq"].eval_docs[0]
    assert tasks["boolq"].doc_to_text(doc) == f"{raw['passage']}\nQuestion: {raw['question']}?\nAnswer:"
    assert tasks["boolq"].doc_to_choice(doc)[doc["label"]] == {"true": "yes", "false": "no"}[raw["label"]]

    gsm8k = tasks["gsm8k_cot"]
    assert gsm8k.config.num_fewshot == 8
    prompt = gsm8k.fewshot_context(gsm8k.eval_docs[0], 8)
    assert prompt.count("\nA:") + prompt.startswith("A:") == 9
    assert "There are 15 trees in the grove" in prompt


@pytest.mark.data
def test_gold_answers_score_one(tasks):
    """GSM8K's reference solutions end in ``#### n``: the flexible filter, which takes the last number, finds it."""
    task = tasks["gsm8k_cot"]
    doc = task.eval_docs[0]
    assert task.process_results(doc, [doc["answer"].split("####")[-1].strip()])["exact_match"] == 1
    boolq = tasks["boolq"].eval_docs
    assert sum(boolq["label"]) / len(boolq) == pytest.approx(0.62, abs=0.01)  # the known rate of always saying yes


@pytest.mark.data
def test_few_shot_examples_from_a_split_nobody_has_are_refused_with_the_reason(real_data):
    loaded = load_tasks(suite("arc_easy", 5), "smol_kr", only=(), limit=None, root=real_data)
    assert not loaded.tasks
    assert "the split 'train', which the data root lacks" in loaded.refused["arc_easy"][1]


def test_a_file_the_data_root_lacks_is_named(tmp_path):
    with pytest.raises(MoemixError, match=r"boolq/val\.jsonl"):
        load_tasks(suite("boolq", 0), "smol_kr", only=(), limit=None, root=tmp_path)


def test_a_row_of_another_format_gives_file_and_line(tmp_path):
    (tmp_path / "boolq").mkdir()
    good = {"question": "q", "passage": "p", "idx": 0, "label": "true"}
    (tmp_path / "boolq" / "val.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps({'question': 'q'})}\n")
    with pytest.raises(MoemixError, match=r"val\.jsonl:2"):
        mirror(DATASETS["aps/super_glue", "boolq"], tmp_path)


def test_changed_files_are_converted_again_and_unchanged_ones_are_not(tmp_path):
    (tmp_path / "boolq").mkdir()
    row = {"question": "q", "passage": "p", "idx": 0, "label": "true"}
    (tmp_path / "boolq" / "val.jsonl").write_text(json.dumps(row) + "\n")
    first = mirror(DATASETS["aps/super_glue", "boolq"], tmp_path)
    made = (first / "validation.parquet").stat().st_mtime_ns
    assert mirror(DATASETS["aps/super_glue", "boolq"], tmp_path) == first
    assert (first / "validation.parquet").stat().st_mtime_ns == made
    (tmp_path / "boolq" / "val.jsonl").write_text(json.dumps(row | {"label": "false"}) + "\n")
    assert mirror(DATASETS["aps/super_glue", "boolq"], tmp_path) != first


def test_the_hub_is_asked_again_once_the_data_root_is_left(tmp_path):
    import datasets

    before = datasets.load_dataset
    with local_datasets(tmp_path):
        assert datasets.load_dataset is not before
    assert datasets.load_dataset is before
