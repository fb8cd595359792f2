"""Convert conversations to tokens, and find the exact tokens that the assistant must learn to write.

A conversation is rendered and tokenised once, as a whole, so token boundaries are those of generation. If the template
marks the assistant's characters (``{% generation %}``), these marks are used. If it does not, the conversation is
rendered a second time with a placeholder for every answer. The text between placeholders is then the template's own,
and the first rendering must be that text with an answer (or the part of it that the template kept) in each gap. If
there is no such reading of it, or more than one, the row is not used.

Training targets are the tokens of the answer, and what follows up to the token that ends the turn, because a model
must learn to stop.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from harness.errors import MoemixError
from trainers.data.adapters import Conversation, Message, UnusableRowError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Span = tuple[int, int]
Tokens = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids, int32[T], and which of them are training targets, bool[T]."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = datetime(2024, 7, 26)
"""The date for templates that print today's: tokens must not depend on the day of their creation."""


@dataclass(frozen=True)
class Rendered:
    """A text to tokenise. ``spans`` are the characters of its answers, or None for raw text, which is all target."""

    text: str
    spans: tuple[Span, ...] | None = None


class Encoder:
    """Convert conversations to tokens and loss masks, for one tokenizer and its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = cast("PreTrainedTokenizerFast", tokenizer)
        self._where = tokenizer.name_or_path or None
        if not tokenizer.is_fast:
            raise MoemixError(
                "the tokenizer has no character offsets", where=self._where, hint="use a fast one (tokenizer.json)"
            )

    def render(self, content: Conversation | str) -> Rendered:
        """Return the text of a conversation and the positions of its answers, or raw text as it is.

        A blank system turn is left out.

        Raises:
            UnusableRowError: there is no answer, one is empty, or the template refuses or changes the conversation.
            MoemixError: there is no chat template, or it has no token that ends the assistant's turn.
        """
        if isinstance(content, str):
            return Rendered(content)
        messages = [turn for turn in content if turn["role"] != "system" or turn["content"].strip()]
        answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
        if not answers:
            raise UnusableRowError("no assistant turn")
        if not all(answer.strip() for answer in answers):
            raise UnusableRowError("empty assistant turn")
        text, marked = self._apply(messages)
        for turn in messages:
            if turn["role"] != "assistant" and turn["content"].strip() not in text:
                raise UnusableRowError(f"the chat template leaves out a {turn['role']} turn")
        if not _GENERATION.search(self._template):
            return Rendered(text, self._locate(text, messages, answers))
        if not marked or not all(any(_alike(text[s:e], answer) for answer in answers) for s, e in marked):
            raise UnusableRowError("the chat template's {% generation %} marks are not on the answers")
        return Rendered(text, tuple(marked))

    def encode(self, rendered: list[Rendered]) -> list[Tokens | UnusableRowError]:
        """Return the tokens of each text, or why there are none. Raw text ends with the end-of-sequence token."""
        encoded: dict[int, Tokens | UnusableRowError] = {}
        chats = [i for i, item in enumerate(rendered) if item.spans is not None]
        plain = [i for i, item in enumerate(rendered) if item.spans is None]
        if chats:
            batch = self._backend.encode_batch([rendered[i].text for i in chats], add_special_tokens=False)
            for i, encoding in zip(chats, batch, strict=True):
                try:
                    targets = self._targets(rendered[i], encoding.ids, encoding.offsets)
                    encoded[i] = np.array(encoding.ids, np.int32), targets
                except UnusableRowError as reason:
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
        """Return the tokens that end the assistant's last turn and earlier ones, found by rendering a sample."""
        turns: Conversation = [
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": "This one."},
            {"role": "user", "content": "And then?"},
            {"role": "assistant", "content": "That one."},
        ]
        ends = {self._end_after("This one.", turns[:2])}
        try:
            text, _ = self._apply(turns)
        except UnusableRowError:  # a template for single questions
            return frozenset(ends)
        answers = [turn["content"] for turn in turns[1::2] if turn["content"] in text]
        return frozenset(ends | {self._end_after(answer, turns) for answer in answers})

    def _end_after(self, answer: str, messages: Conversation) -> int:
        """Return the special token that follows ``answer``, with at most white space before it."""
        try:
            text, _ = self._apply(messages)
        except UnusableRowError as reason:
            raise MoemixError(
                f"the chat template cannot render a question and an answer: {reason}", where=self._where
            ) from None
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
        """Return the rendered text, and the characters that the template marks as generated."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        # transformers' own annotations fit neither the special tokens nor what it returns
        render = cast("Callable[..., tuple[list[str], list[list[Span]]]]", render_jinja_template)
        try:
            texts, spans = render(
                conversations=[messages],
                chat_template=self._template,
                return_assistant_tokens_mask=bool(_GENERATION.search(self._template)),
                strftime_now=_TODAY.strftime,
                **self.tokenizer.special_tokens_map,
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise UnusableRowError(f"the chat template refuses it: {str(error).splitlines()[0][:120]}") from None
        return texts[0], spans[0] if spans else []

    def _locate(self, text: str, messages: Conversation, answers: list[str]) -> tuple[Span, ...]:
        """Return the position of each answer in ``text``: the one way to read it as template text around answers."""
        longest_run = max((len(run) for run in re.findall("x+", text)), default=0)
        nonce = "x" * (longest_run + 1)  # does not occur in the text
        marks = [f"Q{nonce}{i}Q" for i in range(len(answers))]
        waiting = iter(marks)
        masked = [Message(role=m["role"], content=next(waiting)) if m["role"] == "assistant" else m for m in messages]
        rest, _ = self._apply(masked)
        pieces = []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                raise UnusableRowError("the chat template leaves out or reorders an assistant turn")
            pieces.append(before)
        pieces.append(rest)
        if any(nonce in piece for piece in pieces):
            raise UnusableRowError("the chat template prints an assistant turn more than once")

        readings: list[tuple[int, tuple[Span, ...]]] = [(len(pieces[0]), ())] if text.startswith(pieces[0]) else []
        for answer, piece in zip(answers, pieces[1:], strict=True):
            readings = [
                (end + len(piece), (*spans, (start, end)))
                for start, spans in readings
                for end in _possible_ends(text, start, answer, piece)
            ]
        whole = [spans for finish, spans in readings if finish == len(text)]
        if len(whole) != 1:
            raise UnusableRowError(
                "the chat template alters an assistant turn, or an answer looks like the template's text"
            )
        return whole[0]

    # --- the tokens ---

    @functools.cached_property
    def _backend(self) -> Tokenizer:
        """Return the tokenizer without its last step: the same tokens, with offsets that include white space."""
        from tokenizers import Tokenizer

        original = self.tokenizer.backend_tokenizer
        steps = json.loads(original.to_str()) | {"post_processor": None, "truncation": None, "padding": None}
        backend = Tokenizer.from_str(json.dumps(steps))
        backend.encode_special_tokens = original.encode_special_tokens
        return backend

    def _targets(self, rendered: Rendered, ids: list[int], offsets: list[Span]) -> NDArray[np.bool_]:
        """Return the tokens of the answers and of the ends of their turns, bool[T]."""
        text = rendered.text
        starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T  # neither ever decreases
        targets = np.zeros(len(ids), bool)
        for start, end in rendered.spans or ():
            first = int(np.searchsorted(ends, start, side="right"))  # the first token that ends after `start`
            # A token that begins before the answer belongs to the answer if it only adds white space (" Hello"), and to
            # the template if it only takes white space from the answer (a header token with the blanks after it).
            if first < len(ids) and text[starts[first] : start].strip():
                if text[start : ends[first]].strip():
                    raise UnusableRowError("a token holds both the template's text and the answer's")
                first += 1
            stop = int(np.searchsorted(starts, end, side="left"))  # the first token that begins at `end` or later
            if first >= stop:
                raise UnusableRowError("an answer has no token of its own")
            last = stop - 1
            while last > first and not text[starts[last] : ends[last]].strip():
                last -= 1
            if ids[last] not in self._end_tokens:  # a marked span may hold the end token already
                while stop < len(ids) and not text[starts[stop] : ends[stop]].strip():
                    stop += 1
                if stop == len(ids) or ids[stop] not in self._end_tokens:
                    raise UnusableRowError("the chat template does not end an assistant turn as it usually does")
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
    """Return where the answer that begins at ``start`` may end: just before ``piece``, with only the answer between.

    Templates trim an answer or remove a part of it (the reasoning of earlier turns), so any part of it is accepted.
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
