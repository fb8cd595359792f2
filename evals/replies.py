"""Read what OpenAI-compatible servers reply: completions, streams of events, and errors inside good responses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Reason = Literal[
    "rate_limited",  # the server asks to wait
    "server_error",  # a status of 500 or more
    "timeout",
    "connection",  # no connection, or it broke
    "bad_reply",  # not the JSON that it should be
    "empty",  # a reply without text
    "refused",  # a filter of the server stopped this request
    "rejected",  # the server does not accept this request
    "forbidden",  # the server does not serve this request to us
    "denied",  # the server does not accept us: key, model or address
    "unpaid",  # the account has no credit left
]

_SMALL = 1 << 53  # counts of tokens above this are nonsense
_BYTES_PER_TOKEN = 3  # English has 4 and more with current tokenizers, so estimates are rather too high
_UNPAID = re.compile(
    r"insufficient[_ ](quota|balance|credit|fund)|exceeded your current quota|credit balance|billing|top up", re.I
)
_FILTERED = re.compile(
    r"moderation|flagged|content[_ ](filter|policy|management)|safety (system|filter|policy)|"
    r"responsible_?ai|data_inspection_failed|prohibited (content|use)|usage polic",
    re.I,
)


@dataclass(frozen=True)
class Usage:
    """Tokens of prompts and of replies, as a server counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)

    def __bool__(self) -> bool:
        return bool(self.prompt_tokens or self.completion_tokens)


@dataclass(frozen=True)
class Completion:
    """A server's reply.

    Attributes:
        choice: the first of its choices.
        usage: tokens of this reply.
        billed: tokens of all replies to this request, the useless ones included; estimated where nobody counted them.
        sent: the request as it was sent in the end.
        omitted: what the server does not accept, and was left out.
        attempts: how often it was sent.
        seconds: from the first attempt to the reply.
        fingerprint: of the server's configuration, if it gives one.
    """

    choice: Mapping[str, object]
    usage: Usage = Usage()
    billed: Usage = Usage()
    sent: Mapping[str, object] = field(default_factory=dict)
    omitted: tuple[str, ...] = ()
    attempts: int = 1
    seconds: float = 0.0
    fingerprint: str | None = None

    @property
    def finish_reason(self) -> str | None:
        """Why the server stopped generating."""
        reason = self.choice.get("finish_reason")
        return reason if isinstance(reason, str) else None

    @property
    def text(self) -> str:
        """The generated text of a completion or of a chat message, without thoughts; empty where there is none."""
        message = self.choice.get("message")
        return _text(message.get("content") if isinstance(message, dict) else self.choice.get("text"))

    @property
    def estimated(self) -> int:
        """Tokens of everything that was generated, estimated from its length."""
        return tokens_of(json.dumps(self.choice, ensure_ascii=False))


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has at most."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


def reason_of(status: int, text: str = "") -> tuple[Reason, bool]:
    """Return the name of a refusal, and whether the same request may succeed soon."""
    if status == 402 or (400 <= status < 500 and status != 404 and _UNPAID.search(text)):
        return "unpaid", False
    if status in (400, 403, 422, 451) and _FILTERED.search(text):
        return "refused", False
    if status == 403:
        return "forbidden", False
    if status in (401, 404):
        return "denied", False
    if status == 413 or (status == 429 and re.search(r"request too large|reduce the (?:length|input)", text, re.I)):
        return "rejected", False
    if status in (409, 425, 429):
        return "rate_limited", True
    if status == 408:
        return "timeout", True
    return ("server_error", True) if status >= 500 else ("rejected", False)


def error_in(body: object) -> tuple[int | None, str] | None:
    """Return status and message of an error inside a response of status 200; None for a reply with a choice."""
    reply: Mapping[str, Any] = body if isinstance(body, dict) else {}
    choices, error = reply.get("choices"), reply.get("error")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and not (error := choice.get("error")):
        return None
    message = error.get("message") if isinstance(error, dict) else error
    code = str(error.get("code", error.get("status"))) if isinstance(error, dict) else ""
    detail = f"a reply without choices{f': {message[:300]}' if isinstance(message, str) else ''}"
    return (int(code) if re.fullmatch(r"[45]\d\d", code) else None), detail


def completion(body: Mapping[str, Any]) -> Completion:
    """Read a body for which :func:`error_in` returns None."""
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    prompt = counts.get("prompt_tokens", counts.get("input_tokens"))
    reply = counts.get("completion_tokens", counts.get("output_tokens"))
    fingerprint = body.get("system_fingerprint")
    return Completion(
        body["choices"][0],
        Usage(_count(prompt), _count(reply)),
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
    )


def parse_body(text: str, content_type: str) -> object:
    """Parse the JSON of a response, or put the events of a stream together.

    Raises:
        ValueError, RecursionError: it is neither.
    """
    if "text/event-stream" in content_type or text.startswith(("data:", "event:", ": ")):
        return _joined(_events(text))
    return json.loads(text)


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < _SMALL else 0


def _text(content: object) -> str:
    """Return the text of a message; of a list of parts, those that are text."""
    if isinstance(content, list):
        parts = [part if isinstance(part, str) else part.get("text") for part in content if _is_text(part)]
        return "".join(part for part in parts if isinstance(part, str))
    return "" if content is None else str(content)


def _is_text(part: object) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"))


def _events(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            event = json.loads(data)
            if isinstance(event, dict):
                yield event


def _joined(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Join the events of a stream to the reply that would have come without it.

    Raises:
        ValueError: the stream ended before the reply did.
    """
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": [], "text": []}
    finish, usage, seen = None, None, False
    for event in events:
        if "error" in event:
            return event
        usage = event.get("usage") or usage
        for choice in event.get("choices") or ():
            if isinstance(choice, dict) and not choice.get("index"):
                seen, finish = True, choice.get("finish_reason") or finish
                delta = choice.get("delta") or choice.get("message") or choice
                for name, parts in texts.items():
                    if value := _text(delta.get(name)):
                        parts.append(value)
    if not seen:
        raise ValueError("a stream of events without a reply")
    whole = {name: "".join(parts) for name, parts in texts.items() if parts}
    if finish is None and not whole:
        raise ValueError("a stream of events that broke off")
    text = whole.pop("text", None)
    choice = {"text": text} if text is not None else {"message": {"role": "assistant", "content": "", **whole}}
    return {"choices": [{**choice, "finish_reason": finish}], "usage": usage}
