"""Glaive's text of a conversation: speakers at the beginnings of lines, answers that end in an end marker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from trainers.data.conversation import MalformedRowError, Message
from trainers.data.turns import call_of
from trainers.data.turns import schemas as schemas_of

_SPEAKER = re.compile(r"(?:\A|\n)[^\S\n]*(USER|ASSISTANT|FUNCTION RESPONSE):")
_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_END = "<|endoftext|>"
_CALL = re.compile(r"(.*?)<functioncall>\s*(\{.*\})", re.DOTALL)
_QUOTED = re.compile(r"(.*\"arguments\":\s*)'(.*)'(\s*\})", re.DOTALL)  # the arguments are JSON between single quotes


def glaive_turns(chat: str) -> Iterator[Message]:
    """Yield the turns in a text; a speaker inside an answer that has not ended is part of it."""
    starts: list[re.Match[str]] = []
    for mark in _SPEAKER.finditer(chat):
        before = chat[starts[-1].end() : mark.start()] if starts else ""
        inside = starts and starts[-1][1] == "ASSISTANT" and _END in chat and not before.rstrip().endswith(_END)
        if not inside:
            starts.append(mark)
    ends = [mark.start() for mark in starts[1:]] + [len(chat)]
    for mark, end in zip(starts, ends, strict=False):  # without a speaker there is one end too many
        yield {"role": _ROLES[mark[1]], "content": chat[mark.end() : end].strip().removesuffix(_END).strip()}


def with_calls(turn: Message) -> Message:
    """Return an answer with its ``<functioncall>`` as a call of a tool."""
    found = _CALL.fullmatch(turn["content"]) if turn["role"] == "assistant" else None
    if found is None:
        return turn
    quoted = _QUOTED.fullmatch(found[2])
    try:
        call = json.loads(f"{quoted[1]}null{quoted[3]}" if quoted else found[2])
        arguments = {"arguments": json.loads(quoted[2])} if quoted else {}
    except ValueError:
        raise MalformedRowError("a function call is not valid JSON") from None
    asked = call_of({**call, **arguments}, exact=True)
    return {"role": "assistant", "content": found[1].strip(), "tool_calls": [asked]}


def split_schemas(system: str) -> tuple[str, list[object]]:
    """Return a system text without the schemas at its end, and these; they are objects one after another."""
    schemas: list[object] = []
    start = at = system.find("{")
    while 0 <= at < len(system):
        try:
            schema, at = json.JSONDecoder().raw_decode(system, at)
        except ValueError:
            return system, []
        schemas.append(schema)
        at += len(system[at:]) - len(system[at:].lstrip())
    return (system[:start].rstrip(" -\n"), schemas_of({"tools": schemas}, "tools")) if schemas else (system, [])
