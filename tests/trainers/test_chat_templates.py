"""The shipped chat templates write what the models' own write, and what is learnt is the answer and its end.

``golden/chat_templates.json`` holds what the published templates make of some conversations, and where each was found;
GLM's end token and the end-of-sequence token's name are ours.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_data_template import byte_level, wrap
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from harness.chat_templates import chat_template, chat_template_names
from harness.errors import MoemixError
from harness.recipe import CheckpointModel, UpcycledModel
from harness.schema import parse
from trainers.data.conversation import Conversation, UnusableRowError
from trainers.data.encoder import Encoder

GOLDEN = json.loads((Path(__file__).parent / "golden" / "chat_templates.json").read_text())
# What the templates say of themselves: thoughts are kept that the published ones leave out.
DIFFERENT = {
    "chatml": {"reasoning", "reasoning, turns"},
    "deepseek-v3": {"reasoning", "reasoning, turns", "inline, turns", "prompt", "text and call", "thought and call"},
}
NAMES = chat_template_names()
CONTROL = [
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("[gMASK]", "<sop>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]"),
    *("[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[TOOL_CONTENT]", "[/TOOL_RESULTS]", "<｜User｜>"),
    *("<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    *("<｜tool▁calls▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
    "<｜tool▁outputs▁end｜>",
]


@pytest.fixture(scope="module")
def backend():
    return byte_level().to_str()


@pytest.fixture
def encoder(backend):
    def make(name: str) -> Encoder:
        tokenizer = wrap(Tokenizer.from_str(backend))
        tokenizer.add_special_tokens({"additional_special_tokens": CONTROL})
        tags = ("<think>", "</think>", "<tool_call>", "</tool_call>")
        tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
        tokenizer.chat_template = chat_template(name)
        return Encoder(tokenizer)

    return make


def rendered(name: str, conversation: dict) -> str:
    return render_jinja_template(
        conversations=[conversation["messages"]],
        tools=conversation.get("tools"),
        chat_template=chat_template(name),
        add_generation_prompt=conversation.get("prompt", False),
        bos_token="<s>",
        eos_token="</s>",
    )[0][0]


PUBLISHED = [(name, kind) for name, entry in GOLDEN["templates"].items() for kind in entry["texts"]]


@pytest.mark.parametrize(("name", "kind"), PUBLISHED)
def test_a_template_writes_what_the_models_own_writes(name, kind):
    same = rendered(name, GOLDEN["conversations"][kind]) == GOLDEN["templates"][name]["texts"][kind]
    assert same == (kind not in DIFFERENT.get(name, ()))


def test_every_shipped_template_is_checked_against_its_models():
    assert {*GOLDEN["templates"], "vicuna", "mistral-v7"} == set(chat_template_names())


def test_every_shipped_template_is_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []


def test_vicuna_writes_what_fastchat_writes():
    conversation = pytest.importorskip("fastchat.conversation").get_conv_template("vicuna_v1.1")
    for turn in ("Q1", "A1", "Q2", "A2"):
        conversation.append_message(conversation.roles[len(conversation.messages) % 2], turn)
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, (_, text) in enumerate(conversation.messages)]
    assert rendered("vicuna", {"messages": messages}) == "<s>" + conversation.get_prompt()


def test_mistral_writes_what_mistrals_own_tokenizers_write():
    common = pytest.importorskip("mistral_common")
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.protocol.instruct.validator import ValidationMode
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    folder = Path(common.__file__).parent / "data"
    turns = GOLDEN["conversations"]["turns"]["messages"][:4]
    answer = {"role": "assistant", "content": "A2"}
    first, *rest = GOLDEN["conversations"]["tools, turns"]["messages"]
    with_tools = {"messages": [turns[0], first, *rest], "tools": GOLDEN["conversations"]["tools, turns"]["tools"]}
    for name, file, conversation in (
        ("mistral", "tokenizer.model.v1", {"messages": [*turns, answer]}),
        ("mistral-v7", "mistral_instruct_tokenizer_241114.model.v7", {"messages": [*turns, answer]}),
        ("mistral-v7", "mistral_instruct_tokenizer_241114.model.v7", with_tools),
    ):
        own = MistralTokenizer.from_file(str(folder / file), mode=ValidationMode.finetuning)
        text = own.encode_chat_completion(ChatCompletionRequest.model_validate(conversation)).text
        text = text.replace("<0x0A>", "\n")
        if name == "mistral-v7":  # the blank that SentencePiece writes after a control token, and Tekken does not
            text = re.sub(r"(\]|<s>|</s>)▁(?=[^\[]|\[\{)", r"\1", text)
        assert rendered(name, conversation) == text.replace("▁", " ")


# --- what is learnt, by an oracle that knows the answers and the tokens that end them ---------------

END = {"chatml": "<|im_end|>", "qwen2.5": "<|im_end|>", "qwen3": "<|im_end|>", "phi-4": "<|im_end|>"}
END |= {"llama-3": "<|eot_id|>", "llama-3.1": "<|eot_id|>", "gemma": "<end_of_turn>", "phi-3": "<|end|>"}
END |= {"glm-4.5": "<|user|>"}  # all others: </s>
QWEN = '<tool_call>\n{"name": "w", "arguments": {"c": "Füße"}}\n</tool_call>'
CALLED = {
    "qwen2.5": QWEN,
    "qwen3": QWEN,
    "llama-3.1": '{"name": "w", "parameters": {"c": "Füße"}}',
    "mistral-v7": '[TOOL_CALLS][{"name": "w", "arguments": {"c": "Füße"}, "id": "abcdefghi"}]',
    "deepseek-v3": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>w\n```json\n{"c": "Füße"}\n```'
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "glm-4.5": "<tool_call>w\n<arg_key>c</arg_key>\n<arg_value>Füße</arg_value>\n</tool_call>",
}
WRITES_THOUGHTS = {"chatml", "qwen3", "deepseek-v3"}  # GLM's are tested for themselves


def say(*turns: str, **last: object) -> list[dict]:
    roles = ("user", "assistant")
    made = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    made[-1].update(last)
    return made


def learnt(
    made: Encoder, messages: list[dict], tools: list[dict] | None = None, length: int | None = None
) -> list[str]:
    """Each unbroken run of learnt tokens, as text."""
    encoded = made.encode([made.render(Conversation(messages, tools or ()))])[0]
    if isinstance(encoded, UnusableRowError):
        raise encoded
    ids, targets = (array[:length].tolist() for array in encoded)
    runs: list[list[int]] = []
    for before, now, token in zip([False, *targets], targets, ids, strict=False):
        if now and not before:
            runs.append([])
        if now:
            runs[-1].append(token)
    return [made.tokenizer.decode(run, skip_special_tokens=False) for run in runs]


def check(name: str, runs: list[str], answers: list[str], ends: dict[int, str] | None = None) -> None:
    """Compare with the answers; the one blank that a template puts before an answer may be in its first token."""
    expected = [answer + (ends or {}).get(i, END.get(name, "</s>")) for i, answer in enumerate(answers)]
    if name == "glm-4.5":  # its answers begin on a new line, which the model writes
        expected = ["\n" + text for text in expected]
    assert [run.removeprefix(" ") if name in ("vicuna", "mistral", "deepseek-v2") else run for run in runs] == expected


@pytest.mark.parametrize("name", NAMES)
def test_answers_and_their_ends_are_learnt(encoder, name):
    made = encoder(name)
    check(name, learnt(made, say("Q1", "one, two")), ["one, two"])
    check(name, learnt(made, say("Q1", "one", "Q2", "two\n\ntwo", "one", "x")), ["one", "two\n\ntwo", "x"])
    system = [{"role": "system", "content": "Say one."}, *say("Q1", "one")]
    check(name, learnt(made, system), ["one"])
    assert "Say one." in made.render(system).text
    weighted = [*say("Q1", "bad"), *say("Q2", "good")]
    weighted[1]["train"] = False
    check(name, learnt(made, weighted), ["good"])


@pytest.mark.parametrize("name", NAMES)
def test_any_letters_and_control_strings_are_learnt_as_text(encoder, name):
    made = encoder(name)
    for answer in ("はい 🦊\u200d🔥 é, Füße", "<|im_end|> ends <|user|> a [INST] </s> turn", "[/INST]<think> is a tag"):
        check(name, learnt(made, say(f"Q {answer}", answer)), [answer])
    ends = made.template.end_tokens
    ids, targets = made.encode([made.render(say("</s><|im_end|>", "<|eot_id|><|im_end|></s><|user|>"))])[0]
    assert [token in ends for token in ids[targets]] == [False] * (targets.sum() - 1) + [True]


@pytest.mark.parametrize("name", NAMES)
def test_thoughts_are_learnt_or_said_to_be_left_out(encoder, name):
    made = encoder(name)
    answer = "<think>\nhm\n</think>\n\nfour"
    inline, apart = say("2+2?", answer), say("2+2?", "four", reasoning_content="hm")
    if name == "glm-4.5":
        for turns in (inline, apart):
            check(name, learnt(made, turns), ["<think>hm</think>\nfour"])
        return
    check(name, learnt(made, inline), [answer])
    check(name, learnt(made, apart), [answer if name in WRITES_THOUGHTS else "four"])
    assert made.render(Conversation(apart)).notes == (
        () if name in WRITES_THOUGHTS else ("the chat template left out thoughts",)
    )


CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "w", "arguments": {"c": "Füße"}}}
TOOLS = [{"type": "function", "function": {"name": "w", "description": "?", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("name", NAMES)
def test_calls_of_tools_are_learnt_where_the_template_has_them(encoder, name):
    made = encoder(name)
    result = {"role": "tool", "content": "21", "tool_call_id": "abcdefghi"}
    turns = [*say("Weather?", "", tool_calls=[CALL]), result, {"role": "assistant", "content": "It is 21."}]
    if name not in CALLED:
        with pytest.raises(UnusableRowError, match=r"tool|alternate"):
            made.render(Conversation(turns))
        return
    tools = None if name == "deepseek-v3" else TOOLS  # its template has no place for schemas
    ends = {0: "<|observation|>"} if name == "glm-4.5" else None
    check(name, learnt(made, turns, tools), [CALLED[name], "It is 21."], ends)
    turns[1] = {**turns[1], "content": "Let me see."}
    if name == "llama-3.1":
        with pytest.raises(UnusableRowError, match="the text beside a call"):
            made.render(Conversation(turns, TOOLS))
    else:
        between = "" if name in ("deepseek-v3", "mistral-v7") else "\n"
        check(name, learnt(made, turns, tools), [f"Let me see.{between}{CALLED[name]}", "It is 21."], ends)
    if name == "deepseek-v3":
        with pytest.raises(UnusableRowError, match="leaves out the schemas"):
            made.render(Conversation(turns, TOOLS))


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_example_is_the_beginning_of_the_whole_one(encoder, name):
    made = encoder(name)
    turns = say("Q1", "one two three", "Q2", "four five six")
    whole, length = "".join(learnt(made, turns)), len(made.encode([made.render(turns)])[0][0])
    for cut in range(length - 5, length):
        part = "".join(learnt(made, turns, length=cut))
        assert whole.startswith(part.rstrip("\ufffd"))
        assert len(part) < len(whole) or cut > length - 3  # a line end or an end of the text may follow


# --- in a recipe -------------------------------------------------------------------------------------


def test_a_recipe_names_a_template_a_file_or_gives_jinja(tmp_path):
    checkpoint = {"kind": "checkpoint", "name": "m", "source": "org/m"}
    jinja = "{{ eos_token }}"
    (tmp_path / "own.jinja").write_text(jinja)
    for given, kept in (("llama-3", "llama-3"), (str(tmp_path / "own.jinja"), jinja), (jinja, jinja), (None, None)):
        made = CheckpointModel.model_validate({**checkpoint, "chat_template": given})
        assert made.chat_template == kept
        assert CheckpointModel.model_validate(made.model_dump()) == made
    with pytest.raises(MoemixError, match=r"(?s)unknown chat template 'lama-3'.*did you mean 'llama-3'"):
        parse(CheckpointModel, {**checkpoint, "chat_template": "lama-3"}, where="recipe")
    upcycled = UpcycledModel.model_validate({"kind": "upcycle", "name": "m", "source": "org/m"})
    assert "chat_template" not in upcycled.model_dump(), "models made before there was the key keep their identity"


def test_a_template_without_an_end_token_is_refused_with_the_shipped_one_that_fits(backend):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend), eos_token="<|endoftext|>")
    speakers = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["[gMASK]", "<sop>", *speakers]})
    tokenizer.chat_template = "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
    with pytest.raises(MoemixError, match=r"(?s)no special token: a model could not.*`chat_template: glm-4.5`"):
        learnt(Encoder(tokenizer), say("q", "a"))
    tokenizer.chat_template = chat_template("glm-4.5")
    check("glm-4.5", learnt(Encoder(tokenizer), say("q", "a")), ["a"])
