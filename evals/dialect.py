"""What a server does not accept in a request: learnt from its refusals, once for all threads."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from evals.pace import RequestCancelledError

RENAMED = {"max_tokens": "max_completion_tokens"}
# What a refusal says of a part of a request. `system` is the role: its message is then joined to the user's first.
_NAMED = {
    "max_tokens": re.compile(
        r"\b(?:use|unsupported|not supported|instead|replaced|renamed)\b.{0,80}max_completion_tokens"
        r"|max_completion_tokens\W.{0,40}\b(?:instead|required)", re.I,
    ),
    "stream": re.compile(
        r"(?:only|must|require\w*|enable|set)\b.{0,60}\bstream|\bstream\w*\b.{0,40}\b(?:only|must|require)", re.I
    ),
    "stream_options": re.compile(r"stream_options|include_usage", re.I),
    "system": re.compile(
        r"\bsystem\b.{0,30}\b(?:role|message|instruction|prompt)|\b(?:role|developer instruction)s?\b.{0,60}"
        r"\b(?:system|not enabled|alternate)", re.I,
    ),
    "response_format": re.compile(r"response_?format|json_?schema|structured|guided|grammar|schema", re.I),
    "seed": re.compile(r"\bseed\b", re.I),
    "temperature": re.compile(r"\btemperature\b", re.I),
}  # fmt: skip
_OPTIONAL = ("response_format", "seed", "temperature")  # dropped in this order where a refusal names nothing
_UNNAMED = re.compile(
    r"not (?:permitted|supported|allowed|recognized)|unsupported|unrecognized|unknown|unexpected|"
    r"(?:invalid|extra|additional)[ _](?:param|arg|field|input|propert|key)", re.I,
)  # fmt: skip


class Dialect:
    """What a server was seen not to accept. All threads share it.

    Args:
        optional: what may be left out: ``response_format``, ``seed``, ``temperature``, and ``system`` for its role.

    Attributes:
        changes: the names of parts that are left out or written otherwise.
        proven: whether the server has accepted a request.
    """

    def __init__(self, optional: Sequence[str] = ()) -> None:
        self.optional, self.changes, self.proven = tuple(optional), frozenset[str](), False
        self._lock, self._first = threading.Lock(), threading.Lock()
        self._settled = False

    @property
    def omitted(self) -> tuple[str, ...]:
        """What is left out, in alphabetical order."""
        return self.omissions(self.changes)

    def omissions(self, changes: frozenset[str]) -> tuple[str, ...]:
        """Return which of the changes leave something out."""
        return tuple(sorted(changes & {*self.optional}))

    def spell(self, payload: Mapping[str, object], changes: frozenset[str]) -> dict[str, object]:
        """Return a request with these changes."""
        spelled = {}
        for name, value in payload.items():
            if name in changes and name in RENAMED:
                spelled[RENAMED[name]] = value
            elif name == "messages" and "system" in changes:
                spelled[name] = _without_system(value)
            elif name not in changes:
                spelled[name] = value
        if "stream" in changes:
            spelled["stream"] = True
            if "stream_options" not in changes:
                spelled["stream_options"] = {"include_usage": True}
        return spelled

    def learn(self, sent: Mapping[str, object], changes: frozenset[str], status: int, text: str) -> frozenset[str]:
        """Return the changes with which a refused request is worth sending again; the same if there are none."""
        for name, pattern in _NAMED.items():
            known = name in sent if name not in ("stream", "system") else self._may(name, sent)
            allowed = name in self.optional or name in ("max_tokens", "stream", "stream_options")
            crashed = status >= 500 and name != "response_format"
            if known and allowed and not crashed and name not in changes and pattern.search(text):
                return changes | {name}
        if status in (400, 422) and not self.proven and _UNNAMED.search(text):
            for name in _OPTIONAL:
                if name in sent and name in self.optional:
                    return changes | {name}
        return changes

    def _may(self, name: str, sent: Mapping[str, object]) -> bool:
        if name == "stream":
            return not sent.get("stream")
        messages = sent.get("messages")
        return isinstance(messages, list) and any(message.get("role") == "system" for message in messages)

    def accept(self, changes: frozenset[str]) -> None:
        """Keep what a request that the server accepted was sent without."""
        with self._lock:
            self.changes, self.proven = self.changes | changes, True

    @contextmanager
    def first(self, stop: threading.Event) -> Iterator[None]:
        """Let one thread send until it has learnt what the server accepts; the others wait for it.

        Raises:
            RequestCancelledError: ``stop`` was set meanwhile.
        """
        acquired = False
        while not self._settled and not (acquired := self._first.acquire(timeout=0.2)):
            if stop.is_set():
                raise RequestCancelledError
        try:
            yield
        finally:
            self._settled = True
            if acquired:
                self._first.release()


def _without_system(messages: object) -> object:
    """Put system messages in front of the first message of the user."""
    if not isinstance(messages, list):
        return messages
    system = [message["content"] for message in messages if message.get("role") == "system"]
    rest = [dict(message) for message in messages if message.get("role") != "system"]
    if rest:
        rest[0]["content"] = "\n\n".join([*map(str, system), str(rest[0]["content"])])
    return rest
