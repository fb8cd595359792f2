"""Evaluation questions in training data are found, verbatim and reworded; clean data gives no hits."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from click.testing import CliRunner
from reworded import reworded

from evals.contamination import COMMON, Question, QuestionIndex, words_of
from evals.contamination_check import Checker
from trainers.commands.data import data


def lines(path):
    return [json.loads(line) for line in path.open()]


@pytest.fixture(scope="module")
def questions(real_data):
    """GSM8K's and ARC-challenge's test questions."""
    gsm8k = [Question("gsm8k", i, row["question"]) for i, row in enumerate(lines(real_data / "gsm8k" / "test.jsonl"))]
    arc = lines(real_data / "arc" / "ARC-Challenge-Test.jsonl")
    return gsm8k + [Question("arc", i, row["question"]["stem"]) for i, row in enumerate(arc)]


@pytest.fixture(scope="module")
def index(questions):
    return QuestionIndex(questions)


@pytest.fixture(scope="module")
def clean(real_data):
    """Real training rows that share no source with the questions."""
    code = json.loads((real_data / "gpteacher" / "codegen-instruct.json").read_text())
    chat = json.loads((real_data / "gpteacher" / "roleplay-simple-deduped-roleplay-instruct.json").read_text())
    return [[row["instruction"], row["input"], row["response"]] for row in [*chat, *code]][:5000]


@pytest.mark.data
def test_clean_data_gives_no_hits(index, clean):
    assert [match for row in clean for match in index.matches(row)] == []


@pytest.mark.data
def test_one_planted_row_in_a_thousand_is_found_whatever_its_case_and_punctuation(index, questions, clean):
    rng = random.Random(0)
    rows = [list(row) for row in clean]
    planted = dict(zip(range(500, 5000, 1000), rng.sample(questions, 5), strict=False))
    for at, question in planted.items():
        rows[at][0] = f"{rows[at][0]}\n\n**Q:** {question.text.upper().replace(',', ' ,')}"
    found = {at: index.matches(row) for at, row in enumerate(rows)}
    assert {at for at, matches in found.items() if matches} == set(planted)
    for at, question in planted.items():
        assert [(match.question, match.kind) for match in found[at]] == [(question, "exact")]


DISGUISES = {
    "zero-width": lambda text: "\u200b".join(text),
    "joiners": lambda text: text.replace("e", "e\u200d\u2060").replace("t", "\ufefft\ufe0f"),
    "soft hyphens": lambda text: re.sub(r"(\w\w)(?=\w)", "\\1\u00ad", text),
    "full width": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "homoglyphs": lambda text: text.translate(str.maketrans("aeopcxyiABEHKMOPCTX", "аеорсхуіАВЕНКМОРСТХ")),
    "Greek": lambda text: text.translate(str.maketrans("oABEHIKMOPTX", "οΑΒΕΗΙΚΜΟΡΤΧ")),
    "bold": lambda text: "".join(chr(0x1D41A + ord(c) - 97) if "a" <= c <= "z" else c for c in text),
}


@pytest.mark.data
@pytest.mark.parametrize("name", DISGUISES)
def test_questions_are_found_through_characters_that_only_look_the_same(index, questions, name):
    some = random.Random(2).sample(questions, 40)
    found = [index.matches(["Answer.", DISGUISES[name](question.text)]) for question in some]
    assert [any(m.question == q and m.kind == "exact" for m in f) for q, f in zip(some, found, strict=True)] == [
        True
    ] * 40


def test_words_of_other_scripts_are_compared_whatever_their_case():
    text = "В лесу родилась ёлочка, в лесу она росла зимой и летом стройная зелёная была"
    assert words_of(text) == words_of(text.upper())
    assert QuestionIndex([Question("t", 0, text)]).matches([f"Спой: {text.upper()}"])


@pytest.mark.data
@pytest.mark.parametrize(("shortest", "longest", "recall"), [(30, 1000, 0.95), (15, 30, 0.8), (8, 15, 0.35)])
def test_reworded_questions_are_found_at_the_stated_recall(index, questions, shortest, longest, recall):
    rng = random.Random(1)
    vocabulary = [word for question in questions[:500] for word in words_of(question.text)]
    some = rng.sample([q for q in questions if shortest <= len(words_of(q.text)) < longest], 200)
    found = sum(
        any(
            match.question == question
            for match in index.matches(["Please answer.", reworded(question.text, rng, vocabulary)])
        )
        for question in some
    )
    assert found / len(some) >= recall


def test_a_short_question_counts_only_as_a_whole_message_or_line():
    index = QuestionIndex([Question("t", 0, "Why is it dark?")])
    assert index.matches(["why is it dark"])
    assert index.matches(["system", "Answer this.\nWhy is it dark?\nThanks"])
    assert not index.matches(["I know why is it dark in here"])


def test_words_that_match_all_over_a_long_row_are_no_question():
    text = "seven brave sailors rowed across the frozen lake to bring medicine to the old village doctor"
    index = QuestionIndex([Question("t", 0, text)])
    pieces = text.split()
    scattered = " ".join(" ".join(pieces[i : i + 3]) + " filler" * 40 for i in range(13))
    assert not index.matches([scattered])
    assert index.matches([f"{'filler ' * 200}{text}{' filler' * 200}"])


@pytest.mark.data
def test_the_work_per_row_does_not_grow_with_the_number_of_questions(index):
    assert np.diff(index._first).max() <= COMMON


@pytest.mark.data
def test_rows_give_the_same_alone_and_together(index, questions, clean):
    rng = random.Random(3)
    rows = [list(row) for row in clean[:200]]
    for row in rows[::3]:
        question = rng.choice(questions).text
        row.insert(rng.randrange(len(row)), rng.choice([question, question[: len(question) // 2], "", "\n\n"]))
    together = index.matches_of(rows)
    assert sum(map(len, together)) > 10
    assert together == [index.matches(row) for row in rows]
    assert index.matches_of([]) == []


def test_the_command_reports_pairs_with_examples_from_any_file(mini_suite, tmp_path):
    rows = [{"anything": ["no", {"deep": f"a row about number {i}"}]} for i in range(50)]
    rows[20]["anything"][1]["deep"] = "What is the colour of thing 7 in the text?"
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(data, ["check", str(file), "--suite", str(mini_suite)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "train.jsonl × " in result.output
    assert "mini_choice: 1 of 24 questions (1 word by word, 0 reworded) in 1 rows" in result.output
    assert "train.jsonl:21 contains question 7 (exact, 100%)" in result.output
    assert "training: no What is the colour of thing 7" in result.output


@pytest.mark.parametrize("name", ["x.csv", "x.ndjson", "saved", "x.jsonl.bz2"])
def test_files_of_every_kind_are_searched(mini_suite, tmp_path, name):
    import bz2

    import datasets

    rows = [
        {"cell": json.dumps({"a": f'"{text}"\nyes'})} for text in ("What is the colour of thing 7 in the text?", "?")
    ]
    lines = "nothing of JSON\n" + "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "x.ndjson").write_text(lines)
    (tmp_path / "x.jsonl.bz2").write_bytes(bz2.compress(lines.encode()))
    (tmp_path / "x.csv").write_text("cell\nWhat is the colour of thing 7 in the text?\n?\n")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    result = CliRunner().invoke(data, ["check", str(tmp_path / name), "--suite", str(mini_suite)])
    assert "mini_choice: 1 of 24 questions (1 word by word, 0 reworded) in 1 rows" in result.output


def test_what_is_found_in_a_recipes_source_is_kept_in_the_store(mini_suite, tmp_path):
    from harness.recipe_file import load_recipe
    from harness.records import Contamination
    from harness.sources import fingerprint
    from harness.store import Store

    (tmp_path / "a.jsonl").write_text('{"text": "what is the colour of thing 3 in the text"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "nothing of the kind"}\n')
    sources = "".join(
        f"    - name: {name}\n      parts: [{{adapter: text, files: [{name}.jsonl]}}]\n" for name in ("a", "b")
    )
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"name: mine\nmodels:\n  - {{kind: tiny, name: t}}\ndata:\n  sources:\n{sources}"
        f"strategies: [uniform]\nevaluation: {{suites: [{mini_suite}]}}\n"
    )
    arguments = ["check", str(recipe), "--data-root", str(tmp_path), "--store", str(tmp_path / "runs")]
    result = CliRunner().invoke(data, arguments, catch_exceptions=False)
    assert "none of the questions was found" in result.output
    store = Store(tmp_path / "runs")
    for source, expected in zip(load_recipe(str(recipe), ()).data.sources, ((3,), ()), strict=True):
        mark = fingerprint(source, tmp_path)
        kept = Contamination.read(store.contamination_path(Checker(str(mini_suite), (), None).suite_hash, mark))
        assert kept.tasks["mini_text"].exact == expected
        assert kept.rows == 1
