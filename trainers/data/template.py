"""A tokenizer's chat template: what it writes, and what a few probes say of how it writes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, cast

from harness.chat_templates import chat_template, chat_template_names
from harness.errors import MoemixError
from trainers.data.conversation import Message, UnusableRowError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Span = tuple[int, int]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = datetime(2024, 7, 26)
"""The date for templates that print today's: tokens must not depend on the day of their creation."""
_OPEN_THOUGHT = re.compile(r"<think>\s*$")
_CALL_ENDS = ("<|eom_id|>", "<|call|>", "<|observation|>")  # end a turn that calls a tool, and only such a turn


class ChatTemplate:
    """The chat template of a fast tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = cast("PreTrainedTokenizerFast", tokenizer)
        self._where = tokenizer.name_or_path or None
        if not tokenizer.is_fast:
            raise MoemixError(
                "the tokenizer has no character offsets", where=self._where, hint="use a fast one (tokenizer.json)"
            )

    @functools.cached_property
    def text(self) -> str:
        """Return the Jinja text.

        Raises:
            MoemixError: the tokenizer has no chat template.
        """
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError:
            raise MoemixError(
                "the tokenizer has no chat template",
                where=self._where,
                hint=f"give the model one, {self._suggestion}; or use the `text` adapter",
            ) from None

    def apply(
        self, messages: list[Message], tools: object = None, *, add_generation_prompt: bool = False
    ) -> tuple[str, list[Span]]:
        """Return the rendered text, and the characters that the template marks as generated."""
        from transformers.utils.chat_template_utils import render_jinja_template

        # transformers' own annotations fit neither the special tokens nor what it returns
        render = cast("Callable[..., tuple[list[str], list[list[Span]]]]", render_jinja_template)
        try:
            texts, spans = render(
                conversations=[messages],
                tools=tools or None,
                chat_template=self.text,
                return_assistant_tokens_mask=self.is_marked,
                add_generation_prompt=add_generation_prompt,
                strftime_now=_TODAY.strftime,
                **self._special_tokens,
            )
        except Exception as error:  # Jinja's own, and whatever an expression in it may raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnusableRowError(f"the chat template refuses it: {reason[:120]}") from None
        return texts[0], spans[0] if spans else []

    @functools.cached_property
    def _special_tokens(self) -> dict[str, str]:
        return self.tokenizer.special_tokens_map

    @functools.cached_property
    def is_marked(self) -> bool:
        """Return whether the template marks what the assistant writes."""
        return bool(_GENERATION.search(self.text))

    @functools.cached_property
    def end_tokens(self) -> frozenset[int]:
        """Return the tokens that end the assistant's last turn and earlier ones, found by rendering a sample.

        Raises:
            MoemixError: there is no chat template, or none of the tokens that end a turn is a special one.
        """
        turns: list[Message] = [
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": "This one."},
            {"role": "user", "content": "And then?"},
            {"role": "assistant", "content": "That one."},
        ]
        ends = {self._end_after("This one.", turns[:2])}
        try:
            text, _ = self.apply(turns)
        except UnusableRowError:  # a template for single questions
            text = ""
        ends |= {self._end_after(turn["content"], turns) for turn in turns[1::2] if turn["content"] in text}
        if None in ends:
            raise MoemixError(
                "the chat template ends the assistant's turn with no special token: a model could not learn to stop",
                where=self._where,
                hint=f"give the model another one, {self._suggestion}",
            )
        return frozenset(cast("set[int]", ends))

    def _end_after(self, answer: str, messages: list[Message]) -> int | None:
        """Return the special token that follows ``answer``, with at most white space before it; None if none does."""
        try:
            text, _ = self.apply(messages)
        except UnusableRowError as reason:
            raise MoemixError(
                f"the chat template cannot render a question and an answer: {reason}", where=self._where
            ) from None
        encoding = self.backend.encode(text, add_special_tokens=False)
        added = self.tokenizer.added_tokens_decoder
        finish = text.rfind(answer) + len(answer)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if start >= finish and text[start:end].strip():
                return int(token) if token in added or token in self.tokenizer.all_special_ids else None
        return None

    @property
    def _suggestion(self) -> str:
        """Return the setting that helps, with the shipped templates that have most of this tokenizer's tokens."""
        known = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        texts = {name: chat_template(name) for name in chat_template_names()}
        uses = {name: sum(token in text for token in known) for name, text in texts.items()}
        best = [name for name, count in uses.items() if count == max(uses.values()) > 0] or ["vicuna", "zephyr"]
        return (
            f"`chat_template: {' or '.join(best)}` (shipped), a file, or Jinja with {{{{ eos_token }}}} after an answer"
        )

    @functools.cached_property
    def end_texts(self) -> tuple[str, ...]:
        """Return the tokens that end a turn, as text."""
        tokens = {*self.end_tokens, *self.call_ends}
        return tuple(cast("list[str]", self.tokenizer.convert_ids_to_tokens(sorted(tokens))))

    @functools.cached_property
    def call_ends(self) -> frozenset[int]:
        """Return the tokens that end a turn that calls a tool, and no other."""
        known = self.tokenizer.get_added_vocab()
        return frozenset(known[text] for text in _CALL_ENDS if text in known)

    @functools.cached_property
    def takes_system(self) -> bool:
        """Return whether the template prints a system turn."""
        turns: list[Message] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": "This one."},
        ]
        try:
            return "Be brief." in self.apply(turns)[0]
        except UnusableRowError:
            return False

    @functools.cached_property
    def heads(self) -> tuple[str, ...]:
        """Return the texts after which the assistant begins to write, as the template has them; the best first."""
        turns: list[Message] = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This one."}]
        whole, _ = self.apply(turns)
        sample = whole[whole.find("Which?") + len("Which?") : whole.find("This one.")]
        try:
            question, prompt = (self.apply(turns[:1], add_generation_prompt=asked)[0] for asked in (False, True))
        except UnusableRowError:
            question = prompt = ""
        head = prompt.removeprefix(question) if prompt.startswith(question) else ""
        return tuple(filter(str.strip, (head, _OPEN_THOUGHT.sub("", head), sample.rstrip())))

    @functools.cached_property
    def backend(self) -> Tokenizer:
        """Return the tokenizer without its last step: the same tokens, with offsets that include white space."""
        from tokenizers import Tokenizer

        original = self.tokenizer.backend_tokenizer
        steps = json.loads(original.to_str()) | {"post_processor": None, "truncation": None, "padding": None}
        backend = Tokenizer.from_str(json.dumps(steps))
        backend.encode_special_tokens = original.encode_special_tokens
        return backend
