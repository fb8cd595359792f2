"""Adapters: each turns one row of a published format into a conversation, or into raw text.

An adapter is a function of a row, and its keyword arguments are its options. ``ADAPTERS`` lists all of them;
``docs/data.md`` shows a row of each. A user's own works as well: ``path/to/file.py:function``, or an entry point of the
group ``moemix.adapters``. :mod:`trainers.data.parts` chooses one and applies it to the rows of a part.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NotRequired, TypedDict


class Message(TypedDict):
    """One turn. An assistant turn may have thoughts and calls of tools, and may be one that is not learnt."""

    role: str  # system, user, assistant or tool
    content: str
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, object]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    train: NotRequired[bool]


class Conversation(list[Message]):
    """The turns of a row, with the schemas of the tools that may be called, and notes on what was changed in it."""

    def __init__(self, turns: Sequence[Message] = (), tools: Sequence[object] = (), notes: Sequence[str] = ()) -> None:
        super().__init__(turns)
        self.tools, self.notes = list(tools), list(notes)


class MalformedRowError(Exception):
    """The row is not in the declared format. ``bad_rows`` of the source says whether reading stops."""


class UnusableRowError(Exception):
    """The row has the declared format but nothing to train on. It is left out, counted and reported by this reason."""


Row = Mapping[str, object]
Speakers = Mapping[str, str]

SPEAKERS = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "ai", "chatbot"), "assistant"),
    "function_call": "call",  # the model writes the call; the result comes from outside
    "tool_call": "call",
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
}
_MODEL = re.compile(r"(gpt|chatgpt|claude|gemini|llama|mistral|qwen|deepseek)[-_ .\d].*")  # gpt-4, claude-3-opus
_GLAIVE = re.compile(r"\s*\b(USER|ASSISTANT|FUNCTION RESPONSE): *")

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
    system: str | None = None,
    tools: str | None = None,
    calls: Literal["text", "template"] = "text",
    tool_role: Literal["user", "tool"] = "user",
    speakers: Speakers | None = None,
) -> Conversation:
    """Read ``conversations: [{from, value}]``.

    Args:
        row: the row.
        conversations: the column of turns.
        append: a column with one more turn (``chosen`` of a preference file).
        system: the column of a system turn; by default ``system``, if there is one.
        tools: a column of tool schemas, which are added to the system turn (or given to the template, see ``calls``).
        calls: how ``function_call`` turns become tokens: as the ``text`` that they are, which every template can carry,
            or as calls of tools in the way of the model's ``template``, with ``tools`` as the schemas.
        tool_role: the role of a tool's result, unless the template has calls. Few chat templates have a ``tool`` turn.
        speakers: roles of further speakers (``{npc: assistant}``).
    """
    turns = _turns(row, conversations, append, speakers or {}, calls)
    if calls == "template":
        return _with_system(row, system, turns, _schemas(row, tools or "tools"))
    for turn in turns:
        turn["role"] = tool_role if turn["role"] == "tool" else turn["role"]
    turns = _with_system(row, system, turns)
    return turns if tools is None else _with_tools(turns, row.get(tools))


def messages(
    row: Row,
    *,
    messages: str = "messages",
    append: str | None = None,
    system: str | None = None,
    tools: str | None = None,
    speakers: Speakers | None = None,
) -> Conversation:
    """Read ``messages: [{role, content}]``, the shape of the OpenAI API, with thoughts, calls of tools and weights.

    Args:
        row: the row.
        messages: the column of turns.
        append: a column with one more turn.
        system: the column of a system turn; by default ``system``, if there is one.
        tools: the column of tool schemas; by default ``tools`` or ``functions``, if there is one.
        speakers: roles of further speakers (``{npc: assistant}``).
    """
    turns = _turns(row, messages, append, speakers or {}, "template")
    return _with_system(row, system, turns, _schemas(row, tools or ("tools" if row.get("tools") else "functions")))


def alternating(row: Row, *, turns: str = "data", system: str | None = None) -> Conversation:
    """Read a list of texts in which user and assistant take turns (UltraChat's ``data``, LIMA's ``conversations``).

    Args:
        row: the row.
        turns: the column of texts.
        system: the column of a system turn; by default ``system``, if there is one.
    """
    texts = [_text({turns: text}, turns) for text in _list(row, turns)]
    roles = ("user", "assistant")
    return _with_system(row, system, [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)])


def pairs(
    row: Row, *, turns: str = "conversation", input: str = "input", output: str = "output", system: str | None = None
) -> Conversation:
    """Read a list of questions with their answers, ``conversation: [{input, output}]`` (Capybara).

    Args:
        row: the row.
        turns: the column of pairs.
        input: the key of a question.
        output: the key of its answer.
        system: the column of a system turn; by default ``system``, if there is one.
    """
    made = [turn for pair in _list(row, turns) for turn in _dialogue(_text(pair, input), _text(pair, output))]
    return _with_system(row, system, made)


def alpaca(
    row: Row,
    *,
    instruction: str = "instruction",
    input: str = "input",
    output: str = "output",
    system: str | None = None,
    history: str = "history",
    instances: str | None = None,
) -> Conversation:
    """Read ``instruction``, optional ``input``, and ``output``. The input is placed below the instruction.

    Args:
        row: the row.
        instruction: the column of the task.
        input: the column of the task's input.
        output: the column of the answer (``response`` in GPTeacher).
        system: the column of a system turn; by default ``system``, if there is one.
        history: the column of earlier turns, a list of questions with their answers, if there is one.
        instances: a column with a list of ``{input, output}``, of which the first is used (self-instruct).
    """
    task, holder = _text(row, instruction), row
    if instances is not None:
        listed = _list(row, instances)
        if not listed:
            raise UnusableRowError("the task has no instance")
        holder = _mapping(listed[0], instances)
    task_input = "" if _blank(holder.get(input)) else _text(holder, input)
    earlier: list[Message] = []
    for pair in [] if _blank(row.get(history)) else _list(row, history):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise MalformedRowError(
                f"`{history}` should hold pairs of a question and an answer, and holds {_kind(pair)}"
            )
        earlier += _dialogue(*(_text({history: text}, history) for text in pair))
    return _with_system(row, system, [*earlier, *_dialogue(_below(task, task_input), _text(holder, output))])


def prompt_completion(
    row: Row,
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    system: str | None = None,
    strip_suffix: str | Sequence[str] = (),
    unwrap: bool = False,
) -> Conversation:
    """Read a question column and an answer column. Either may be a list of turns (TRL's conversational form).

    Args:
        row: the row.
        prompt: the column of the question (``question`` in OpenOrca).
        completion: the column of the answer (``response`` in OpenOrca).
        system: the column of a system turn; by default ``system``, if there is one.
        strip_suffix: end markers that were written into the answers (``<|endoftext|>``); they are removed.
        unwrap: extract the question from the Alpaca prompt around it ("Below is an instruction …"), because the chat
            template adds such text itself.
    """
    if isinstance(_column(row, prompt), list | tuple):
        asked, answers = (_turns(row, column, None, {}, "template") for column in (prompt, completion))
        for turn in asked:
            turn["train"] = False
        return _with_system(row, system, [*asked, *answers], _schemas(row, "tools"))
    question, answer = _text(row, prompt), _text(row, completion).rstrip()
    for suffix in [strip_suffix] if isinstance(strip_suffix, str) else strip_suffix:
        answer = answer.removesuffix(suffix).rstrip()
    if unwrap:
        wrapped = ALPACA_PROMPT.fullmatch(question)
        if wrapped is None:
            raise MalformedRowError(f"`{prompt}` is not wrapped in the Alpaca prompt, and `unwrap` is set")
        question = _below(wrapped["instruction"], wrapped["input"] or "")
    return _with_system(row, system, _dialogue(question, answer))


def oasst(row: Row, *, prompt: str = "prompt") -> Conversation:
    """Read an Open Assistant tree: the conversation that follows the best reply to each message.

    The best reply is the one of the lowest ``rank``; without ranks, the first.

    Args:
        row: the row.
        prompt: the column of the first message, ``{role, text, replies: [...]}``.
    """
    turns = Conversation()
    node: object = _required(row, prompt)
    while node is not None:
        message = _mapping(node, prompt)
        turns.append(_turn(message, {}, "text"))
        replies = [] if _blank(message.get("replies")) else _list(message, "replies")
        ranked = [(_rank(reply), i) for i, reply in enumerate(replies)]
        node = replies[min(ranked)[1]] if ranked else None
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    return turns


def glaive(row: Row, *, chat: str = "chat", system: str = "system") -> Conversation:
    """Read Glaive's ``chat`` text: ``USER:``, ``ASSISTANT:`` and ``FUNCTION RESPONSE:``, answers end in an end marker.

    Args:
        row: the row.
        chat: the column of the conversation.
        system: the column of the system text, with the schemas of the tools.
    """
    _, *parts = _GLAIVE.split(_text(row, chat))
    if not parts:
        raise MalformedRowError(f"`{chat}` has no `USER:` or `ASSISTANT:`")
    roles = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "user"}
    turns: list[Message] = [
        {"role": roles[who], "content": said.strip().removesuffix("<|endoftext|>").strip()}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    text = "" if _blank(row.get(system)) else _text(row, system).strip().removeprefix("SYSTEM:").strip()
    return Conversation([*([{"role": "system", "content": text}] if text else []), *turns])  # type: ignore[list-item]


def gsm8k(row: Row, *, annotations: Literal["strip", "keep"] = "strip") -> Conversation:
    """Read ``question``, and ``answer`` with worked steps and a last line ``#### 72``.

    Args:
        row: the row.
        annotations: whether the calculator annotations ``<<48/2=24>>`` are removed (``strip``) or kept.
    """
    answer = _text(row, "answer")
    if annotations == "strip":
        answer = re.sub(r"<<[^<>]*>>", "", answer)
    return Conversation(_dialogue(_text(row, "question"), answer))


def aqua(row: Row) -> Conversation:
    """Read ``question``, ``options`` such as ``A)600``, ``rationale``, and ``correct``, the letter of the answer."""
    options = "\n".join(str(option) for option in _list(row, "options"))
    question = f"{_text(row, 'question')}\n\nAnswer choices:\n{options}"
    answer = f"{_text(row, 'rationale').rstrip()}\n\nThe answer is {_text(row, 'correct')}."
    return Conversation(_dialogue(question, answer))


def mbpp(row: Row) -> Conversation:
    """Read ``text``, ``code`` and ``test_list``: the task with its tests, answered by the code with plain line ends."""
    tests = "\n".join(str(test) for test in _list(row, "test_list"))
    question = f"{_text(row, 'text')}\n\nYour code should pass these tests:\n\n{tests}"
    return Conversation(_dialogue(question, _text(row, "code").replace("\r\n", "\n").strip()))


def text(row: Row, *, text: str = "text") -> str:
    """Read raw text from the column ``text``. Every token except the first is a training target."""
    return _text(row, text)


ADAPTERS: dict[str, Callable[..., Conversation | str]] = {
    function.__name__: function
    for function in (
        *(sharegpt, messages, alternating, pairs, alpaca, prompt_completion, oasst, glaive),
        *(gsm8k, aqua, mbpp, text),
    )
}


# --- parts of adapters ------------------------------------------------------------------------------


def _turns(
    row: Row, column: str, append: str | None, speakers: Speakers, calls: Literal["text", "template"]
) -> Conversation:
    """Return the turns in a column, and one more if ``append`` names its column."""
    found = [*_list(row, column), *([] if append is None else [_required(row, append)])]
    return Conversation([_turn(turn, speakers, calls) for turn in found])


def _turn(turn: object, speakers: Speakers, calls: Literal["text", "template"]) -> Message:
    """Read one turn, whose keys are ``from`` and ``value``, ``role`` and ``content``, or both in part."""
    turn = _mapping(turn, "a turn")
    role = _role(_text(turn, next((key for key in ("from", "role", "speaker") if key in turn), "role")), speakers)
    asked = [] if _blank(turn.get("tool_calls")) else [_call(call) for call in _list(turn, "tool_calls")]
    if not _blank(turn.get("function_call")):
        asked.append(_call(turn["function_call"]))
    key = next((key for key in ("value", "content", "text") if key in turn), "value" if "from" in turn else "content")
    if role == "tool" and isinstance(result := turn.get(key), Mapping):
        turn = {**turn, key: json.dumps(result, ensure_ascii=False)}
    content, thoughts = ("", "") if asked and _blank(turn.get(key)) else _content(turn, key)
    if role == "call":
        role = "assistant"
        if calls == "template":
            asked, content = [_call(content)], ""
    made: Message = {"role": role, "content": content}
    if role == "assistant":
        for name in ("reasoning_content", "reasoning", "thinking"):
            thoughts = thoughts or ("" if _blank(turn.get(name)) else _text(turn, name))
        if thoughts.strip():
            made["reasoning_content"] = thoughts
        if asked:
            made["tool_calls"] = asked
        for name in ("weight", "train_on", "train"):
            if not _blank(turn.get(name)):
                if turn[name] not in (0, 1):  # true and false are 1 and 0
                    raise MalformedRowError(f"`{name}` of a turn should be 0 or 1, and is {turn[name]!r}")
                made["train"] = bool(turn[name]) and made.get("train", True)
    for name in ("tool_call_id", "name"):
        if isinstance(given := turn.get(name), str):
            made[name] = given  # type: ignore[literal-required]
    return made


def _role(speaker: str, speakers: Speakers) -> str:
    name = speaker.strip().casefold()
    known = {**SPEAKERS, **{key.strip().casefold(): role for key, role in speakers.items()}}
    if name not in known and not _MODEL.fullmatch(name):
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]!r}?" if near else "`speakers` of the adapter can give it a role"
        raise MalformedRowError(f"unknown speaker {speaker[:40]!r} ({meant})")
    return known.get(name, "assistant")


def _content(turn: Row, key: str) -> tuple[str, str]:
    """Return a turn's text, which is plain or in parts that are all text, and the thoughts among its parts."""
    if not isinstance(content := turn.get(key), list):
        return _text(turn, key), ""
    parts = [part if isinstance(part, Mapping) else {"type": "text", "text": part} for part in content]
    if others := sorted({str(part.get("type")) for part in parts} - {"text", "thinking"}):
        raise UnusableRowError(f"a turn with parts that are not text ({', '.join(others)})")
    return tuple("".join(_text(p, kind) for p in parts if p["type"] == kind) for kind in ("text", "thinking"))  # type: ignore[return-value]


