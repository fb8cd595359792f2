"""Convert conversations to tokens, and find the exact tokens that the assistant must learn to write.

A conversation is rendered and tokenised once, as a whole, so token boundaries are those of generation. It is rendered a
second time with private-use characters as marks at the edges of every text of the assistant (thoughts, answers, names
of called tools) and inside every other text. Without the marks, both renderings must agree; then the marks say where
the template put each text. If the template marks the assistant's characters itself (``{% generation %}``), its marks
are used. Where there is no such reading, the row is not used.

Training targets are the tokens of the answer, with its thoughts and calls as the template writes them, and what follows
up to the token that ends the turn, because a model must learn to stop.

The texts of a conversation are text: where one mentions a control token (``<|im_end|>``), that is encoded letter by
letter. The control tokens that the template writes get private-use names for that, in a second copy of the tokenizer.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from harness.chat_templates import chat_template, chat_template_names
from harness.errors import MoemixError
from trainers.data.adapters import Conversation, Message, UnusableRowError
from trainers.data.marks import FIRST_MARK, Field, add_marks, check_answers, folded, shapes, texts_of, whose

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Span = tuple[int, int]
Tokens = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids, int32[T], and which of them are training targets, bool[T]."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = datetime(2024, 7, 26)
"""The date for templates that print today's: tokens must not depend on the day of their creation."""

_NAME, _BREAK = 0x10F000, "\U0010fffd"  # first name of a control token, escape
_MARKS = re.compile(f"[{chr(FIRST_MARK)}-{chr(_NAME - 1)}]")
_PRIVATE = re.compile(f"[{chr(FIRST_MARK)}-{_BREAK}]")
_OPEN_THOUGHT = re.compile(r"<think>\s*$")
# Tags that answers hold in their own right, special tokens of some tokenizers though they are
_TAG = re.compile(r"</?[a-z][a-z_]*>")
_ALWAYS_TAG = re.compile(r"</?(think|thinking|tool_calls?|tool_responses?)>")
_CALL_ENDS = ("<|eom_id|>", "<|call|>", "<|observation|>")  # end a turn that calls a tool, and only such a turn


@dataclass(frozen=True)
class Rendered:
    """A text to tokenise.

    Attributes:
        text: the text; in it, control tokens have private-use names if ``named`` is true.
        spans: the characters of its answers; None for raw text, which is all target.
        named: whether some control string in it is text.
        notes: what was changed or left out so that the row could be used.
    """

    text: str
    spans: tuple[Span, ...] | None = None
    named: bool = False
    notes: tuple[str, ...] = ()


