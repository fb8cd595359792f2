"""Each published format becomes the conversation it holds, and a row outside its format says what is wrong."""

import json

import pytest

from harness.errors import MoemixError
from harness.recipe import Part
from harness.recipe_file import load_recipe
from trainers.data.adapters import ADAPTERS
from trainers.data.conversation import MalformedRowError, UnusableRowError
from trainers.data.detection import choose, detect
from trainers.data.parts import PartAdapter, load_adapter
from trainers.data.reading import read_part


def adapt(name, row, **options):
    made = load_adapter(name, options, where="test")(row)
    return [(turn["role"], turn["content"]) for turn in made] if isinstance(made, list) else made


def said(*turns):
    return [{"from": who, "value": text} for who, text in turns]


def test_sharegpt_knows_every_name_for_the_two_speakers():
    turns = said(("system", "s"), ("human", "a"), ("gpt", "b"), ("user", "c"), ("ChatGPT", "d"), ("bard", "e"))
    assert adapt("sharegpt", {"conversations": turns}) == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
        ("assistant", "e"),
    ]


def test_a_tool_call_is_the_models_and_its_result_is_not():
    call = '{"name": "f", "arguments": {"x": null}}'
    row = {"conversations": said(("human", "q"), ("function_call", call), ("observation", "42"), ("gpt", "a"))}
    row["tools"] = '[{"name": "f"}]'
    made = load_adapter("sharegpt", {}, where="test")(row)
    assert [turn["role"] for turn in made] == ["user", "assistant", "tool", "assistant"]
    assert made[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"x": None}}}]
    assert made.tools == [{"type": "function", "function": {"name": "f"}}]
    row["conversations"][1]["value"] = f"[{call}, {call}]"
    assert len(load_adapter("sharegpt", {}, where="test")(row)[1]["tool_calls"]) == 2


def test_calls_of_tools_may_be_read_as_text():
    row = {"conversations": said(("human", "q"), ("function_call", "{}"), ("observation", "42"), ("gpt", "a"))}
    row["tools"] = '[{"name": "f"}]'
    as_text = load_adapter("sharegpt", {"calls": "text"}, where="test")(row)
    assert as_text.notes == ["the schemas of tools were left out (`calls: text`)"]
    assert adapt("sharegpt", row, calls="text") == [
        ("user", "q"),
        ("assistant", "{}"),
        ("user", "42"),
        ("assistant", "a"),
    ]
    assert adapt("sharegpt", row, calls="text", tool_role="tool")[2] == ("tool", "42")
    told = adapt("sharegpt", row, calls="text", tools="tools")
    assert told[0][0] == "system"
    assert '{"name": "f"}' in told[0][1]
    assert adapt("sharegpt", {**row, "tools": "[]"}, calls="text", tools="tools")[0] == ("user", "q")


def test_preference_rows_take_the_column_that_is_asked_for():
    chosen, rejected = said(("gpt", "good"), ("gpt", "bad"))
    row = {"conversations": said(("human", "q")), "chosen": chosen, "rejected": rejected}
    assert adapt("sharegpt", row, append="chosen")[-1] == ("assistant", "good")


def test_messages_may_come_in_parts_and_under_another_name():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    row = {"chat": [{"role": "user", "content": "q"}, {"role": "assistant", "content": parts}]}
    assert adapt("messages", row, messages="chat")[-1] == ("assistant", "one two")
    with pytest.raises(UnusableRowError, match="image_url"):
        adapt("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})
    with pytest.raises(MalformedRowError, match="`name` is missing"):
        adapt("messages", {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"a": 1}]}]})


def test_alpaca_puts_the_input_below_the_instruction_and_reads_instances():
    assert adapt("alpaca", {"instruction": "i", "input": "x", "output": "o"}) == [
        ("user", "i\n\nx"),
        ("assistant", "o"),
    ]
    assert adapt("alpaca", {"instruction": "i", "output": "o"}) == [("user", "i"), ("assistant", "o")]
    row = {"instruction": "i", "instances": [{"input": "", "output": "first"}, {"input": "", "output": "second"}]}
    assert adapt("alpaca", row, instances="instances")[-1] == ("assistant", "first")
    with pytest.raises(UnusableRowError, match="has no instance"):
        adapt("alpaca", {"instruction": "i", "instances": []}, instances="instances")


