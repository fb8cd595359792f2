"""Control strings (``<|im_end|>``) in contents: texts in which they stay text, and tokenizers that read them so."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from trainers.data.answers import Rendered
from trainers.data.conversation import UnusableRowError
from trainers.data.marks import FIRST_MARK, LAST_MARK
from trainers.data.template import ChatTemplate

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_FIRST_NAME, _BREAK = LAST_MARK + 1, "\U0010fffd"  # name of a control token, escape
PRIVATE = re.compile(f"[{chr(FIRST_MARK)}-{_BREAK}]")
"""The characters that serve as marks and names, which contents must not have."""
# Tags that answers hold in their own right, special tokens of some tokenizers though they are
_TAG = re.compile(r"</?[a-z][a-z_]*>")
_ALWAYS_TAG = re.compile(r"</?(think|thinking|tool_calls?|tool_responses?)>")


class ControlStrings:
    """The control strings of a tokenizer and its chat template.

    The control tokens that the template writes get private-use names, in a second copy of the tokenizer that knows them
    by no others.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Return a pattern of the control strings: special tokens, and others that the template writes."""
        found = []
        for token in self.template.tokenizer.added_tokens_decoder.values():
            name = token.content
            tag = _ALWAYS_TAG.fullmatch(name) or (not token.special and _TAG.fullmatch(name))
            if len(name) > 1 and name.strip() and not tag and (token.special or name in self.template.text):
                found.append(name)
        return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))) or r"(?!)")

    def escaped(self, value: object) -> object:
        """Return a tree whose texts have a break in every control string."""
        if isinstance(value, str):
            return self.pattern.sub(lambda match: f"{match[0][0]}{_BREAK}{match[0][1:]}", value)
        if isinstance(value, dict):
            return {self.escaped(key): self.escaped(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.escaped(item) for item in value]
        return value

    def named(self, rendered: Rendered) -> Rendered:
        """Return a text in which the template's control strings have names, and those of the contents no break.

        A text without breaks stays as it is.
        """
        if _BREAK not in rendered.text:
            return rendered
        names = self.names[2]
        pieces: list[str] = []
        places = np.arange(len(rendered.text) + 1)
        done = removed = 0
        for match in re.finditer(f"{self.pattern.pattern}|{_BREAK}", rendered.text):
            pieces += [rendered.text[done : match.start()], names.get(match[0], "")]
            places[done : match.end()] -= removed
            done, removed = match.end(), removed + len(match[0]) - len(pieces[-1])
        places[done:] -= removed
        text = "".join([*pieces, rendered.text[done:]])
        spans = tuple((int(places[start]), int(places[end])) for start, end in rendered.spans or ())
        return dataclasses.replace(rendered, text=text, spans=spans, named=True)

    @functools.cached_property
    def names(self) -> tuple[Tokenizer, dict[int, int], dict[str, str]]:
        """Return a tokenizer that knows control tokens only by private-use names.

        With it come the usual ids of its added tokens, and the name of each control string.
        """
        from tokenizers import Tokenizer

        steps = json.loads(self.template.backend.to_str())
        names: dict[str, str] = {}
        added = {token["content"]: token for token in steps["added_tokens"]}
        for text, token in added.items():
            if self.pattern.fullmatch(text):
                names[text] = token["content"] = chr(_FIRST_NAME + len(names))
        backend = Tokenizer.from_str(json.dumps(steps))
        # a name is not in the vocabulary, as some tokens are, so all added tokens may have other numbers
        ids = {backend.token_to_id(token["content"]): token["id"] for token in added.values()}
        return backend, cast("dict[int, int]", ids), names

    def ids(self, encoding: Encoding) -> NDArray[np.int32]:
        """Return the tokens of a text whose control strings have names.

        Raises:
            UnusableRowError: the vocabulary has a control string as a piece of ordinary text, and a content has it.
        """
        known = self.names[1]
        if any(token in self._control_ids and token not in known for token in encoding.ids):
            raise UnusableRowError("the tokenizer cannot encode the control strings in the contents as text")
        return np.array([known.get(token, token) for token in encoding.ids], np.int32)

    @functools.cached_property
    def _control_ids(self) -> frozenset[int]:
        unknown = self.template.tokenizer.unk_token  # stands for letters, and forges nothing
        known = self.template.tokenizer.get_added_vocab()
        return frozenset(known[text] for text in self.names[2] if text != unknown)

    @functools.cached_property
    def letters(self) -> Tokenizer:
        """Return the tokenizer that reads special tokens letter by letter, and adds its own at the ends as usual."""
        from tokenizers import Tokenizer

        steps = json.loads(self.template.tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
        backend = Tokenizer.from_str(json.dumps(steps))
        backend.encode_special_tokens = True
        return backend
