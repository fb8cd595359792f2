"""What adapters make of a row: a conversation, or raw text; and the two ways a row can fail."""

from __future__ import annotations

from typing import TypedDict


class Message(TypedDict):
    """One turn: ``role`` is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str


Conversation = list[Message]


class Malformed(Exception):
    """The row is not in the declared format: reading stops with the file, the line and this reason."""


class Unusable(Exception):
    """The row is in the format and holds nothing to train on: it is left out, counted and reported by this reason."""
