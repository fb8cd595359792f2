"""Stock lm-eval tasks run from local files exactly as they run from the hub."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest

from evals.benchmarks import DATASETS
from evals.data_root import inventory, local_datasets, open_dataset
from evals.doctor import examine_data_root
from evals.loading import load_tasks
from evals.runner import evaluate, request_for
from evals.suites import Suite, load_suite
from harness.errors import MoemixError
from harness.requests import EvalJobRequest


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
@pytest.mark.parametrize("filtered", ["flexible-extract", "strict-match"])
def test_gold_answers_of_gsm8k_all_score_one(tasks, filtered):
    """The loose filter takes the last number, which is the solution's; the strict one wants its sentence around it."""
    from lm_eval.api.instance import Instance

    task = tasks["gsm8k_cot"]
    docs = list(task.eval_docs)
    answers = [
        doc["answer"] if filtered == "flexible-extract" else f"So. The answer is {task.doc_to_target(doc)}."
        for doc in docs
    ]
    task._instances = [
        Instance("generate_until", doc, ("p", {}), 0, metadata=("gsm8k_cot", i, 1), resps=[answer])
        for i, (doc, answer) in enumerate(zip(docs, answers, strict=True))
    ]
    task.apply_filters()
    scores = [task.process_results(i.doc, [i.filtered_resps[filtered]])["exact_match"] for i in task._instances]
    assert scores == [1.0] * 1319


@pytest.mark.data
def test_a_constant_answer_scores_at_its_known_rate(tasks):
    task = tasks["boolq"]
    choices = task.doc_to_choice(task.eval_docs[0])
    always_yes = [(0.0 if choice == "yes" else -1.0, False) for choice in choices]
    scores = [task.process_results(doc, always_yes)["acc"] for doc in task.eval_docs]
    assert (sum(scores), len(scores)) == (2033, 3270)  # 62.2 %, the published majority rate


def a_choice(texts):
    return {"text": texts, "label": ["A", "B"]}


# Two rows each, with the columns that the hub's copies have.
FURTHER = {
    "allenai/sciq": [
        {"question": f"q {i}", "distractor1": "a", "distractor2": "b", "distractor3": "c", "correct_answer": "d",
         "support": "the text"} for i in range(2)],
    "baber/piqa": [{"goal": f"open jar {i}", "sol1": "twist", "sol2": "shout", "label": i} for i in range(2)],
    "allenai/winogrande": [
        {"sentence": f"The cup {i} fell off the shelf as the _ was wet.", "option1": "cup", "option2": "shelf",
         "answer": str(i + 1)} for i in range(2)],
    "EleutherAI/lambada_openai": [{"text": f"the question {i} is in the text"} for i in range(2)],
    "allenai/openbookqa": [
        {"question_stem": f"stem {i}", "choices": a_choice(["x", "y"]), "answerKey": "AB"[i]} for i in range(2)],
    "truthfulqa/truthful_qa": [
        {"question": f"q {i}", "mc1_targets": {"choices": ["x", "y"], "labels": [1, 0]},
         "mc2_targets": {"choices": ["x", "y", "z"], "labels": [1, 1, 0]}} for i in range(2)],
    "Rowan/hellaswag": [
        {"activity_label": "Cooking", "ctx_a": f"A pan {i}.", "ctx_b": "then", "endings": ["a", "b", "c", "d"],
         "label": str(i)} for i in range(2)],
}  # fmt: skip


def test_the_further_log_likelihood_columns_of_the_papers_code_run_where_the_hub_has_their_data(
    checkpoint, monkeypatch, tmp_path
):
    import datasets

    asked = []

    def hub(path, name=None, **options):
        asked.append(path)
        rows = datasets.Dataset.from_list(FURTHER[path])
        return datasets.DatasetDict(train=rows, validation=rows, test=rows)

    monkeypatch.setattr(datasets, "load_dataset", hub)
    only = ("sciq", "piqa", "winogrande", "lambada", "openbookqa", "truthfulqa", "hellaswag")
    request = request_for(
        "paper_extended", tasks=only, limit=None, engine="transformers", dtype="float32", seed=0
    )  # fmt: skip
    summary = evaluate(EvalJobRequest(config=request, checkpoint=checkpoint, out=tmp_path / "out"))
    assert set(asked) == FURTHER.keys()
    assert {name: column.n for name, column in summary.columns.items()} == dict.fromkeys(only, 2)
    metrics = {name: column.metric for name, column in summary.columns.items()}
    assert metrics == {
        "sciq": "acc",
        "piqa": "acc_norm",
        "winogrande": "acc",
        "lambada": "acc",
        "openbookqa": "acc_norm",
        "truthfulqa": "acc",
        "hellaswag": "acc_norm",
    }
    assert all(0 <= column.value <= 1 for column in summary.columns.values())
    sample = json.loads((tmp_path / "out" / "samples_winogrande.jsonl").open().readline())
    prompts = [argument["arg_0"] for argument in sample["arguments"].values()]
    assert prompts == ["The cup 0 fell off the shelf as the cup", "The cup 0 fell off the shelf as the shelf"]


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
        open_dataset(DATASETS["aps/super_glue", "boolq"], tmp_path)


