"""Where a chat template put each answer: a conversation is rendered once as it is, and once with marks.

The marks are private-use characters at the edges of every text of the assistant (thoughts, answers, names of called
tools) and inside every other text. Without the marks, both renderings must agree; then the marks say where the template
put each text. If the template marks the assistant's characters itself (``{% generation %}``), its marks are used. Where
there is no such reading, the row is not used.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from trainers.data.conversation import Message, UnusableRowError
from trainers.data.marks import FIRST_MARK, LAST_MARK, Field, add_marks, shapes, whose
from trainers.data.template import ChatTemplate, Span

_UNMARKED = "thoughts are outside of the chat template's {% generation %} marks, and not learnt"
_MARKS = re.compile(f"[{chr(FIRST_MARK)}-{chr(LAST_MARK)}]")


@dataclass(frozen=True)
class Rendered:
    """A text to tokenise.

    Attributes:
        text: the text; in it, control tokens have private-use names if ``named`` is true.
        spans: the characters of its answers; None for raw text, which is all target.
        named: whether some control string in it is text.
        notes: what was changed or left out so that the row could be used.
        control: the control strings in the contents of a conversation.
    """

    text: str
    spans: tuple[Span, ...] | None = None
    named: bool = False
    notes: tuple[str, ...] = ()
    control: tuple[str, ...] = ()


class Locator:
    """Finds the answers in what a chat template writes."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template

    def locate(self, messages: list[Message], tools: object, notes: list[str]) -> Rendered:
        """Return the rendered conversation with the position of each answer, by the first shape that fits."""
        refused = UnusableRowError("")
        for shaped in shapes(messages):
            marked, fields = add_marks(shaped)
            try:
                text, _ = self.template.apply(shaped, tools)
                with_marks, generated = self.template.apply(marked, tools)
                return self._read(shaped, fields, text, with_marks, generated, tools, notes)
            except UnusableRowError as reason:
                refused = refused if str(refused) else reason
        raise refused

    def _read(
        self,
        messages: list[Message],
        fields: list[Field],
        text: str,
        with_marks: str,
        generated: list[Span],
        tools: object,
        notes: list[str],
    ) -> Rendered:
        """Return the text with the spans of the answers, from the same text with marks."""
        pieces = _MARKS.split(with_marks)
        if "".join(pieces) != text:
            raise UnusableRowError("the chat template alters an assistant turn, or treats marked text differently")
        at: dict[int, int] = {}
        marks = [ord(mark) - FIRST_MARK for mark in _MARKS.findall(with_marks)]
        for mark, place in zip(marks, itertools.accumulate(map(len, pieces)), strict=False):
            if mark in at:
                raise UnusableRowError(
                    f"the chat template prints an {whose(messages, fields, mark)} turn more than once"
                )
            at[mark] = place
        if marks != sorted(marks):
            raise UnusableRowError("the chat template leaves out or reorders an assistant turn")
        if tools and self.template.apply(messages)[0] == text:
            raise UnusableRowError("the chat template leaves out the schemas of the tools")
        notes = [*notes, *self._check_whole(messages, fields, text, at)]
        if self.template.is_marked:
            shift = np.cumsum([0, *(len(piece) + 1 for piece in pieces)])  # where each mark stands in the marked text
            generated = [(s - int(np.sum(shift[1:-1] <= s)), e - int(np.sum(shift[1:-1] <= e))) for s, e in generated]
        spans = []
        for turn, message in enumerate(messages):
            if message["role"] != "assistant" or not message.get("train", True):
                continue
            mine = [i for i, field in enumerate(fields) if field.turn == turn and 2 * i in at]
            first, last = at[2 * mine[0]], at[2 * mine[-1] + 1]
            if self.template.is_marked:
                around = [span for span in generated if span[0] < last and first < span[1]]
                outside = [i for i in mine if not any(s <= at[2 * i] and at[2 * i + 1] <= e for s, e in around)]
                if any(fields[i].kind != "thought" for i in outside) or len(outside) == len(mine):
                    raise UnusableRowError("the chat template's {% generation %} marks are not on the answers")
                if outside and _UNMARKED not in notes:
                    notes.append(_UNMARKED)
                spans += [span for span in around if text[slice(*span)].strip()]
            else:
                start, end = self._span(text, fields, mine, at)
                if (lead := fields[mine[0]]).kind == "text" and lead.lead:
                    start -= self._kept(messages, tools, lead, text, start)
                spans.append((start, end))
        return Rendered(text, tuple(spans), notes=tuple(notes))

    def _check_whole(
        self, messages: list[Message], fields: list[Field], text: str, at: Mapping[int, int]
    ) -> Iterator[str]:
        """Check that every text of a conversation was printed as it is; yield what a template left out on purpose."""
        cut = False
        for i, field in enumerate(fields):
            role = messages[field.turn]["role"]
            if field.kind == "other":
                if 2 * i not in at:
                    raise UnusableRowError(f"the chat template leaves out a {role} turn")
            elif 2 * i not in at and 2 * i + 1 not in at:
                if field.kind == "call":
                    raise UnusableRowError("the chat template leaves out a call of a tool")
                beside = [other.kind for other in fields if other.turn == field.turn]
                if field.kind == "text":
                    what = "the text beside a call" if "call" in beside else "or reorders an assistant turn"
                    raise UnusableRowError(f"the chat template leaves out {what}")
                if not any(2 * j in at for j, other in enumerate(fields) if other.turn == field.turn):
                    raise UnusableRowError("the chat template leaves out the thoughts of a turn that has nothing else")
                cut = True
            elif text[at.get(2 * i, 0) : at.get(2 * i + 1, 0)] != field.text:
                raise UnusableRowError("the chat template alters an assistant turn")
        if cut:
            yield "the chat template left out thoughts"

    def _kept(self, messages: list[Message], tools: object, field: Field, text: str, start: int) -> int:
        """Return how many of the characters before ``start`` are the beginning of the answer, and not the template's.

        They are what is not there without it.
        """
        shorter = list(messages)
        turn = shorter[field.turn]
        shorter[field.turn] = {**turn, "content": turn["content"].removeprefix(field.lead)}
        without, _ = self.template.apply(shorter, tools)
        kept = len(text) - len(without)
        return kept if kept > 0 and text[: start - kept] + text[start:] == without else 0

    def _span(self, text: str, fields: list[Field], mine: list[int], at: Mapping[int, int]) -> Span:
        """Return where the assistant wrote a turn whose texts are the fields ``mine``."""
        first, start, end = fields[mine[0]], at[2 * mine[0]], at[2 * mine[-1] + 1]
        if (
            first.kind != "text"
        ):  # the template may open the thought or the call with text that the model writes as well
            before = max((place for mark, place in at.items() if mark < 2 * mine[0]), default=0)
            for head in self.template.heads:
                if (found := text.rfind(head, before, start)) >= 0:
                    opened = text[found + len(head) : start]
                    start -= len(opened.lstrip())
                    break
            else:
                if first.kind == "call":
                    raise UnusableRowError("the beginning of a call of a tool is not found in the chat template's text")
                if text.endswith(first.lead, 0, start):
                    start -= len(first.lead.lstrip())
        if any(fields[i].kind == "call" for i in mine):  # what follows a tool's name is the template's
            bound = min((place for mark, place in at.items() if mark > 2 * mine[-1] + 1), default=len(text))
            ends = [found for mark in self.template.end_texts if (found := text.find(mark, end, bound)) >= 0]
            if not ends:
                raise UnusableRowError("the chat template does not end a call of a tool as it ends other turns")
            end = min(ends)
        return start, end