def _call(value: object) -> dict[str, object]:
    """Return a call of a tool, ``{type, function: {name, arguments}}``, from it or from its function, or their JSON."""
    call = _mapping(parsed(value), "a call of a tool")
    function = _mapping(call.get("function") or call, "a call of a tool")
    if not _text(function, "name").strip():
        raise MalformedRowError("a call of a tool has no name")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = {} if _blank(arguments) or arguments == "" else parsed(arguments)
    made: dict[str, object] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if call.get("id") else made


def parsed(value: object) -> object:
    """Return the object or list that a text holds as JSON, or the value itself."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _schemas(row: Row, column: str) -> list[object]:
    """Return the schemas of tools in a column, each ``{type: function, function: …}``; none if there is no column."""
    value = parsed(row.get(column))
    if _blank(value) or value == "":
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(tool, Mapping) for tool in value):
        raise MalformedRowError(f"`{column}` should be a list of tool schemas, and is {_kind(value)}")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in value]


def _with_system(row: Row, column: str | None, turns: Sequence[Message], tools: Sequence[object] = ()) -> Conversation:
    """Add the text of a system column at the beginning, before the text of a system turn that is there."""
    if column is not None and column not in row and "." not in column:
        raise MalformedRowError(f"`{column}` is missing (there are: {', '.join(map(str, row))})")
    value = _column(row, column or "system")
    added = "" if _blank(value) else _text({"system": value}, "system")
    turns = list(turns)
    if added.strip():
        if turns and turns[0]["role"] == "system":
            first = turns.pop(0)["content"]
            added = first if added.strip() in first else f"{added.strip()}\n\n{first}".strip()
        turns.insert(0, {"role": "system", "content": added})
    return Conversation(turns, tools)


def _dialogue(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _below(task: str, task_input: str) -> str:
    return f"{task}\n\n{task_input}" if task_input.strip() else task


def _with_tools(turns: Conversation, schemas: object) -> Conversation:
    """Add tool schemas to the end of the system turn, or as a system turn."""
    listing = schemas if isinstance(schemas, str) else json.dumps(schemas, ensure_ascii=False)
    if schemas is None or listing.strip() in ("", "[]", "null"):
        return turns
    prompt = f"You can call these functions, by answering with JSON:\n{listing.strip()}"
    if turns and turns[0]["role"] == "system":
        first: Message = {"role": "system", "content": f"{turns[0]['content']}\n\n{prompt}".strip()}
        return Conversation([first, *turns[1:]])
    return Conversation([{"role": "system", "content": prompt}, *turns])


def _rank(reply: object) -> float:
    rank = _mapping(reply, "replies").get("rank")
    return float(rank) if isinstance(rank, int | float) and not _blank(rank) else math.inf


def _mapping(value: object, name: str) -> Row:
    if not isinstance(value, Mapping):
        raise MalformedRowError(f"`{name}` should hold objects, and holds {_kind(value)}")
    return value


def _blank(value: object) -> bool:
    """Return whether a cell is empty: null, or NaN, which tables hold in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _column(row: Row, key: str) -> object:
    """Return a cell, also one inside objects (``data.turns``), or None."""
    if key in row or "." not in key:
        return row.get(key)
    outer, _, inner = key.partition(".")
    value = parsed(row.get(outer))
    return _column(value, inner) if isinstance(value, Mapping) else None


def _required(row: object, key: str) -> object:
    row = _mapping(row, "a turn")
    value = _column(row, key)
    if _blank(value):
        if key in row:
            raise MalformedRowError(f"`{key}` is {_kind(value)}")
        raise MalformedRowError(f"`{key}` is missing (there are: {', '.join(map(str, row))})")
    return value


def _text(row: object, key: str) -> str:
    value = _required(row, key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # the number 42 is the text "42"
    if not isinstance(value, str):
        raise MalformedRowError(f"`{key}` should be text, and is {_kind(value)}")
    return value


def _list(row: Row, key: str) -> Sequence[object]:
    value = parsed(_required(row, key))
    if not isinstance(value, list | tuple):
        raise MalformedRowError(f"`{key}` should be a list, and is {_kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return names.get(type(value), "null" if value is None else type(value).__name__)