def test_changed_files_are_read_again(tmp_path):
    (tmp_path / "boolq").mkdir()
    row = {"question": "q", "passage": "p", "idx": 0, "label": "true"}
    (tmp_path / "boolq" / "val.jsonl").write_text(json.dumps(row) + "\n")
    first = open_dataset(DATASETS["aps/super_glue", "boolq"], tmp_path)
    assert first["validation"]["label"][:] == [1]
    assert len(first["train"]) == 0  # a split without a file is there and empty
    (tmp_path / "boolq" / "val.jsonl").write_text(json.dumps(row | {"label": "false"}) + "\n")
    assert open_dataset(DATASETS["aps/super_glue", "boolq"], tmp_path)["validation"]["label"][:] == [0]


def test_the_hub_is_asked_again_once_the_data_root_is_left(tmp_path):
    import datasets

    before = datasets.load_dataset
    with local_datasets(tmp_path):
        assert datasets.load_dataset is not before
    assert datasets.load_dataset is before


STOCK = "mmlu_anatomy,bbh_fewshot_penguins_in_a_table,mbpp,humaneval,ifeval,agieval_aqua_rat".split(",")


@pytest.fixture(scope="module")
def stock(real_data):
    """lm-eval's own task for every further format of a data root."""
    metrics = {"mbpp": "pass_at_1", "humaneval": "pass@1", "ifeval": "prompt_level_strict_acc"}
    filters = {"humaneval": "create_test"}
    columns = [
        {
            "name": name,
            "tasks": [name],
            "metric": metrics.get(name, "exact_match" if "bbh" in name else "acc"),
            "filter": filters.get(name, "none"),
        }
        for name in STOCK
    ]
    suite = Suite.model_validate({"name": "s", "columns": columns})
    loaded = load_tasks(suite, "smol_kr", only=(), limit=None, root=real_data)
    return loaded.tasks | {name: reason for name, (_, reason) in loaded.refused.items()}


@pytest.mark.data
def test_every_format_gives_all_its_questions(stock):
    expected = {
        "mmlu_anatomy": 135,
        "bbh_fewshot_penguins_in_a_table": 146,
        "mbpp": 500,
        "humaneval": 164,
        "ifeval": 541,
        "agieval_aqua_rat": 254,
    }
    assert {name: len(stock[name].eval_docs) for name in expected} == expected


@pytest.mark.data
def test_mmlu_takes_its_five_examples_from_the_dev_split_in_their_order(stock, real_data):
    task = stock["mmlu_anatomy"]
    prompt = task.fewshot_context(task.eval_docs[0], 5)
    with open(real_data / "mmlu" / "dev" / "anatomy_dev.csv", newline="") as lines:
        _, *dev = csv.reader(lines)
    with open(real_data / "mmlu" / "test" / "anatomy_test.csv", newline="") as lines:
        _, first, *_ = csv.reader(lines)
    shown = [
        f"{question.strip()}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:" for question, a, b, c, d, _ in [*dev, first]
    ]
    answers = [f" {'ABCD'[int(row[-1])]}\n\n" for row in dev]
    assert prompt.endswith("".join(f"{q}{a}" for q, a in zip(shown, [*answers, ""], strict=True)))
    assert task.doc_to_target(task.eval_docs[0]) == int(first[-1])


@pytest.mark.data
def test_bbh_asks_for_the_answer_after_three_examples(stock, real_data):
    task = stock["bbh_fewshot_penguins_in_a_table"]
    raw = json.loads((real_data / "bbh" / "bbh" / "penguins_in_a_table.json").read_text())["examples"]
    assert [doc["target"] for doc in task.eval_docs] == [row["target"] for row in raw]
    prompt = task.fewshot_context(task.eval_docs[0], 3)
    assert prompt.endswith(f"Q: {raw[0]['input']}\nA:")
    assert prompt.count("\nA:") == 4
    assert task.process_results(task.eval_docs[0], [raw[0]["target"]])["exact_match"] == 1


