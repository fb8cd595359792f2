"""Convert conversations to tokens, and find the exact tokens that the assistant must learn to write.

A conversation is rendered and tokenised as a whole, so token boundaries are those of generation. Training targets are
the tokens of the answer, with its thoughts and calls as the template writes them, and what follows up to the token that
ends the turn, because a model must learn to stop. The texts of a conversation are text: where one mentions a control
token (``<|im_end|>``), that is encoded letter by letter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from trainers.data.answers import Locator, Rendered
from trainers.data.control import PRIVATE, ControlStrings
from trainers.data.conversation import Conversation, Message, UnusableRowError
from trainers.data.marks import check_answers, folded, texts_of
from trainers.data.template import ChatTemplate, Span

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

Tokens = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids, int32[T], and which of them are training targets, bool[T]."""
FOLDED = "the system text begins the first user turn (`system: fold`), because the chat template has no system turn"


class Encoder:
    """Convert conversations to tokens and loss masks, for one tokenizer and its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.template = ChatTemplate(tokenizer)
        self.tokenizer = self.template.tokenizer
        self._locator = Locator(self.template)
        self._control = ControlStrings(self.template)

    def render(
        self,
        content: Conversation | list[Message] | str,
        *,
        control: Literal["text", "tokens"] | None = None,
        system: Literal["fold", "leave_out"] = "fold",
    ) -> Rendered:
        """Return the text of a conversation and the positions of its answers, or raw text as it is.

        A blank system turn is left out. ``control`` says what a control string in the contents becomes; None: text in
        turns, tokens in raw text. ``system`` says what is done with a system turn that the template has no place for:
        its text begins the first user turn, or the row is left out.

        Raises:
            UnusableRowError: there is no answer, one is empty, or the template refuses or changes the conversation.
            MoemixError: there is no chat template, or it has no token that ends the assistant's turn.
        """
        if isinstance(content, str):
            return Rendered(content, named=control == "text")
        tools, notes = getattr(content, "tools", ()), list(getattr(content, "notes", ()))
        messages = [turn for turn in content if turn["role"] != "system" or turn["content"].strip()]
        check_answers(messages)
        whole = "\0".join(texts_of([messages, tools]))
        if PRIVATE.search(whole):
            raise UnusableRowError("a text has characters of the last private-use plane, which are needed as marks")
        if messages[0]["role"] == "system" and not self.template.takes_system:
            if system == "leave_out":
                raise UnusableRowError("the chat template has no system turn")
            messages = folded(messages)
            notes.append(FOLDED)
        found = tuple(self._control.pattern.findall(whole))
        if found and control != "tokens":
            messages, tools = cast("list[Message]", self._control.escaped(messages)), self._control.escaped(tools)
            notes.append("control strings in contents were encoded as text")
        rendered = replace(self._locator.locate(messages, tools, notes), control=found)
        return self._control.named(rendered) if control != "tokens" else rendered

    def encode(self, rendered: list[Rendered]) -> list[Tokens | UnusableRowError]:
        """Return the tokens of each text, or why there are none. Raw text ends with the end-of-sequence token."""
        encoded: dict[int, Tokens | UnusableRowError] = {}
        for named in (False, True):
            chats = [i for i, item in enumerate(rendered) if item.spans is not None and item.named == named]
            plain = [i for i, item in enumerate(rendered) if item.spans is None and item.named == named]
            if chats:
                backend = self._control.names[0] if named else self.template.backend
                batch = backend.encode_batch([rendered[i].text for i in chats], add_special_tokens=False)
                for i, encoding in zip(chats, batch, strict=True):
                    try:
                        ids = self._control.ids(encoding) if named else np.array(encoding.ids, np.int32)
                        encoded[i] = ids, self._targets(rendered[i], ids, encoding)
                    except UnusableRowError as reason:
                        encoded[i] = reason
            if plain:
                texts = [rendered[i].text for i in plain]
                raw = [item.ids for item in self._control.letters.encode_batch(texts)] if named else self._batch(texts)
                for i, whole in zip(plain, raw, strict=True):
                    encoded[i] = self._plain(whole)
        return [encoded[i] for i in range(len(rendered))]

    def control_strings(self, text: str) -> list[str]:
        """Return the control strings in a text."""
        return self._control.pattern.findall(text)

    def _batch(self, texts: list[str]) -> list[list[int]]:
        return cast("list[list[int]]", self.tokenizer(texts, verbose=False)["input_ids"])

    def _targets(self, rendered: Rendered, ids: NDArray[np.int32], encoding: Encoding) -> NDArray[np.bool_]:
        """Return the tokens of the answers and of the ends of their turns, bool[T]."""
        text = rendered.text
        targets = np.zeros(len(ids), bool)
        stops = self.template.end_tokens | self.template.call_ends

        def characters(token: int) -> Span:
            return cast("Span", encoding.token_to_chars(token))

        def blank(token: int) -> bool:
            return not text[slice(*characters(token))].strip()

        for start, end in rendered.spans or ():
            first = _first_token(encoding, start, text, len(ids))  # the first token that ends after `start`
            # A token that begins before the answer belongs to the answer if it only adds white space (" Hello"), and to
            # the template if it only takes white space from the answer (a header token with the blanks after it).
            if first < len(ids) and text[(place := characters(first))[0] : start].strip():
                if text[start : place[1]].strip():
                    raise UnusableRowError("a token holds both the template's text and the answer's")
                first += 1
            stop = _first_token(encoding, end, text, len(ids))
            while stop < len(ids) and characters(stop)[0] < end:  # the first token that begins at `end` or later
                stop += 1
            if first >= stop:
                raise UnusableRowError("an answer has no token of its own")
            last = stop - 1
            while last > first and blank(last):
                last -= 1
            if ids[last] not in stops:  # a marked span may hold the end token already
                while stop < len(ids) and blank(stop):
                    stop += 1
                if stop == len(ids) or ids[stop] not in stops:
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


def _first_token(encoding: Encoding, place: int, text: str, end: int) -> int:
    """Return the first token that ends after a character; ``end`` if none does.

    This is the first token of that character, or of the next one that any token has: normalising may drop some.
    """
    for character in range(place, len(text)):
        if (token := encoding.char_to_token(character)) is not None:
            return int(token)
    return end
