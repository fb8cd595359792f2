"""The style of an answer: how long it is, and how much Markdown it has."""

from __future__ import annotations

import re

_CODE = re.compile(r"```.*?```", re.DOTALL)
_MARKS = (
    re.compile(r"^#{1,6}\s", re.MULTILINE),
    re.compile(r"^\s*(?:[-*+]|\d+\.)\s", re.MULTILINE),
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
)


def style_of(text: str) -> tuple[int, ...]:
    """Return characters, headers, list items and bold passages of an answer; Markdown inside code does not count.

    >>> style_of("# A plan")
    (8, 1, 0, 0)
    """
    prose = _CODE.sub("", text)
    return (len(text), *(len(mark.findall(prose)) for mark in _MARKS))