def test_wrapped_prompts_are_unwrapped_and_end_markers_removed():
    head = "Below is an instruction that describes a task. Write a response.\n\n### Instruction:\nWhy?\n\n"
    options = {"completion": "answer", "strip_suffix": ["###eos_token###"], "unwrap": True}
    row = {"prompt": head + "### Response:", "answer": "Because.###eos_token###"}
    assert adapt("prompt_completion", row, **options) == [("user", "Why?"), ("assistant", "Because.")]
    row["prompt"] = head + "### Input:\nRain\n\n### Response:\n"
    assert adapt("prompt_completion", row, **options)[0] == ("user", "Why?\n\nRain")
    with pytest.raises(MalformedRowError, match="not wrapped"):
        adapt("prompt_completion", {"prompt": "Why?", "answer": "x"}, **options)


def test_a_system_column_comes_first():
    row = {"system_prompt": "Be kind.", "question": "q", "response": "r"}
    options = {"prompt": "question", "completion": "response", "system": "system_prompt"}
    assert adapt("prompt_completion", row, **options)[0] == ("system", "Be kind.")
    assert adapt("prompt_completion", {**row, "system_prompt": ""}, **options)[0] == ("user", "q")


@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_a_system_column_is_read_unasked_beside_the_turns_or_in_their_object(column):
    turns, told = said(("human", "q"), ("gpt", "a")), ("system", "Be kind.")
    assert adapt("sharegpt", {"conversations": turns, column: "Be kind."})[0] == told
    nested = {"d": {"conversations": turns, column: "Be kind.", "tools": [{"name": "f"}]}}
    assert adapt("sharegpt", nested, conversations="d.conversations")[0] == told
    assert len(load_adapter("sharegpt", {"conversations": "d.conversations"}, where="test")(nested).tools) == 1
    assert adapt("alpaca", {"instruction": "i", "output": "o", column: "Be kind."})[0] == told
    assert adapt("alpaca", {"instruction": "i", "output": "o", column: " "})[0] == ("user", "i")


def test_thoughts_may_have_a_column_of_their_own():
    row = {"instruction": "i", "output": "o", "reasoning_content": "hm"}
    assert load_adapter("alpaca", {}, where="test")(row)[1]["reasoning_content"] == "hm"
    options = {"prompt": "Question", "completion": "Response", "reasoning": "Complex_CoT"}
    row = {"Question": "q", "Response": "r", "Complex_CoT": "hm"}
    assert load_adapter("prompt_completion", options, where="test")(row)[1]["reasoning_content"] == "hm"


def test_a_speaker_inside_an_answer_of_glaive_is_part_of_the_answer():
    chat = (
        "USER: Write a scene.\n\n\nASSISTANT: Here, USER: x\n\nUSER: hi\nASSISTANT: ho <|endoftext|>\n\n\nUSER: y\n\n"
    )
    chat += "\nASSISTANT: <functioncall> {} <|endoftext|>\n\n\nFUNCTION RESPONSE: 1\n\n\nASSISTANT: z <|endoftext|>"
    assert adapt("glaive", {"chat": chat, "system": "SYSTEM: s"}, calls="text") == [
        ("system", "s"),
        ("user", "Write a scene."),
        ("assistant", "Here, USER: x\n\nUSER: hi\nASSISTANT: ho"),
        ("user", "y"),
        ("assistant", "<functioncall> {}"),
        ("user", "1"),
        ("assistant", "z"),
    ]
    assert adapt("glaive", {"chat": "USER: q\nASSISTANT: a"}) == [("user", "q"), ("assistant", "a")]


def test_calls_of_glaive_are_calls_of_tools():
    schema = {"name": "f", "parameters": {"type": "object"}}
    chat = """USER: q\n\n\nASSISTANT: See. <functioncall> {"name": "f", "arguments": '{"a": "it's"}'} <|endoftext|>
\n\nFUNCTION RESPONSE: {"r": 1}\n\n\nASSISTANT: 1 <|endoftext|>\n"""
    system = f"SYSTEM: You can call these functions -\n{json.dumps(schema, indent=4)}\n\n{json.dumps(schema)}\n"
    made = load_adapter("glaive", {}, where="test")({"chat": chat, "system": system})
    assert [(turn["role"], turn["content"]) for turn in made] == [
        ("system", "You can call these functions"),
        ("user", "q"),
        ("assistant", "See."),
        ("tool", '{"r": 1}'),
        ("assistant", "1"),
    ]
    assert made[2]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"a": "it's"}}}]
    assert made.tools == [{"type": "function", "function": schema}] * 2
    plain = {"chat": chat.replace("'", ""), "system": "SYSTEM: Use {braces}."}
    assert load_adapter("glaive", {}, where="test")(plain)[0]["content"] == "Use {braces}."
    with pytest.raises(MalformedRowError, match="a function call is not valid JSON"):
        load_adapter("glaive", {}, where="test")({"chat": chat.replace("it's", 'it"s')})


