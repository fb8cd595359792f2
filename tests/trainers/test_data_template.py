"""Exactly the answers and the token that ends each are learnt, whatever the chat template does around them."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from harness.errors import MoemixError
from trainers.data.answers import Rendered
from trainers.data.conversation import UnusableRowError
from trainers.data.encoder import Encoder

TEXT = [
    "Once upon a time a fox said hello to the assistant. The user asked: which answer is right?",
    "def add(a, b):\n    if a:\n        return a + b\n\n    return b\n",
    "USER: hello ASSISTANT: hello [INST] hello [/INST] yes yes no no\n\n\n",
]
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
SPECIAL += ["<|eot_id|>", "<|user|>", "<|system|>"]

# name: (template, what it keeps of an answer, the token that ends one)
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
        "<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}",
        str,
        "<|im_end|>",
    ),
    "vicuna 1.1": (
        "{{ bos_token + 'A chat.' }}{% for m in messages %}{% if m.role == 'user' %}{{ ' USER: ' + m.content }}"
        "{% elif m.role == 'system' %}{{ ' ' + m.content }}{% else %}{{ ' ASSISTANT: ' + m.content + eos_token }}"
        "{% endif %}{% endfor %}",
        str,
        "</s>",
    ),
    "llama 2": (
        "{% if messages[0].role == 'system' %}{% set loud = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set loud = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{% if m.role == 'user' %}"
        "{{ bos_token + '[INST] ' + (loud if loop.first else '') + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        str.strip,
        "</s>",
    ),
    "llama 3": (
        "{% for m in messages %}{% if loop.first %}<|begin_of_text|>{% endif %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}",
        str.strip,
        "<|eot_id|>",
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}",
        str.lstrip,  # here <|assistant|> is a token that takes in all the blanks after it
        "</s>",
    ),
    "thoughts of earlier turns cut": (
        "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and not loop.last %}"
        "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}",
        None,
        "<|im_end|>",
    ),
    "marked": (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}"
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}",
        str,
        "<|im_end|>",
    ),
    "marked without its end": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '[A]' }}{% generation %}{{ m.content }}"
        "{% endgeneration %}{{ eos_token }}{% else %}{{ '[U]' + m.content }}{% endif %}{% endfor %}",
        str,
        "</s>",
    ),
}


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXT * 4, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    return made


def byte_level_with_trimmed_offsets() -> Tokenizer:
    """As GPT-2's and Llama 3's: a token's offsets leave out its blanks."""
    made = byte_level()
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    return made


def sentencepiece_like() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(steps)
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    made.train_from_iterator(TEXT * 4, trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", *bytes_]))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)  # as Llama's is
    return made


def wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    swallowing = AddedToken("<|assistant|>", rstrip=True, special=True)
    made.add_special_tokens({"additional_special_tokens": [*SPECIAL, swallowing]})
    return made


KINDS = {
    "byte level": byte_level,
    "byte level, trimmed": byte_level_with_trimmed_offsets,
    "sentencepiece": sentencepiece_like,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return wrap(KINDS[request.param]())


@pytest.fixture(scope="module")
def plain_tokenizer():
    return wrap(byte_level())


def encoder(tokenizer, template: str) -> Encoder:
    tokenizer.chat_template = template
    return Encoder(tokenizer)


def chat(*contents: str, system: str | None = None) -> list[dict]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system is not None else []), *turns]


def learnt(made: Encoder, messages: list[dict]) -> list[list[int]]:
    """Each unbroken run of learnt tokens."""
    encoded = made.encode([made.render(messages)])[0]
    if isinstance(encoded, UnusableRowError):
        raise encoded
    ids, targets = encoded
    assert ids.tolist() == made.tokenizer(made.render(messages).text, add_special_tokens=False)["input_ids"]
    runs: list[list[int]] = []
    for before, now, token in zip([False, *targets], targets, ids.tolist(), strict=False):
        if now and not before:
            runs.append([])
        if now:
            runs[-1].append(token)
    return runs


def kept_of(name: str, contents: tuple[str, ...]) -> list[str]:
    answers = list(contents[1::2])
    keep = TEMPLATES[name][1]
    if keep is not None:
        return [keep(answer) for answer in answers]
    cut = [answer.split("</think>")[-1].lstrip("\n") for answer in answers[:-1]]
    return [*cut, answers[-1]]