@pytest.mark.data
def test_aqua_is_asked_as_agieval_words_it(stock):
    task = stock["agieval_aqua_rat"]
    doc = task.eval_docs[0]
    assert task.doc_to_text(doc).startswith("Q: A car is being driven, in a straight line")
    assert task.doc_to_text(doc).endswith("(E)None of these\nA: Among A through E, the answer is")
    assert task.doc_to_choice(doc)[doc["gold"][0]] == "(A)5(√3 + 1)"


@pytest.mark.data
def test_ifeval_follows_its_instructions_with_the_published_sentence_model(stock):
    task = stock["ifeval"]
    docs = {doc["key"]: doc for doc in task.eval_docs}
    no_comma = next(doc for doc in docs.values() if doc["instruction_id_list"] == ["punctuation:no_comma"])
    assert task.process_results(no_comma, ["There is none."])["prompt_level_strict_acc"]
    assert not task.process_results(no_comma, ["First, second."])["prompt_level_strict_acc"]

    from lm_eval.tasks.ifeval import instructions_util

    assert (
        instructions_util.count_sentences("Dr. Smith met Mr. Jones at 5 p.m. on Main St. They talked. It rained.") == 3
    )


@pytest.mark.data
def test_doctor_says_what_a_data_root_holds_and_what_it_lacks(real_data, tmp_path):
    found = {name: (ok, detail) for name, ok, detail in inventory(real_data)}
    assert found["mmlu"] == (
        True,
        "57 parts, dev 285 rows, test 14042 rows (no validation split: no few-shot examples from it)",
    )
    assert "test 500 rows" in found["mbpp"][1]
    (tmp_path / "boolq").mkdir()
    (tmp_path / "boolq" / "val.jsonl").write_text('{"question": "q"}\n')
    found = {name: (ok, detail) for name, ok, detail in inventory(tmp_path)}
    assert not found["boolq"][0]
    assert "val.jsonl:1" in found["boolq"][1]
    assert found["gsm8k"] == (False, "missing: gsm8k/train.jsonl, gsm8k/test.jsonl")


@pytest.mark.data
def test_doctor_says_which_suites_and_benches_a_data_root_is_enough_for(real_data, tmp_path):
    found = {name: (ok, detail) for name, ok, detail in examine_data_root(real_data)}
    assert found["suite paper_kr"] == (True, "7 of 7 columns")
    ok, detail = found["suite paper_extended"]
    assert not ok
    assert detail.startswith("9 of 16 columns; available from the hub only: sciq, piqa, winogrande, lambada,")
    assert found["mt_bench"] == (True, "80 questions, 40 references")
    assert found["vicuna_bench"][0]
    for folder in ("arc", "boolq"):
        (tmp_path / folder).symlink_to(real_data / folder)
    found = {name: (ok, detail) for name, ok, detail in examine_data_root(tmp_path)}
    assert found["suite smol_kr"] == (False, "2 of 3 columns; their files are missing: gsm8k")
    assert found["mt_bench"] == (False, "missing: mt_bench/question.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("mmlu/test/anatomy_test.csv", "question,a,b,c,d,answer\nq,1,2,3,4,0\nq,1,2,3,4,E\n", "anatomy_test.csv:3"),
        ("mmlu/test/anatomy_test.csv", "q,1,2,3,C\n", "anatomy_test.csv:1"),
        ("bbh/bbh/snarks.json", '{"examples": [{"input": "i"}]}', "snarks.json:1"),
        ("humaneval/HumanEval.jsonl.gz", "not gzip", "HumanEval.jsonl.gz: cannot be read"),
    ],
)
def test_a_file_of_another_format_is_named_with_the_row(tmp_path, name, content, where):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(content)
    found = {folder: (ok, detail) for folder, ok, detail in _inventory_of(tmp_path, name)}
    ok, detail = found[name.split("/")[0]]
    assert not ok
    assert where in detail


def _inventory_of(root, name):
    """The inventory as if nothing but this file were looked for."""
    kept = {key: d for key, d in DATASETS.items() if any(s and s.file == name for s in d.splits.values())}
    alone = {
        key: dataclasses.replace(d, splits={n: s for n, s in d.splits.items() if s and s.file == name})
        for key, d in kept.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evals.data_root.DATASETS", alone)
        return inventory(root)


def test_an_authors_mmlu_file_without_header_and_with_letters_is_the_same_data():
    convert = DATASETS["cais/mmlu", "anatomy"].convert
    assert convert({"cells": ["q", "1", "2", "3", "4", "C"]}) == convert({"cells": ["q", "1", "2", "3", "4", "2"]})