def test_entries_that_a_table_made_up_are_no_arguments():
    call = {"function": {"name": "f", "arguments": {"x": 1, "y": None}}}
    schema = {"name": "f", "parameters": {"properties": {"x": {"type": "string"}, "y": None}}}
    row = {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}], "tools": [schema]}
    made = load_adapter("messages", {}, where="test")(row)
    assert made[0]["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert made.tools[0]["function"]["parameters"] == {"properties": {"x": {"type": "string"}}}
    call["function"]["arguments"] = '{"y": null}'  # written by a model
    assert load_adapter("messages", {}, where="test")(row)[0]["tool_calls"][0]["function"]["arguments"] == {"y": None}


DETECTED = [
    ({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}}, "sharegpt append"),
    ({"dialogue": [{"from": "human", "value": "q"}]}, "messages messages"),
    ({"a": {"messages": [{"role": "user", "content": "q"}]}}, "messages messages"),
    ({"question": "q", "context": "c", "answer": "a"}, "alpaca instruction input output"),
    ({"instruction": "q", "context": "c", "response": "a"}, "alpaca input output"),
    ({"prompt": [{"role": "user", "content": "q"}], "completion": "a"}, "prompt_completion"),
    ({"question": "q", "choices": ["a", "b"], "answer": "a"}, None),
    ({"prompt": "p", "chosen": "a", "rejected": "b"}, None),
]


@pytest.mark.parametrize(("row", "found"), DETECTED)
def test_columns_say_the_adapter_and_its_options_or_nothing(row, found):
    choice = detect(row)
    assert (choice and " ".join([choice[0], *choice[1]])) == found


def test_one_row_of_another_shape_does_not_stop_the_choice_and_many_do():
    rows = [({"question": "q", "answer": "1\n#### 1"}, f"x:{i}") for i in range(10)]
    odd = [({"question": "q", "answer": "1"}, "x:10")]
    assert choose(rows + odd)[0] == "gsm8k"
    with pytest.raises(MoemixError, match=r"several shapes: gsm8k \(x:0\); prompt_completion \(x:10\)"):
        choose(rows + odd * 2)


def test_values_nested_too_deeply_are_a_bad_row():
    deep: object = "x"
    for _ in range(150):
        deep = {"a": deep}
    row = {"messages": [{"role": "user", "content": "q"}], "tools": [deep]}
    with pytest.raises(MalformedRowError, match="nested more than 100 deep"):
        PartAdapter(Part(adapter="messages", files=("x",)), "test").read(row)


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("<think>\nhm\n</think>\n\nfour", "four"),
        ("hm</think>four", "four"),
        ("four <think>hm</think>five<think>x</think>", "four five"),
        ("<think>cut", ""),
        ("a < b", "a < b"),
    ],
)
def test_thoughts_are_removed_when_asked(answer, left):
    row = {"messages": [{"role": "assistant", "content": answer, "reasoning_content": "x"}]}
    made = PartAdapter(Part(adapter="messages", files=("x",), reasoning="drop"), "test").read(row)
    assert made == [{"role": "assistant", "content": left}]
    assert made.notes == ["thoughts were removed (`reasoning: drop`)"]


def test_gsm8k_annotations_go_unless_kept():
    row = {"question": "q", "answer": "48/2 = <<48/2=24>>24 < 30\n#### 24"}
    assert adapt("gsm8k", row)[-1][1] == "48/2 = 24 < 30\n#### 24"
    assert adapt("gsm8k", row, annotations="keep")[-1][1] == row["answer"]


def test_aqua_shows_the_choices_and_ends_in_the_letter():
    row = {"question": "q", "options": ["A)1", "B)2"], "rationale": "Half of 4.\n", "correct": "B"}
    (_, question), (_, answer) = adapt("aqua", row)
    assert question.endswith("A)1\nB)2")
    assert answer == "Half of 4.\n\nThe answer is B."