def check(name: str, made: Encoder, contents: tuple[str, ...], system: str | None) -> None:
    end = TEMPLATES[name][2]
    runs, kept = learnt(made, chat(*contents, system=system)), kept_of(name, contents)
    assert len(runs) == len(kept)
    for run, answer in zip(runs, kept, strict=True):
        # A template's blank may be part of the answer's first token, or stand before the end token.
        whole = re.compile(r"\s*" + re.escape(answer) + r"\s*" + re.escape(end))
        text, without_first = (made.tokenizer.decode(tokens, skip_special_tokens=False) for tokens in (run, run[1:]))
        assert whole.fullmatch(text)
        if isinstance(made.tokenizer.backend_tokenizer.decoder, decoders.ByteLevel):  # others make up a first blank
            assert not whole.fullmatch(without_first), "the first token is a blank of the template's own"


CONVERSATIONS = [
    ("Say hello.", "hello"),
    ("hello", "hello", "Again: hello", "hello hello"),
    ("Füße?", "Füße – 🦊🦊", "東京", "はい、そうです。"),
    ("Write add.", "    if a:\n        return a + b\n\n    return b", "More", "\tx\n"),
    ("Twice.", "\nhello", "Again.", "\n\nhello"),
    ("yes\n", " yes ", "no", "<think>hm\n\nno</think>\n\nno", "yes", "<think>well</think>\n\nyes\n"),
    ("[INST] USER: x ASSISTANT:", "ASSISTANT: [/INST] USER: hello", "x", "assistant\nuser"),
]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("contents", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
@pytest.mark.parametrize("system", [None, "", "Be brief: hello."])
def test_the_answers_and_their_ends_are_learnt_and_nothing_else(tokenizer, name, contents, system):
    check(name, encoder(tokenizer, TEMPLATES[name][0]), contents, system)


words = st.lists(
    st.sampled_from(
        ["hello", "yes", " ", "\n", "\n\n", "    ", "é", "🦊", "assistant", "USER:", "[/INST]", "x", "Q", "."]
    ),
    min_size=1,
    max_size=8,
).map("".join)


@given(contents=st.lists(st.tuples(words, words), min_size=1, max_size=4), name=st.sampled_from(sorted(TEMPLATES)))
@settings(max_examples=200, deadline=None)
def test_no_conversation_is_learnt_wrongly(plain_tokenizer, contents, name):
    made = encoder(plain_tokenizer, TEMPLATES[name][0])
    flat = tuple(text for pair in contents for text in pair)
    if all(answer.strip() for answer in flat[1::2]):
        check(name, made, flat, None)
    else:
        with pytest.raises(UnusableRowError, match="empty assistant turn"):
            made.render(chat(*flat))


@pytest.mark.parametrize("answer", ["<think></think>", "<think>\n \n</think>\n", "</think>"])
def test_an_empty_thought_alone_is_no_answer(plain_tokenizer, answer):
    with pytest.raises(UnusableRowError, match="empty assistant turn"):
        encoder(plain_tokenizer, TEMPLATES["chatml"][0]).render(chat("q", "a", "q", answer))


def test_control_strings_that_are_words_of_the_vocabulary_keep_all_tokens_in_place():
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner = ["<unk>", "<s>", "</s>"]  # in the vocabulary, as Llama 2's and Mistral's are
    made.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=inner))
    tokenizer = wrap(made)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    chats = [chat("q", f"<think>x</think>{answer}") for answer in ("a", "a </s>")]
    coder = encoder(tokenizer, TEMPLATES["vicuna 1.1"][0])
    plain, named = (coder.encode([coder.render(messages)])[0] for messages in chats)
    text = tokenizer.decode(named[0][named[1]], skip_special_tokens=False).strip()
    assert text == "<think>x</think>a </s></s>"
    tags = [tokenizer.convert_tokens_to_ids(tag) for tag in ("<think>", "</think>")]
    for ids, _ in (plain, named):
        assert [token for token in ids.tolist() if token in tags] == tags
        assert ids.tolist().count(tokenizer.eos_token_id) == 1


def test_control_strings_that_cannot_be_text_leave_the_row_out():
    vocabulary = [
        ("<unk>", 0.0),
        ("<s>", 0.0),
        ("</s>", -1.0),
        *((letter, -9.0) for letter in "▁ABCHIQSTUNEGRacdegimnoqrstux.:<>/"),
    ]
    made = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(prepend_scheme="never"), decoders.Metaspace()
    coder = encoder(wrap(made), TEMPLATES["vicuna 1.1"][0])
    with pytest.raises(UnusableRowError, match="cannot encode the control strings"):
        learnt_tokens(coder, chat("q", "a </s> a"))
    assert learnt_tokens(coder, chat("q", "a"))


def learnt_tokens(made: Encoder, messages: list[dict]) -> list[int]:
    encoded = made.encode([made.render(messages)])[0]
    if isinstance(encoded, UnusableRowError):
        raise encoded
    return encoded[0][encoded[1]].tolist()


