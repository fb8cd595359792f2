"""Formats: each adapter turns one row of a published format into a conversation, or into raw text.

An adapter is a function of a row; its keyword arguments are its options. ``ADAPTERS`` is the whole list, and a
file of one's own works as well: ``path/to/file.py:function``.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from harness.errors import unknown
from harness.plugins import file_reference, module_from
from trainers.data.conversation import Conversation, Malformed, Message, Unusable

Row = Mapping[str, Any]
Adapter = Callable[[Row], Conversation | str]

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",  # the model writes the call; the answer to it comes from outside
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
OPENAI_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}

ALPACA_PROMPT = re.compile(
    r"Below is an instruction.*?\n\n### Instruction:\n(?P<instruction>.*?)"
    r"(?:\n\n### Input:\n(?P<input>.*?))?\n\n### Response:\s*",
    re.DOTALL,
)


def sharegpt(
    row: Row,
    *,
    conversations: str = "conversations",
    append: str | None = None,
    tools: str | None = None,
    tool_role: Literal["user", "tool"] = "user",
) -> Conversation:
    """``conversations: [{from, value}]``.

    Options:
        conversations: the column of turns.
        append: a column that holds one more turn (``chosen`` of a preference file).
        tools: a column of tool schemas, given to the model in the system turn.
        tool_role: the role of what a tool answered. Few chat templates have a ``tool`` turn, and many that lack it
            drop it, so the default is ``user``.
    """
    turns = list(_list(row, conversations))
    if append is not None:
        turns.append(_required(row, append))
    messages: Conversation = []
    for turn in turns:
        who = _text(turn, "from").lower()
        if who not in SHAREGPT_ROLES:
            raise Malformed(str(unknown("speaker", who, SHAREGPT_ROLES)))
        role = SHAREGPT_ROLES[who]
        messages.append({"role": tool_role if role == "tool" else role, "content": _text(turn, "value")})
    if tools is not None:
        messages = _with_tools(messages, row.get(tools))
    return messages


def messages(row: Row, *, messages: str = "messages", append: str | None = None) -> Conversation:
    """``messages: [{role, content}]``, the shape of the OpenAI API; ``append`` names a column with one more turn."""
    turns = list(_list(row, messages))
    if append is not None:
        turns.append(_required(row, append))
    found: Conversation = []
    for turn in turns:
        role = _text(turn, "role")
        if role not in OPENAI_ROLES:
            raise Malformed(str(unknown("role", role, OPENAI_ROLES)))
        found.append({"role": role, "content": _content(turn)})
    return found


def alpaca(
    row: Row,
    *,
    instruction: str = "instruction",
    input: str = "input",
    output: str = "output",
    system: str | None = None,
    instances: str | None = None,
) -> Conversation:
    """``instruction``, optional ``input``, ``output``: the input stands below the instruction.

    Options:
        instruction, input, output, system: column names (GPTeacher calls its answer ``response``).
        instances: a column with a list of ``{input, output}``; the first is taken (self-instruct).
    """
    task = _text(row, instruction)
    holder = row
    if instances is not None:
        listed = _list(row, instances)
        if not listed:
            raise Unusable("no instance of the task")
        holder = _mapping(listed[0], instances)
    given = _text(holder, input) if holder.get(input) is not None else ""
    return _dialogue(_below(task, given), _text(holder, output), system=_text(row, system) if system else "")


def prompt_completion(
    row: Row,
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    system: str | None = None,
    strip_suffix: str | Sequence[str] = (),
    unwrap: bool = False,
) -> Conversation:
    """A question column and an answer column.

    Options:
        prompt, completion, system: column names (``question`` and ``response`` in OpenOrca, …).
        strip_suffix: end markers written into the answers (``<|endoftext|>``), removed where an answer ends in one.
        unwrap: take the question out of the Alpaca prompt it is wrapped in ("Below is an instruction …"), since the
            chat template does that work.
    """
    question, answer = _text(row, prompt), _text(row, completion).rstrip()
    for suffix in [strip_suffix] if isinstance(strip_suffix, str) else strip_suffix:
        answer = answer.removesuffix(suffix).rstrip()
    if unwrap:
        wrapped = ALPACA_PROMPT.fullmatch(question)
        if wrapped is None:
            raise Malformed(f"`{prompt}` is not wrapped in the Alpaca prompt, and `unwrap` is set")
        question = _below(wrapped["instruction"], wrapped["input"] or "")
    return _dialogue(question, answer, system=_text(row, system) if system else "")


def gsm8k(row: Row, *, annotations: Literal["strip", "keep"] = "strip") -> Conversation:
    """``question`` and ``answer`` with worked steps and a last line ``#### 72``.

    Options:
        annotations: ``strip`` or ``keep`` the calculator annotations ``<<48/2=24>>``.
    """
    answer = _text(row, "answer")
    if annotations == "strip":
        answer = re.sub(r"<<[^<>]*>>", "", answer)
    return _dialogue(_text(row, "question"), answer)


def aqua(row: Row) -> Conversation:
    """``question``, ``options`` such as ``A)600``, ``rationale``, ``correct``: the rationale, then the letter."""
    options = "\n".join(str(option) for option in _list(row, "options"))
    question = f"{_text(row, 'question')}\n\nAnswer choices:\n{options}"
    return _dialogue(question, f"{_text(row, 'rationale').rstrip()}\n\nThe answer is {_text(row, 'correct')}.")


def mbpp(row: Row) -> Conversation:
    """``text``, ``code``, ``test_list``: the task with its tests, answered by the code (line ends made plain)."""
    tests = "\n".join(str(test) for test in _list(row, "test_list"))
    question = f"{_text(row, 'text')}\n\nYour code should pass these tests:\n\n{tests}"
    return _dialogue(question, _text(row, "code").replace("\r\n", "\n").strip())


def text(row: Row, *, text: str = "text") -> str:
    """Raw text in the column ``text``; every token but the first is learnt."""
    return _text(row, text)


ADAPTERS: dict[str, Callable[..., Conversation | str]] = {
    "sharegpt": sharegpt,
    "messages": messages,
    "alpaca": alpaca,
    "prompt_completion": prompt_completion,
    "gsm8k": gsm8k,
    "aqua": aqua,
    "mbpp": mbpp,
    "text": text,
}


def load_adapter(name: str, options: Mapping[str, Any], *, where: str) -> Adapter:
    """The adapter called ``name`` (or ``path/to/file.py:function``) with its options filled in.

    Raises:
        MoemixError: no such adapter, file, function or option; the nearest is named.
    """
    if reference := file_reference(name):
        file, function_name = reference
        functions = dict(inspect.getmembers(module_from(file, "adapter"), inspect.isfunction))
        if function_name not in functions:
            raise unknown("function", function_name, functions, where=str(file))
        function: Callable[..., Conversation | str] = functions[function_name]
    elif name in ADAPTERS:
        function = ADAPTERS[name]
    else:
        raise unknown("adapter", name, ADAPTERS, where=where)
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    types = typing.get_type_hints(function)
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of the adapter {name}:", option, known, where=where)
        choices = typing.get_args(types.get(option)) if typing.get_origin(types.get(option)) is Literal else ()
        if choices and value not in choices:
            raise unknown(f"value of `{option}`:", value, choices, where=where)
    return functools.partial(function, **options)


# --- pieces that adapters are made of ---------------------------------------------------------------


def _dialogue(question: str, answer: str, *, system: str = "") -> Conversation:
    turns: Conversation = [{"role": "system", "content": system}] if system.strip() else []
    return [*turns, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _below(task: str, given: str) -> str:
    return f"{task}\n\n{given}" if given.strip() else task


def _content(turn: Any) -> str:
    """A turn's text: plain, or in parts of which all are text."""
    if turn.get("content") is None and (turn.get("tool_calls") or turn.get("function_call")):
        raise Unusable("a turn that calls a tool instead of writing text")
    if isinstance(turn.get("content"), list):
        parts = [_mapping(part, "content") for part in turn["content"]]
        if others := sorted({str(part.get("type")) for part in parts} - {"text"}):
            raise Unusable(f"a turn with parts that are not text ({', '.join(others)})")
        return "".join(_text(part, "text") for part in parts)
    return _text(turn, "content")