def test_mbpp_shows_the_tests_and_answers_with_plain_line_ends():
    row = {"text": "Add.", "code": "def f(a):\r\n    return a", "test_list": ["assert f(1) == 1"]}
    (_, question), (_, answer) = adapt("mbpp", row)
    assert "assert f(1) == 1" in question
    assert answer == "def f(a):\n    return a"


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("sharegpt", {"conversation": []}, "`conversations` is missing"),
        ("sharegpt", {"conversations": "hello"}, "should be a list, and is text"),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "`value` is missing"),
        ("sharegpt", {"conversations": ["hello"]}, "should hold objects, and holds text"),
        ("sharegpt", {"conversations": said(("gtp", "x"))}, "did you mean 'gpt'"),
        ("messages", {"messages": [{"role": "asistant", "content": "x"}]}, "did you mean 'assistant'"),
        ("messages", {"messages": ["hello"]}, "should hold objects"),
        ("alpaca", {"instruction": True, "output": "x"}, "should be text, and is true or false"),
        ("alpaca", {"instruction": "i", "output": None}, "`output` is null"),
        ("alpaca", {"instruction": "i", "output": float("nan")}, "`output` is NaN"),
        ("messages", {"messages": [{"role": "user", "content": None}]}, "`content` is null"),
        ("messages", {"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}, "should be 0 or 1"),
        ("aqua", {"question": "q", "options": None}, "`options` is null"),
        ("text", {"texts": "x"}, "`text` is missing"),
    ],
)
def test_a_row_outside_its_format_says_what_is_wrong(name, row, message):
    with pytest.raises(MalformedRowError, match=message):
        adapt(name, row)


def test_an_option_outside_its_choices_is_named():
    with pytest.raises(MoemixError, match="did you mean 'keep'"):
        load_adapter("gsm8k", {"annotations": "kep"}, where="source math")


def test_an_adapter_of_ones_own_is_a_function_in_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def song(row, *, voice='sung'):\n"
        "    return [{'role': 'user', 'content': row['title']}, {'role': 'assistant', 'content': row[voice]}]\n"
    )
    assert adapt(f"{file}:song", {"title": "t", "hummed": "la"}, voice="hummed")[-1] == ("assistant", "la")
    with pytest.raises(MoemixError, match="did you mean 'voice'"):
        load_adapter(f"{file}:song", {"voic": "hummed"}, where="test")
    with pytest.raises(MoemixError, match="did you mean 'song'"):
        load_adapter(f"{file}:sung", {}, where="test")
    with pytest.raises(MoemixError, match="does not exist"):
        load_adapter(f"{tmp_path / 'yours.py'}:song", {}, where="test")
    file.write_text("import nothing_of_that_name\n")
    with pytest.raises(MoemixError, match="does not run"):
        load_adapter(f"{file}:song", {}, where="test")


def test_an_adapter_may_be_an_entry_point_of_a_package(tmp_path, monkeypatch):
    (tmp_path / "songs_plugin.py").write_text("def song(row, *, voice='sung'):\n    return row[voice]\n")
    information = tmp_path / "songs-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: songs\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[moemix.adapters]\nsong = songs_plugin:song\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert adapt("song", {"sung": "la", "hummed": "mm"}, voice="hummed") == "mm"
    with pytest.raises(MoemixError, match="did you mean 'song'"):
        load_adapter("sing", {}, where="test")


@pytest.mark.data
def test_every_training_row_of_the_real_files_is_in_its_format(real_data):
    seen = set()
    for source in load_recipe("smol").data.sources:
        for part in source.parts:
            adapter = PartAdapter(part, source.name)
            seen.add(part.adapter)
            rows = read_part(part, root=real_data, source=source.name)
            read = 0
            for row, where in rows:
                read += 1
                if (made := adapter.read(row)) is not None:
                    assert made[-1]["role"] == "assistant", where
                    assert "eos_token###" not in made[-1]["content"], where
                    assert "<|endoftext|>" not in made[-1]["content"], where
            assert read == rows.count
    assert seen >= {"sharegpt", "messages", "alpaca", "prompt_completion", "gsm8k"} <= set(ADAPTERS)
