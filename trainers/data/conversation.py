"""Conversations, which adapters make of rows and templates turn into text, and the two reasons to leave one out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

Row = Mapping[str, object]


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