def _with_tools(messages: Conversation, schemas: Any) -> Conversation:
    """Tool schemas at the end of the system turn, or as one."""
    listing = schemas if isinstance(schemas, str) else json.dumps(schemas, ensure_ascii=False)
    if schemas is None or listing.strip() in ("", "[]", "null"):
        return messages
    said = f"You can call these functions, by answering with JSON:\n{listing.strip()}"
    if messages and messages[0]["role"] == "system":
        first: Message = {"role": "system", "content": f"{messages[0]['content']}\n\n{said}".strip()}
        return [first, *messages[1:]]
    return [{"role": "system", "content": said}, *messages]


def _mapping(value: Any, name: str) -> Row:
    if not isinstance(value, Mapping):
        raise Malformed(f"`{name}` should hold objects, and holds {_kind(value)}")
    return value


def _required(row: Any, key: str) -> Any:
    row = _mapping(row, "a turn")
    if key not in row or row[key] is None:
        raise Malformed(f"`{key}` is missing (there are: {', '.join(map(str, row))})")
    return row[key]


def _text(row: Any, key: str) -> str:
    value = _required(row, key)
    if not isinstance(value, str):
        raise Malformed(f"`{key}` should be text, and is {_kind(value)}")
    return value


def _list(row: Row, key: str) -> Sequence[Any]:
    value = _required(row, key)
    if not isinstance(value, list | tuple):
        raise Malformed(f"`{key}` should be a list, and is {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