def test_a_batch_gives_each_conversation_what_it_gets_alone(tokenizer):
    made = encoder(tokenizer, TEMPLATES["chatml"][0])
    rendered = [made.render(chat(*contents)) for contents in CONVERSATIONS] + [Rendered("raw text")]
    together = made.encode(rendered)
    for item, (ids, targets) in zip(rendered, together, strict=True):
        alone_ids, alone_targets = made.encode([item])[0]
        assert ids.tolist() == alone_ids.tolist()
        assert targets.tolist() == alone_targets.tolist()


def test_raw_text_is_learnt_whole_and_closed(tokenizer):
    ids, targets = Encoder(tokenizer).encode([Rendered("Once upon a time")])[0]
    assert targets.tolist() == [False] + [True] * (len(ids) - 1)
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", "could not learn to stop"),
        ("{{ raise_exception('closed today') }}", "closed today"),
    ],
)
def test_a_template_that_cannot_be_learnt_from_is_refused_with_the_reason(plain_tokenizer, template, said):
    with pytest.raises((MoemixError, UnusableRowError), match=said):
        learnt(encoder(plain_tokenizer, template), chat("q", "a"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m.content | upper + eos_token }}{% endfor %}", "leaves out or reorders|alters"),
        ("{% for m in messages %}{{ m.content + eos_token + m.content + eos_token }}{% endfor %}", "more than once"),
        ("{% for m in messages | reverse %}{{ m.content + eos_token }}{% endfor %}", "reorders"),
        ("{% for m in messages %}{{ m.content | replace('fox', 'dog') + eos_token }}{% endfor %}", "alters|leaves out"),
    ],
)
def test_a_template_that_alters_answers_is_not_guessed_at(plain_tokenizer, template, said):
    with pytest.raises(UnusableRowError, match=said):
        encoder(plain_tokenizer, template).render(chat("Q", "a fox", "Q", "the fox"))


def test_an_answer_may_hold_the_end_token_itself(plain_tokenizer):
    made = encoder(plain_tokenizer, "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
    assert made.render([{"role": "assistant", "content": "a</s>b"}]).spans == ((0, 6),)


def test_a_mark_may_reach_past_the_end_token(plain_tokenizer):
    inside = "'<|im_end|>\n' }}{% endgeneration %}"
    template = TEMPLATES["marked"][0].replace("'<|im_end|>' }}{% endgeneration %}{{ '\n' }}", inside)
    assert inside in template
    runs = learnt(encoder(plain_tokenizer, template), chat("q", "yes", "q", "no"))
    assert [plain_tokenizer.decode(run) for run in runs] == ["yes<|im_end|>\n", "no<|im_end|>\n"]


def test_an_answer_of_which_the_template_prints_a_part_is_refused(plain_tokenizer):
    last_part = encoder(
        plain_tokenizer, "{% for m in messages %}{{ m.content.split('|')[-1] + eos_token }}{% endfor %}"
    )
    answers = [{"role": "assistant", "content": text} for text in ("a</s>a|a", "a</s>a|a</s>a")]
    for some in (answers[:1], answers):
        with pytest.raises(UnusableRowError, match="alters an assistant turn"):
            last_part.render(some)


def test_conversations_the_template_has_no_place_for_say_why(plain_tokenizer):
    strict = encoder(plain_tokenizer, TEMPLATES["llama 2"][0])
    with pytest.raises(UnusableRowError, match="roles must alternate"):
        strict.render([{"role": "user", "content": "a"}, *chat("b", "c")])
    users_only = "{% for m in messages %}{% if m.role != 'tool' %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    with pytest.raises(UnusableRowError, match="leaves out a tool turn"):
        encoder(plain_tokenizer, users_only).render([*chat("q", "call"), {"role": "tool", "content": "42"}])
    with pytest.raises(UnusableRowError, match="no assistant turn"):
        strict.render(chat("only a question"))


def test_a_token_that_holds_header_and_answer_alike_is_refused(plain_tokenizer):
    glued = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
    backend = byte_level()
    backend.add_tokens([AddedToken(":)", normalized=True)])
    with pytest.raises(UnusableRowError, match="holds both"):
        learnt(encoder(wrap(backend), glued), chat("Smile!", ") hello"))


def test_tokens_do_not_depend_on_the_day(plain_tokenizer):
    dated = "{{ 'Today: ' + strftime_now('%d %b %Y') }}" + TEMPLATES["chatml"][0]
    assert encoder(plain_tokenizer, dated).render(chat("q", "a")).text.startswith("Today: 26 Jul 2024")
