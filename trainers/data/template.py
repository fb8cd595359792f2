"""Conversations to tokens, with the exact tokens the assistant must learn to write.

A conversation is rendered and tokenised once, as a whole, so token boundaries are those of training. Which
characters are the assistant's comes from the template itself where it marks them (``{% generation %}``). Where it
does not, the conversation is rendered a second time with a placeholder for every answer: what stands between
placeholders is the template's own text, and the first rendering must be that text with an answer (or the part of it
that the template kept) in each gap. If there is no such reading of it, or more than one, the row is refused.

Learnt are the tokens of the answer, and what follows up to the token that ends the turn: a model must learn to stop.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from trainers.data.conversation import Conversation, Message, Unusable

Span = tuple[int, int]
Tokens = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids int32[T], and is_target bool[T]: which of them are learnt."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = datetime(2024, 7, 26)
"""What a template that prints today's date gets: tokens must not depend on the day they were made."""


@dataclass(frozen=True)
class Rendered:
    """A text to tokenise. ``spans`` are the characters of its answers; none for raw text, which is learnt whole."""

    text: str
    spans: tuple[Span, ...] | None = None


class Encoder:
    """Turns conversations into tokens and loss masks, for one tokenizer and its chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._where = tokenizer.name_or_path or None
        if not tokenizer.is_fast:
            raise MoemixError(
                "the tokenizer gives no character offsets", where=self._where, hint="use a fast one (tokenizer.json)"
            )

    def render(self, messages: Conversation) -> Rendered:
        """The text of a conversation and where its answers stand.

        Raises:
            Unusable: no answer, an empty one, or a conversation that the template refuses or alters.
            MoemixError: there is no chat template, or it has no token that ends the assistant's turn.
        """
        answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
        if not answers:
            raise Unusable("no assistant turn")
        if not all(answer.strip() for answer in answers):
            raise Unusable("empty assistant turn")
        text, marked = self._apply(messages)
        for turn in messages:
            if turn["role"] != "assistant" and turn["content"].strip() not in text:
                raise Unusable(f"the chat template leaves out a {turn['role']} turn")
        if not _GENERATION.search(self._template):
            return Rendered(text, self._locate(text, messages, answers))
        if not marked or not all(any(_alike(text[s:e], answer) for answer in answers) for s, e in marked):
            raise Unusable("the chat template's {% generation %} marks do not fall on the answers")
        return Rendered(text, tuple(marked))

    def encode(self, rendered: list[Rendered]) -> list[Tokens | Unusable]:
        """The tokens of each text, or why there are none. Raw text is closed with the end-of-sequence token."""
        encoded: dict[int, Tokens | Unusable] = {}
        chats = [i for i, item in enumerate(rendered) if item.spans is not None]
        plain = [i for i, item in enumerate(rendered) if item.spans is None]
        if chats:
            batch = self._backend.encode_batch([rendered[i].text for i in chats], add_special_tokens=False)
            for i, encoding in zip(chats, batch, strict=True):
                try:
                    targets = self._targets(rendered[i], encoding.ids, encoding.offsets)
                    encoded[i] = np.array(encoding.ids, np.int32), targets
                except Unusable as reason:
                    encoded[i] = reason
        if plain:
            batch = self.tokenizer([rendered[i].text for i in plain], verbose=False)
            for i, ids in zip(plain, batch["input_ids"], strict=True):
                encoded[i] = self._plain(ids)
        return [encoded[i] for i in range(len(rendered))]

    # --- the template ---

    @functools.cached_property
    def _template(self) -> str:
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError:
            raise MoemixError(
                "the tokenizer has no chat template",
                where=self._where,
                hint="give it one (tokenizer.chat_template), or use the `text` adapter",
            ) from None

    @functools.cached_property
    def _end_tokens(self) -> frozenset[int]:
        """The tokens that end the assistant's turns, the last one's and earlier ones', seen in a trial."""
        turns: Conversation = [
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": "This one."},
            {"role": "user", "content": "And then?"},
            {"role": "assistant", "content": "That one."},
        ]
        ends = {self._end_after("This one.", turns[:2])}
        try:
            text, _ = self._apply(turns)
        except Unusable:  # a template for single questions
            return frozenset(ends)
        answers = [turn["content"] for turn in turns[1::2] if turn["content"] in text]
        return frozenset(ends | {self._end_after(answer, turns) for answer in answers})

    def _end_after(self, answer: str, messages: Conversation) -> int:
        """The special token that follows ``answer``, with at most white space before it."""
        try:
            text, _ = self._apply(messages)
        except Unusable as reason:
            raise MoemixError(f"cannot render a question and an answer: {reason}", where=self._where) from None
        encoding = self._backend.encode(text, add_special_tokens=False)
        added = self.tokenizer.added_tokens_decoder
        finish = text.rfind(answer) + len(answer)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if start >= finish and text[start:end].strip():
                if token in added or token in self.tokenizer.all_special_ids:
                    return int(token)
                break
        raise MoemixError(
            "the chat template ends the assistant's turn with no special token: a model could not learn to stop",
            where=self._where,
            hint="write {{ eos_token }} after the assistant's content in the template",
        )

    def _apply(self, messages: Conversation) -> tuple[str, list[Span]]:
        """The rendered text, and the characters that the template marks as generated."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                conversations=[messages],
                chat_template=self._template,
                return_assistant_tokens_mask=bool(_GENERATION.search(self._template)),
                strftime_now=_TODAY.strftime,
                **self.tokenizer.special_tokens_map,
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise Unusable(f"the chat template refuses it: {str(error).splitlines()[0][:120]}") from None
        return texts[0], spans[0] if spans else []

    def _locate(self, text: str, messages: Conversation, answers: list[str]) -> tuple[Span, ...]:
        """Where each answer stands in ``text``: the one way to read it as template text around answers."""
        longest_run = max((len(run) for run in re.findall("x+", text)), default=0)
        nonce = "x" * (longest_run + 1)  # stands nowhere in the text
        marks = [f"Q{nonce}{i}Q" for i in range(len(answers))]
        waiting = iter(marks)
        masked = [Message(role=m["role"], content=next(waiting)) if m["role"] == "assistant" else m for m in messages]
        rest, _ = self._apply(masked)
        pieces = []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                raise Unusable("the chat template leaves out or reorders an assistant turn")
            pieces.append(before)
        pieces.append(rest)
        if any(nonce in piece for piece in pieces):
            raise Unusable("the chat template prints an assistant turn more than once")

        readings: list[tuple[int, tuple[Span, ...]]] = [(len(pieces[0]), ())] if text.startswith(pieces[0]) else []
        for answer, piece in zip(answers, pieces[1:], strict=True):
            readings = [
                (end + len(piece), (*spans, (start, end)))
                for start, spans in readings
                for end in _possible_ends(text, start, answer, piece)
            ]
        whole = [spans for finish, spans in readings if finish == len(text)]
        if len(whole) != 1:
            raise Unusable("the chat template alters an assistant turn, or an answer looks like the template's text")
        return whole[0]

    # --- the tokens ---

    @functools.cached_property
    def _backend(self) -> Any:
        """The tokenizer without its last step: the same tokens, with offsets from which no blanks are trimmed."""
        from tokenizers import Tokenizer

        original = self.tokenizer.backend_tokenizer
        steps = json.loads(original.to_str()) | {"post_processor": None, "truncation": None, "padding": None}
        backend = Tokenizer.from_str(json.dumps(steps))
        backend.encode_special_tokens = original.encode_special_tokens
        return backend

    def _targets(self, rendered: Rendered, ids: list[int], offsets: list[Span]) -> NDArray[np.bool_]:
        """bool[T]: the tokens of the answers and of what ends their turns."""
        text = rendered.text
        starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T  # neither ever decreases
        targets = np.zeros(len(ids), bool)
        for start, end in rendered.spans or ():
            first = int(np.searchsorted(ends, start, side="right"))  # the first token that ends after `start`
            # One that begins before the answer is the answer's own if all it adds is white space (" Hello"), and the
            # template's if all it takes is white space (a header token that takes in the blanks after it).
            if first < len(ids) and text[starts[first] : start].strip():
                if text[start : ends[first]].strip():
                    raise Unusable("a token holds both the template's text and the answer's")
                first += 1
            stop = int(np.searchsorted(starts, end, side="left"))  # the first token that begins at `end` or later
            if first >= stop:
                raise Unusable("an answer has no token of its own")
            last = stop - 1
            while last > first and not text[starts[last] : ends[last]].strip():
                last -= 1
            if ids[last] not in self._end_tokens:  # a marked span may hold the end token already
                while stop < len(ids) and not text[starts[stop] : ends[stop]].strip():
                    stop += 1
                if stop == len(ids) or ids[stop] not in self._end_tokens:
                    raise Unusable("the chat template does not end an assistant turn as it usually does")
                stop += 1
            targets[first:stop] = True
        targets[:1] = False
        return targets

    def _plain(self, ids: list[int]) -> Tokens:
        end = self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids = [*ids, end]
        targets = np.ones(len(ids), bool)
        targets[:1] = False
        return np.array(ids, np.int32), targets


def _possible_ends(text: str, start: int, answer: str, piece: str) -> list[int]:
    """Where the answer that begins at ``start`` may end: just before ``piece``, holding nothing but the answer.

    Templates trim an answer or cut a part away (the chain of thought of earlier turns), so any part of it will do.
    """
    found = []
    end = text.find(piece, start + 1)
    while start < end <= start + len(answer):
        if text[start:end] in answer:
            found.append(end)
        end = text.find(piece, end + 1)
    return found


def _alike(marked: str, answer: str) -> bool:
    return bool(marked.strip()) and (marked.strip() in answer or answer.strip() in marked)
