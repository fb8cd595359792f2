"""Turns of conversations as files have them: who speaks, what is said, thought and called, and what is learnt."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal, cast

from trainers.data.cells import blank, cell, items, kind, mapping, optional_text, parsed, required, text
from trainers.data.conversation import MalformedRowError, Message, Row, UnusableRowError

Speakers = Mapping[str, str]
Calls = Literal["text", "template"]

SYSTEM = ("system", "system_prompt", "system_message")
"""The columns of system texts that are read unasked, the first that is not blank."""
SPEAKERS = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer", "instruction", "question"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "ai", "chatbot", "llm"), "assistant"
    ),
    **dict.fromkeys(("agent", "ai_assistant", "response", "answer"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),  # the model writes the call; the result comes from outside
    **dict.fromkeys(("tool", "function", "observation", "ipython", "environment"), "tool"),
    **dict.fromkeys(
        (f"{what}_{result}" for what in ("tool", "function") for result in ("response", "result", "output")), "tool"
    ),
}
_MODEL = re.compile(r"(gpt|chatgpt|claude|gemini|gemma|llama|mi[sx]tral|qwen|deepseek|glm|grok|phi)([_.\d].*)?")
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "thinking": "thinking"}


def turns_of(row: Row, column: str, append: str | None, speakers: Speakers, calls: Calls) -> list[Message]:
    """Return the turns in a column, and one more if ``append`` names its column."""
    found = [*items(row, column), *([] if append is None else [required(row, append)])]
    return [turn_of(turn, speakers, calls) for turn in found]


def turn_of(found: object, speakers: Speakers, calls: Calls) -> Message:
    """Read one turn, whose keys are ``from`` and ``value``, ``role`` and ``content``, or both in part."""
    turn = mapping(found, "a turn")
    role = _role(text(turn, next((key for key in ("from", "role", "speaker") if key in turn), "role")), speakers)
    asked = [] if blank(turn.get("tool_calls")) else [call_of(call) for call in items(turn, "tool_calls")]
    if not blank(turn.get("function_call")):
        asked.append(call_of(turn["function_call"]))
    key = next((key for key in ("value", "content", "text") if key in turn), "value" if "from" in turn else "content")
    if role == "tool" and isinstance(result := turn.get(key), Mapping):
        turn = {**turn, key: json.dumps(result, ensure_ascii=False)}
    content, thoughts = ("", "") if asked and blank(turn.get(key)) else _content(turn, key)
    if role == "call":
        role = "assistant"
        if calls == "template":
            value = parsed(content)
            asked = [call_of(call, exact=True) for call in (value if isinstance(value, list) else [value])]
            content = ""
    made: Message = {"role": role, "content": content}
    if role == "assistant":
        for name in ("reasoning_content", "reasoning", "thinking"):
            thoughts = thoughts or optional_text(turn, name)
        if thoughts.strip():
            made["reasoning_content"] = thoughts
        if asked:
            made["tool_calls"] = asked
        for name in ("weight", "train_on", "train"):
            if not blank(turn.get(name)):
                if turn[name] not in (0, 1):  # true and false are 1 and 0
                    raise MalformedRowError(f"`{name}` of a turn should be 0 or 1, and is {turn[name]!r}")
                made["train"] = bool(turn[name]) and made.get("train", True)
    for name in ("tool_call_id", "name"):
        if isinstance(given := turn.get(name), str):
            made[name] = given  # type: ignore[literal-required]
    return made


def _role(speaker: str, speakers: Speakers) -> str:
    name = _plain(speaker)
    known = {**SPEAKERS, **{_plain(key): role for key, role in speakers.items()}} if speakers else SPEAKERS
    if name not in known and not _MODEL.fullmatch(name):
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]!r}?" if near else "`speakers` of the adapter can give it a role"
        raise MalformedRowError(f"unknown speaker {speaker[:40]!r} ({meant})")
    return known.get(name, "assistant")


@functools.lru_cache(1024)
def _plain(speaker: str) -> str:
    """Return a speaker's name in lower case, without the marks around it, ``_`` between its words."""
    return re.sub(r"[\s_-]+", "_", speaker.strip(" \t\r\n:#*<>|[]").casefold())


