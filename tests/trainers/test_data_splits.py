"""What a source gives the trainer: selected rows, disjoint seeded splits, a cache that knows what it was made from."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.errors import MoemixError
from harness.recipe import Part, Source
from trainers.data import load_sources

TEMPLATE = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + eos_token }}{% endfor %}"


@pytest.fixture
def tokenizer():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator([], trainers.BpeTrainer(vocab_size=257, initial_alphabet=alphabet))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    made.chat_template = TEMPLATE
    return made


@pytest.fixture
def load(tokenizer, tmp_path):
    def loader(rows, *, part=None, max_length=64, seed=0, **fields):
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        part = {"adapter": "prompt_completion", "files": ["x.jsonl"], **(part or {})}
        source = Source(name="s", parts=(Part.model_validate(part),), **fields)
        options = {"max_length": max_length, "seed": seed, "root": tmp_path, "cache": tmp_path / "cache"}
        return load_sources([source], tokenizer=tokenizer, **options)[0]

    return loader


def numbered(n):
    return [{"prompt": f"q{i}", "completion": f"a{i}", "task": i, "good": i % 2 == 0} for i in range(n)]


def answers(tokenizer, split):
    examples = [split[i] for i in range(len(split))]
    return [tokenizer.decode(e.input_ids[e.is_target], skip_special_tokens=True) for e in examples]


def test_select_keeps_the_rows_it_names_and_counts_the_others(load, tokenizer):
    select = {"task": {"min": 4, "max": 9}, "good": True}
    loaded = load(numbered(20), part={"options": {"select": select}})
    assert sorted(answers(tokenizer, loaded.train)) == ["a4", "a6", "a8"]
    assert (loaded.report.rows, loaded.report.not_selected, loaded.size) == (20, 17, 3)


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ({"task": {"from": 3}}, "unknown bound of `select.task`: 'from'"),
        ({"tusk": 3}, r"x\.jsonl:1: .*the column `tusk` of `select` is missing"),
        ({"prompt": {"min": 3}}, r"x\.jsonl:1: .*cannot be compared"),
        ({"task": 99}, "source s: `select` leaves no row"),
        (["task"], "should be a mapping"),
    ],
)
def test_a_select_that_cannot_be_meant_is_an_error(load, select, said):
    with pytest.raises(MoemixError, match=said):
        load(numbered(3), part={"options": {"select": select}})


def test_no_copy_of_a_probe_example_is_trained_on(load, tokenizer):
    rows = [{"prompt": f"q{i % 10}", "completion": f"a{i % 10}"} for i in range(100)]
    loaded = load(rows, probe_examples=3)
    assert not set(answers(tokenizer, loaded.train)) & set(answers(tokenizer, loaded.probe))
    assert len(loaded.train) % 10 == 0
    with pytest.raises(MoemixError, match="100 exist"):
        load([{"prompt": "q", "completion": "a"}] * 100, probe_examples=1)


def test_splits_follow_the_seed_and_nothing_else(load, tokenizer):
    def order(**fields):
        loaded = load(numbered(30), probe_examples=5, **fields)
        return answers(tokenizer, loaded.train), answers(tokenizer, loaded.probe)

    assert order() == order()
    assert order()[0] != order(seed=1)[0]
    assert order(train_examples=7)[0] == order()[0][:7]
    assert order(train_examples=7)[1] == order()[1]


def test_long_examples_are_cut_and_those_with_no_answer_left_are_told(load, caplog):
    rows = [{"prompt": "q", "completion": "a" * 100}, {"prompt": "q" * 100, "completion": "a"}]
    loaded = load(rows, max_length=40)
    assert loaded.train.lengths.tolist() == [40]
    assert loaded.report.truncated == 1
    assert loaded.report.bad == {"no answer within 40 tokens": 1}
    assert "x.jsonl:2" in caplog.text


def test_the_recipes_size_stands_where_the_files_are_a_sample(load):
    assert load(numbered(5), size=90_000).size == 90_000


def test_lengths_and_targets_agree_with_the_examples(load):
    loaded = load(numbered(30), probe_examples=5)
    for split in (loaded.train, loaded.probe):
        assert [len(split[i].input_ids) for i in range(len(split))] == split.lengths.tolist()
        assert all(split[i].is_target.any() and not split[i].is_target[0] for i in range(len(split)))
    assert split[0].input_ids.dtype == np.int32
    assert split[0].is_target.dtype == np.bool_


def test_the_cache_is_used_only_for_what_it_was_made_from(load, tokenizer, tmp_path):
    def caches():
        return {path.name for path in (tmp_path / "cache").glob("s-*/")}

    def fresh(**fields):
        before = caches()
        load(**{"rows": numbered(9), **fields})
        return bool(caches() - before)

    assert fresh()
    assert not fresh()
    assert not fresh(seed=5, probe_examples=2)
    assert fresh(max_length=63)
    assert fresh(rows=numbered(10))
    assert fresh(part={"options": {"strip_suffix": ["5"]}})
    tokenizer.chat_template = TEMPLATE.replace("[", "<")
    assert fresh()


def test_an_adapter_of_ones_own_is_part_of_what_the_cache_is_made_from(load, tokenizer, tmp_path):
    file = tmp_path / "mine.py"
    code = "def f(row):\n    return [{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': %s}]\n"
    for said in ("'yes'", "'no'"):
        file.write_text(code % said)
        loaded = load(numbered(1), part={"adapter": f"{file}:f"})
        assert answers(tokenizer, loaded.train) == [said.strip("'")]
    for wrong, message in (("row['missing']", "failed with KeyError"), ("3", "should return text or a list")):
        file.write_text(code % wrong)
        with pytest.raises(MoemixError, match=rf"x\.jsonl:1: .*{message}"):
            load(numbered(1), part={"adapter": f"{file}:f"})