class Encoder:
    """Convert conversations to tokens and loss masks, for one tokenizer and its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = cast("PreTrainedTokenizerFast", tokenizer)
        self._where = tokenizer.name_or_path or None
        if not tokenizer.is_fast:
            raise MoemixError(
                "the tokenizer has no character offsets", where=self._where, hint="use a fast one (tokenizer.json)"
            )

    def render(
        self, content: Conversation | list[Message] | str, *, control: Literal["text", "tokens"] | None = None
    ) -> Rendered:
        """Return the text of a conversation and the positions of its answers, or raw text as it is.

        A blank system turn is left out; one that the template has no place for begins the first user turn.

        Args:
            content: turns, or raw text.
            control: what a control string in the contents becomes; None: text in turns, tokens in raw text.

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
        if _PRIVATE.search(whole):
            raise UnusableRowError("a text has characters of the last private-use plane, which are needed as marks")
        if messages[0]["role"] == "system" and not self._takes_system:
            messages = folded(messages)
            notes.append("the system text begins the first user turn, because the chat template has no system turn")
        if control != "tokens" and self._control.search(whole):
            messages, tools = cast("list[Message]", self._escaped(messages)), self._escaped(tools)
            notes.append("control strings in contents were encoded as text")
        rendered = self._locate(messages, tools, notes)
        if control != "tokens" and _BREAK in rendered.text:
            return self._named(rendered)
        return rendered

    def encode(self, rendered: list[Rendered]) -> list[Tokens | UnusableRowError]:
        """Return the tokens of each text, or why there are none. Raw text ends with the end-of-sequence token."""
        encoded: dict[int, Tokens | UnusableRowError] = {}
        for named in (False, True):
            chats = [i for i, item in enumerate(rendered) if item.spans is not None and item.named == named]
            plain = [i for i, item in enumerate(rendered) if item.spans is None and item.named == named]
            if chats:
                backend = self._names[0] if named else self._backend
                batch = backend.encode_batch([rendered[i].text for i in chats], add_special_tokens=False)
                for i, encoding in zip(chats, batch, strict=True):
                    ids = np.array(encoding.ids, np.int32)
                    if named:
                        ids = np.array([self._names[1].get(token, token) for token in ids.tolist()], np.int32)
                    try:
                        encoded[i] = ids, self._targets(rendered[i], ids, encoding)
                    except UnusableRowError as reason:
                        encoded[i] = reason
            if plain:
                texts = [rendered[i].text for i in plain]
                raw = [item.ids for item in self._letters.encode_batch(texts)] if named else self._batch(texts)
                for i, whole in zip(plain, raw, strict=True):
                    encoded[i] = self._plain(whole)
        return [encoded[i] for i in range(len(rendered))]

    def control_strings(self, text: str) -> list[str]:
        """Return the control strings in a text: of one whose control tokens are named, those of the contents."""
        return self._control.findall(text)

    # --- the template ---

    @functools.cached_property
    def _template(self) -> str:
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError:
            raise MoemixError(
                "the tokenizer has no chat template",
                where=self._where,
                hint=f"give the model one, {self._suggestion}; or use the `text` adapter",
            ) from None

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
            text, _ = self._apply(turns)
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
    def _takes_system(self) -> bool:
        """Return whether the template prints a system turn."""
        turns: list[Message] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": "This one."},
        ]
        try:
            return "Be brief." in self._apply(turns)[0]
        except UnusableRowError:
            return False

    @functools.cached_property
    def _heads(self) -> tuple[str, ...]:
        """Return the texts after which the assistant begins to write, as the template has them; the best first."""
        turns: list[Message] = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This one."}]
        whole, _ = self._apply(turns)
        sample = whole[whole.find("Which?") + len("Which?") : whole.find("This one.")]
        try:
            question, prompt = (self._apply(turns[:1], add_generation_prompt=asked)[0] for asked in (False, True))
        except UnusableRowError:
            question = prompt = ""
        head = prompt.removeprefix(question) if prompt.startswith(question) else ""
        return tuple(filter(str.strip, (head, _OPEN_THOUGHT.sub("", head), sample.rstrip())))

    @functools.cached_property
    def _keeps_blanks(self) -> bool:
        """Return whether the template keeps white space at the beginning of an answer."""
        turns: list[Message] = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This one."}]
        text, _ = self._apply(turns)
        turns[1] = {"role": "assistant", "content": "\n \nThis one."}
        return self._apply(turns)[0] == text.replace("This one.", "\n \nThis one.")

    def _apply(
        self, messages: list[Message], tools: object = None, *, add_generation_prompt: bool = False
    ) -> tuple[str, list[Span]]:
        """Return the rendered text, and the characters that the template marks as generated."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        # transformers' own annotations fit neither the special tokens nor what it returns
        render = cast("Callable[..., tuple[list[str], list[list[Span]]]]", render_jinja_template)
        try:
            texts, spans = render(
                conversations=[messages],
                tools=tools or None,
                chat_template=self._template,
                return_assistant_tokens_mask=self._is_marked,
                add_generation_prompt=add_generation_prompt,
                strftime_now=_TODAY.strftime,
                **self.tokenizer.special_tokens_map,
            )
        except (TemplateError, TypeError, KeyError, ValueError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnusableRowError(f"the chat template refuses it: {reason[:120]}") from None
        return texts[0], spans[0] if spans else []

    @functools.cached_property
    def _is_marked(self) -> bool:
        return bool(_GENERATION.search(self._template))

    # --- where the answers are ---

    def _locate(self, messages: list[Message], tools: object, notes: list[str]) -> Rendered:
        """Return the rendered conversation with the position of each answer, by the first shape that fits."""
        refused = UnusableRowError("")
        for shaped in shapes(messages):
            marked, fields = add_marks(shaped)
            try:
                text, _ = self._apply(shaped, tools)
                with_marks, generated = self._apply(marked, tools)
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
        for mark, place in zip(marks, np.cumsum([len(piece) for piece in pieces]).tolist(), strict=False):
            if mark in at:
                raise UnusableRowError(
                    f"the chat template prints an {whose(messages, fields, mark)} turn more than once"
                )
            at[mark] = place
        if marks != sorted(marks):
            raise UnusableRowError("the chat template leaves out or reorders an assistant turn")
        if tools and self._apply(messages)[0] == text:
            raise UnusableRowError("the chat template leaves out the schemas of the tools")
        notes = [*notes, *self._check_whole(messages, fields, text, at)]
        if self._is_marked:
            shift = np.cumsum([0, *(len(piece) + 1 for piece in pieces)])  # where each mark stands in the marked text
            generated = [(s - int(np.sum(shift[1:-1] <= s)), e - int(np.sum(shift[1:-1] <= e))) for s, e in generated]
        spans = []
        for turn, message in enumerate(messages):
            if message["role"] != "assistant" or not message.get("train", True):
                continue
            mine = [i for i, field in enumerate(fields) if field.turn == turn and 2 * i in at]
            first, last = at[2 * mine[0]], at[2 * mine[-1] + 1]
            if self._is_marked:
                around = [span for span in generated if span[0] < last and first < span[1]]
                inside = (at[2 * i] >= start and at[2 * i + 1] <= end for start, end in around for i in mine)
                if not any(inside):
                    raise UnusableRowError("the chat template's {% generation %} marks are not on the answers")
                spans += [span for span in around if text[slice(*span)].strip()]
            else:
                spans.append(self._span(text, fields, mine, at))
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
                if len(beside) == 1:
                    raise UnusableRowError("the chat template leaves out the thoughts of a turn that has nothing else")
                cut = True
            elif text[at.get(2 * i, 0) : at.get(2 * i + 1, 0)] != field.text:
                raise UnusableRowError("the chat template alters an assistant turn")
        if cut:
            yield "the chat template left out thoughts"

    def _span(self, text: str, fields: list[Field], mine: list[int], at: Mapping[int, int]) -> Span:
        """Return where the assistant wrote a turn whose texts are the fields ``mine``."""
        first, start, end = fields[mine[0]], at[2 * mine[0]], at[2 * mine[-1] + 1]
        if first.kind == "text":
            if self._keeps_blanks and text.endswith(first.lead, 0, start):
                start -= len(first.lead)
        else:  # the template may open the thought or the call with text that the model writes as well
            before = max((place for mark, place in at.items() if mark < 2 * mine[0]), default=0)
            for head in self._heads:
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
            ends = [found for mark in self._end_texts if (found := text.find(mark, end, bound)) >= 0]
            if not ends:
                raise UnusableRowError("the chat template does not end a call of a tool as it ends other turns")
            end = min(ends)
        return start, end

    @functools.cached_property
    def _end_texts(self) -> tuple[str, ...]:
        tokens = {*self.end_tokens, *self._call_ends}
        return tuple(cast("list[str]", self.tokenizer.convert_ids_to_tokens(sorted(tokens))))

    @functools.cached_property
    def _call_ends(self) -> frozenset[int]:
        known = self.tokenizer.get_added_vocab()
        return frozenset(known[text] for text in _CALL_ENDS if text in known)

    # --- control strings in contents ---

    @functools.cached_property
    def _control(self) -> re.Pattern[str]:
        """Return a pattern of the control strings: special tokens, and others that the template writes."""
        found = []
        for token in self.tokenizer.added_tokens_decoder.values():
            name = token.content
            tag = _ALWAYS_TAG.fullmatch(name) or (not token.special and _TAG.fullmatch(name))
            if len(name) > 1 and name.strip() and not tag and (token.special or name in self._template):
                found.append(name)
        return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))) or r"(?!)")

    def _escaped(self, value: object) -> object:
        """Return a tree whose texts have a break in every control string."""
        if isinstance(value, str):
            return self._control.sub(lambda match: f"{match[0][0]}{_BREAK}{match[0][1:]}", value)
        if isinstance(value, dict):
            return {key: self._escaped(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._escaped(item) for item in value]
        return value

    def _named(self, rendered: Rendered) -> Rendered:
        """Return a text in which the template's control strings have names, and those of the contents no break."""
        names = self._names[2]
        pieces: list[str] = []
        places = np.arange(len(rendered.text) + 1)
        done = removed = 0
        for match in re.finditer(f"{self._control.pattern}|{_BREAK}", rendered.text):
            pieces += [rendered.text[done : match.start()], names.get(match[0], "")]
            places[done : match.end()] -= removed
            done, removed = match.end(), removed + len(match[0]) - len(pieces[-1])
        places[done:] -= removed
        text = "".join([*pieces, rendered.text[done:]])
        spans = tuple((int(places[start]), int(places[end])) for start, end in rendered.spans or ())
        return Rendered(text, spans, named=True, notes=rendered.notes)

    @functools.cached_property
    def _names(self) -> tuple[Tokenizer, dict[int, int], dict[str, str]]:
        """Return a tokenizer that knows control tokens only by private-use names; name id → id; string → name."""
        from tokenizers import Tokenizer

        steps = json.loads(self._backend.to_str())
        names: dict[str, str] = {}
        for token in steps["added_tokens"]:
            if self._control.fullmatch(token["content"]):
                names[token["content"]] = token["content"] = chr(_NAME + len(names))
        backend = Tokenizer.from_str(json.dumps(steps))
        ids = {backend.token_to_id(name): self._backend.token_to_id(text) for text, name in names.items()}
        return backend, cast("dict[int, int]", ids), names

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

    @functools.cached_property
    def _letters(self) -> Tokenizer:
        """Return the tokenizer that reads special tokens letter by letter, and adds its own at the ends as usual."""
        from tokenizers import Tokenizer

        steps = json.loads(self.tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
        backend = Tokenizer.from_str(json.dumps(steps))
        backend.encode_special_tokens = True
        return backend

    def _batch(self, texts: list[str]) -> list[list[int]]:
        return cast("list[list[int]]", self.tokenizer(texts, verbose=False)["input_ids"])

    def _targets(self, rendered: Rendered, ids: NDArray[np.int32], encoding: Encoding) -> NDArray[np.bool_]:
        """Return the tokens of the answers and of the ends of their turns, bool[T]."""
        text = rendered.text
        targets = np.zeros(len(ids), bool)
        stops = self.end_tokens | self._call_ends

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