def _content(turn: Row, key: str) -> tuple[str, str]:
    """Return a turn's text, which is plain or in parts that are all text, and the thoughts among its parts."""
    if not isinstance(content := turn.get(key), list):
        return text(turn, key), ""
    parts = [part if isinstance(part, Mapping) else {"type": "text", "text": part} for part in content]
    if others := sorted({str(part.get("type")) for part in parts} - _TEXT_PARTS.keys()):
        raise UnusableRowError(f"a turn with parts that are not text ({', '.join(others)})")
    said = [(_TEXT_PARTS[str(part["type"])], part) for part in parts]
    joined = {name: "".join(text(part, name) for found, part in said if found == name) for name in ("text", "thinking")}
    return joined["text"], joined["thinking"]


# --- tools ------------------------------------------------------------------------------------------


def call_of(value: object, *, exact: bool = False) -> dict[str, object]:
    """Return a call of a tool, ``{type, function: {name, arguments}}``, from it or from its function, or their JSON.

    Entries of the arguments that are null are left out, unless they are JSON in a text, or ``exact``.
    """
    call = mapping(parsed(value), "a call of a tool")
    function = mapping(call.get("function") or call, "a call of a tool")
    if not text(function, "name").strip():
        raise MalformedRowError("a call of a tool has no name")
    arguments = function.get("arguments", function.get("parameters"))
    if blank(arguments):
        arguments = {}
    elif isinstance(arguments, str):
        arguments = parsed(arguments)
    elif not exact and not isinstance(value, str):
        arguments = _without_null(arguments)
    made: dict[str, object] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if call.get("id") else made


def schemas(row: Row, column: str) -> list[object]:
    """Return the schemas of tools in a column, each ``{type: function, function: …}``; none if there is no column."""
    value = parsed(cell(row, column))
    if blank(value):
        return []
    listed = [parsed(tool) for tool in value] if isinstance(value, list | tuple) else [value]
    if not all(isinstance(tool, Mapping) for tool in listed):
        raise MalformedRowError(f"`{column}` should be a list of tool schemas, and is {kind(value)}")
    found = [cast("Row", _without_null(tool)) for tool in listed]
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in found]


def _without_null(value: object) -> object:
    """Return a tree without entries that are null: tables give every object the keys that any row's object has."""
    if isinstance(value, Mapping):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list | tuple) else value


def with_tools(turns: Sequence[Message], found: object) -> list[Message]:
    """Add tool schemas to the end of the system turn, or as a system turn."""
    listing = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    if blank(found) or listing.strip() in ("[]", "null"):
        return list(turns)
    prompt = f"You can call these functions, by answering with JSON:\n{listing.strip()}"
    if turns and turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{prompt}".strip()}, *turns[1:]]
    return [{"role": "system", "content": prompt}, *turns]


# --- what stands beside the turns -------------------------------------------------------------------


def beside(row: Row, column: str, names: Sequence[str]) -> str | None:
    """Return the first of some columns that is not blank, in the row or in the object that holds a column."""
    outer, dot, _ = column.rpartition(".")
    places = [*names, *(f"{outer}.{name}" for name in names if dot)]
    return next((place for place in places if not blank(cell(row, place))), None)


def with_system(row: Row, column: str | None, turns: Sequence[Message], at: str = "") -> list[Message]:
    """Add the text of a system column (by default one of ``SYSTEM``, if there is one) at the beginning of turns.

    It stands before the text of a system turn that is there. ``at`` is the column of the turns.
    """
    if column is not None and column not in row and "." not in column:
        raise MalformedRowError(f"`{column}` is missing (there are: {', '.join(map(str, row))})")
    place = column or beside(row, at, SYSTEM)
    added = optional_text(row, place).strip() if place else ""
    turns = list(turns)
    if added:
        if turns and turns[0]["role"] == "system":
            first = turns.pop(0)["content"]
            added = first if added in first else f"{added}\n\n{first}".strip()
        turns.insert(0, {"role": "system", "content": added})
    return turns


def dialogue(question: str, answer: str, thoughts: str = "") -> list[Message]:
    """Return a question and its answer as turns."""
    made: Message = {"role": "assistant", "content": answer}
    if thoughts.strip():
        made["reasoning_content"] = thoughts
    return [{"role": "user", "content": question}, made]
