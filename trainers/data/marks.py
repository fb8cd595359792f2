"""Conversations in the shapes that chat templates expect, and with marks around their texts.

The marks are private-use characters. Rendered with them, a conversation shows where the template put each text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, cast

from trainers.data.conversation import MalformedRowError, Message, UnusableRowError

FIRST_MARK, LAST_MARK = 0x100000, 0x10EFFF
_DEEPEST = 100  # objects in objects
_THOUGHT = re.compile(r"(\s*(?:<think>)?\s*)(.*?)(\s*</think>\s*)(.*?)\s*", re.DOTALL)


class Field(NamedTuple):
    """A text of a message that was marked, where and as what."""

    turn: int
    kind: Literal["thought", "text", "call", "other"]
    text: str
    lead: str = ""  # what the content has before it


def check_answers(messages: list[Message]) -> None:
    """Raise ``UnusableRowError`` if there is no answer, one is empty, or none is to be learnt."""
    answers = [turn for turn in messages if turn["role"] == "assistant"]
    if not answers:
        raise UnusableRowError("no assistant turn")
    if not all(_says_something(turn["content"]) or turn.get("tool_calls") for turn in answers):
        raise UnusableRowError("empty assistant turn")
    if not any(turn.get("train", True) for turn in answers):
        raise UnusableRowError("no turn to learn: every assistant turn has weight 0")


def _says_something(content: str) -> bool:
    """Return whether an answer has more than an empty thought."""
    parts = _THOUGHT.fullmatch(content) if content.count("</think>") == 1 else None
    return any(parts.group(2, 4)) if parts else bool(content.strip())


def texts_of(value: object) -> list[str]:
    """Return every text in a tree, the keys of objects too.

    Raises:
        MalformedRowError: the tree has more than a hundred levels.
    """
    found: list[str] = []

    def collect(part: object, depth: int) -> None:
        if isinstance(part, str):
            found.append(part)
        elif depth > _DEEPEST:
            raise MalformedRowError(f"objects nested more than {_DEEPEST} deep")
        elif isinstance(part, dict | Mapping):  # a dict is recognised at once, another mapping slowly
            for key, item in part.items():
                found.append(str(key))
                collect(item, depth + 1)
        elif isinstance(part, list | tuple):
            for item in part:
                collect(item, depth + 1)

    collect(value, 0)
    return found


def folded(messages: list[Message]) -> list[Message]:
    """Return the conversation with the text of its first system turns at the beginning of the first user turn."""
    system = list(itertools.takewhile(lambda turn: turn["role"] == "system", messages))
    rest = messages[len(system) :]
    for i, turn in enumerate(rest):
        if turn["role"] == "user":
            rest[i] = {**turn, "content": "\n\n".join([*(turn["content"].strip() for turn in system), turn["content"]])}
            return rest
    raise UnusableRowError("the chat template has no system turn, and there is no user turn to begin with its text")


def shapes(messages: list[Message]) -> Iterator[list[Message]]:
    """Yield a conversation in the shapes that templates expect of turns that call tools.

    Arguments are an object, or JSON as text; a turn without text has an empty one, or none.
    """
    if not any(turn.get("tool_calls") for turn in messages):
        yield messages
        return
    for as_text in (False, True):
        for blank in ("", None):
            shaped = []
            for turn in messages:
                if calls := turn.get("tool_calls"):
                    turn = {**turn, "tool_calls": [_call(call, as_text=as_text) for call in calls]}
                    turn["content"] = turn["content"] if turn["content"].strip() else cast("str", blank)
                shaped.append(turn)
            yield shaped


def _call(call: dict[str, object], *, as_text: bool) -> dict[str, object]:
    function = cast("dict[str, object]", call["function"])
    arguments = function["arguments"]
    if as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def add_marks(messages: list[Message]) -> tuple[list[Message], list[Field]]:
    """Return a copy of a conversation with marks around its texts, and the fields that they mark, in order."""
    fields: list[Field] = []

    def around(turn: int, kind: Literal["thought", "text", "call"], text: str, lead: str = "") -> str:
        if not text:
            return text
        fields.append(Field(turn, kind, text, lead))
        return f"{chr(FIRST_MARK + 2 * len(fields) - 2)}{text}{chr(FIRST_MARK + 2 * len(fields) - 1)}"

    marked: list[Message] = []
    for turn, message in enumerate(messages):
        copy, content = message.copy(), message["content"] or ""
        core = content.strip()
        start = content.find(core)
        if message["role"] != "assistant":
            if core:  # templates look at how such a text begins and ends, so the mark is inside
                fields.append(Field(turn, "other", core))
                middle = start + (len(core) + 1) // 2
                copy["content"] = f"{content[:middle]}{chr(FIRST_MARK + 2 * len(fields) - 2)}{content[middle:]}"
            marked.append(copy)
            continue
        if (thought := message.get("reasoning_content", "")) and (bare := thought.strip()):
            copy["reasoning_content"] = thought.replace(bare, around(turn, "thought", bare))
        parts = _THOUGHT.fullmatch(content) if content.count("</think>") == 1 else None
        if parts:
            opening, inner, closing, rest = parts.groups()
            tail = content[parts.end(4) :]
            written = f"{opening}{around(turn, 'thought', inner, opening)}{closing}"
            copy["content"] = f"{written}{around(turn, 'text', rest, '' if inner else opening + closing)}{tail}"
        elif core:
            copy["content"] = (
                f"{content[:start]}{around(turn, 'text', core, content[:start])}{content[start + len(core) :]}"
            )
        if calls := message.get("tool_calls"):
            copy["tool_calls"] = []
            for call in calls:
                function = cast("dict[str, object]", call["function"])
                name = around(turn, "call", str(function["name"]))
                copy["tool_calls"].append({**call, "function": {**function, "name": name}})
        marked.append(copy)
    return marked, fields


def whose(messages: list[Message], fields: list[Field], mark: int) -> str:
    """Return the role whose text a mark stands at."""
    return messages[fields[mark // 2].turn]["role"]
